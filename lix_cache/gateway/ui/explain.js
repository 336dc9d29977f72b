// Why a question would hit or miss: its neighbours, the margin, the guards and the decision.

import { get, post } from "./api.js";
import { meter } from "./charts.js";
import { card, empty, failure, h, loading, newId, table } from "./dom.js";
import { count, labelOf, meaning, moment, rest } from "./words.js";

const PATHS = ["/v1/chat/completions", "/v1/responses", "/v1/messages"];
const BLIND = ["policy", "redis", "empty", "no_embedding", "embedder_failed", "embedder_timeout"];
const number = (value) => (value === null || value === undefined || !Number.isFinite(value) ? "–" : value.toFixed(3));
const letter = (answer) => (answer < 26 ? String.fromCharCode(65 + answer) : String(answer + 1));

// The steps of the decision in their order. A step that was not reached is said to be so.
function steps(found) {
  const least = found.thresholds;
  const guard = found.neighbours.find((one) => one.guard);
  const list = [
    ["Similarity", "below_threshold", `${number(found.similarity)}, at least ${number(least.threshold)}`,
      meter(found.similarity, found.similarity >= least.threshold ? "hit-l1-exact" : "miss", least.threshold)],
    ["Margin over other answers", "margin", found.margin === null ? "no other answer is near" : `${number(found.margin)}, at least ${number(least.margin)}`],
    ["Score", "score", `${number(found.score)}${least.score === null ? "" : `, at least ${number(least.score)}`}; ${count(found.votes)} ${found.votes === 1 ? "vote" : "votes"}`],
    ["Guards", "guard", found.reason === "guard" ? found.detail : guard ? "no objection to the entry that answers" : "no objection"],
  ];
  if (found.has_verifier) list.push(["Verifier", "verifier", found.reason === "verifier" ? "says no" : "agrees"]);
  const stop = list.findIndex(([, reason]) => reason === found.reason);
  return h("ol", { class: "ladder" }, list.map(([name, , said, drawn], i) => {
    const state = stop === -1 || i < stop ? "passed" : i === stop ? "stopped" : "skipped";
    const word = { passed: "passed", stopped: "stops here", skipped: "not reached" }[state];
    return h("li", { class: state }, h("span", { class: "name" }, name), h("span", { class: "word" }, word),
      h("span", { class: "said" }, state === "skipped" ? "" : said), state === "skipped" ? null : drawn);
  }));
}

function neighbours(found) {
  const shown = table("Neighbours", [
    { label: "Stored question", kind: "wide" }, { label: "Similarity", kind: "number bar" },
    { label: "Answer" }, { label: "Guards" }, { label: "Ends in", kind: "number" },
  ]);
  const most = found.thresholds.threshold;
  shown.update(found.neighbours.map((one) => [
    h("span", { class: "words" }, one.text),
    [h("span", null, number(one.similarity)), meter(one.similarity, one.similarity >= most ? "hit-l1-exact" : "miss", most)],
    h("span", { class: "answer" }, letter(one.answer)),
    one.guard ? [h("code", null, one.guard), h("span", { class: "muted" }, ` ${one.detail}`)] : "–",
    rest(one.ttl_seconds),
  ]));
  return shown.node;
}

function verdict(cache, reason, detail) {
  const isHit = cache.startsWith("hit");
  const text = isHit ? "Would be answered from the cache" : cache === "bypass" ? "Would be passed through" : "Would go to the provider";
  return h("div", { class: `verdict tone-${cache}` },
    h("p", { class: "lead" }, text, " ", h("span", { class: `badge tone-${cache}` }, labelOf(cache))),
    h("p", null, h("code", null, reason), " ", meaning(reason, cache), detail && detail !== reason ? ` — ${detail}` : ""));
}

function byMeaning(found) {
  const parts = [verdict(found.cache, found.reason, found.detail)];
  const isExact = found.reason === "exact";
  if (isExact) parts.push(h("p", { class: "muted" }, "The same words are stored, so no neighbour had to be asked."));
  if (!isExact && !BLIND.includes(found.reason) && found.neighbours.length) parts.push(card("The decision", steps(found)));
  if (found.neighbours.length) {
    parts.push(card("Neighbours",
      h("p", { class: "muted" }, `The nearest of ${count(found.entries)} in this scope. Equal letters answer the same; the mark is the least similarity.`),
      neighbours(found)));
  }
  return parts;
}

function whole(found) {
  if (found.cache === "bypass") return [verdict("bypass", found.reason, "")];
  const meant = found.by_meaning;
  const isFull = meant && meant.neighbours;
  const exact = found.cache === "hit-l1-exact";
  const word = (value) => (value === undefined ? "off" : value ? "there" : "not there");
  const parts = [];
  if (exact || !isFull) parts.push(verdict(found.cache, exact ? (found.memory ? "memory" : "redis") : (meant && meant.reason) || "exact", ""));
  parts.push(h("dl", { class: "health" },
    h("div", null, h("dt", null, "Key"), h("dd", null, h("code", null, found.key.slice(0, 16)))),
    h("div", null, h("dt", null, "In this process"), h("dd", null, word(found.memory))),
    h("div", null, h("dt", null, "In Redis"), h("dd", null, word(found.redis)))));
  if (isFull && !exact) parts.push(byMeaning(meant));
  return parts;
}

function shownIn(out, work) {
  return async (event) => {
    event.preventDefault();
    out.replaceChildren(loading("the cache"));
    try {
      out.replaceChildren(...(await work()).flat());
    } catch (error) {
      out.replaceChildren(failure(error));
    }
  };
}

function nameOf(place) {
  const parts = [place.tenant, place.protocol, place.model];
  if (place.namespace) parts.push(place.namespace);
  return `${parts.join(" · ")} (${place.body}, ${count(place.count)} asked, last ${moment(place.last).slice(-5)})`;
}

function byQuestion(places) {
  const out = h("div", { class: "out", "aria-live": "polite" });
  const place = h("select", { id: "place" }, places.map((one) => h("option", { value: one.id }, nameOf(one))));
  const question = h("textarea", {
    id: "question", rows: "2", required: true, maxlength: "8000", placeholder: "How do I reset my password?",
    onkeydown: (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    },
  });
  const form = h("form", {
    class: "ask", onsubmit: shownIn(out, async () =>
      byMeaning(await post("view/explain", { place: place.value, question: question.value }))),
  },
  h("div", { class: "field" }, h("label", { for: "question" }, "Question"), question),
  h("div", { class: "field" }, h("label", { for: "place" }, "Where it is asked"), place),
  h("p", { class: "help" }, "Answers are shared inside one scope only: tenant, model, account, system prompt and all settings must match. These scopes were used lately."),
  h("button", { type: "submit", class: "main" }, "Explain"));
  return [h("div", { class: "card" }, form), out];
}

function byRequest(tenant) {
  const out = h("div", { class: "out", "aria-live": "polite" });
  const ids = ["path", "who", "headers", "body"].map(newId);
  const wrong = h("p", { class: "wrong", role: "alert" });
  const path = h("select", { id: ids[0] }, PATHS.map((one) => h("option", { value: one }, one)));
  const who = h("input", { id: ids[1], value: tenant, spellcheck: "false", required: true });
  const headers = h("textarea", { id: ids[2], rows: "2", spellcheck: "false", value: "{}" });
  const body = h("textarea", {
    id: ids[3], rows: "9", spellcheck: "false",
    value: JSON.stringify({ model: "demo", messages: [{ role: "user", content: "How do I reset my password?" }] }, null, 2),
  });
  const run = shownIn(out, async () => whole(await post("explain", {
    tenant: who.value, path: path.value, headers: JSON.parse(headers.value || "{}"), body: JSON.parse(body.value),
  })));
  const form = h("form", {
    class: "ask",
    onsubmit: (event) => {
      wrong.textContent = "";
      for (const [name, field] of [["Headers", headers], ["Body", body]]) {
        try {
          JSON.parse(field.value || "{}");
          field.removeAttribute("aria-invalid");
        } catch {
          event.preventDefault();
          field.setAttribute("aria-invalid", "true");
          wrong.textContent = `${name}: that is not JSON.`;
          field.focus();
          return;
        }
      }
      run(event);
    },
  },
  h("div", { class: "two" },
    h("div", { class: "field" }, h("label", { for: ids[0] }, "Path"), path),
    h("div", { class: "field" }, h("label", { for: ids[1] }, "Tenant"), who)),
  h("div", { class: "field" }, h("label", { for: ids[3] }, "Body, as the client sends it"), body),
  h("div", { class: "field" }, h("label", { for: ids[2] }, "Headers, such as authorization: the account is a part of the key"), headers),
  wrong, h("button", { type: "submit" }, "Explain the request"));
  return h("details", { class: "card" }, h("summary", null, "Explain a whole request"), form, out);
}

export function explain(tools) {
  async function load() {
    try {
      const found = await get("view/places");
      if (!tools.isShown()) return;
      const intro = h("p", { class: "intro" }, "Type a question and see what the cache would do with it. It is sent nowhere and counts nothing.");
      let first;
      if (!found.is_on) {
        first = [empty("This gateway answers exact requests only.",
          h("p", null, "Answers by meaning need an embedder:"),
          h("pre", { tabindex: "0", "aria-label": "Example" }, "lix-cache serve --upstream URL --embedder all-MiniLM-L6-v2"))];
      } else if (!found.places.length) {
        first = [empty("No question was asked here in the last two hours.",
          h("p", null, "A question is explained in the scope of a real request. Send one through the gateway, or ",
            h("a", { href: "#/overview" }, "start on the overview"), "."))];
      } else {
        first = byQuestion(found.places);
      }
      tools.place.replaceChildren(intro, ...first, byRequest(found.places.length ? found.places[0].tenant : "local"));
    } catch (error) {
      tools.fail(error, load);
    }
  }
  load();
}
