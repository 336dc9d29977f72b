// What the gateway did: hits by reason over time, tokens and money, durations.

import { askDemo, get } from "./api.js";
import { meter, stacked } from "./charts.js";
import { card, empty, h, table } from "./dom.js";
import { bytes, clock, compact, count, duration, labelOf, meaning, money, plural, share, STATES } from "./words.js";

const RANGES = [[15, "15 min"], [60, "1 h"], [360, "6 h"], [1440, "24 h"]];
// The longer the bins, the more rarely there is something new.
const every = () => ({ 15: 4000, 60: 4000, 360: 20000, 1440: 60000 })[chosen.minutes];
const chosen = { minutes: 15, tenant: "", paused: false };

let tours = 0;
const TOUR = [
  ["How do I reset my password?", ""],
  ["How do I reset my password?", ""],
  ["how do I reset my password please", ""],
  ["How do I turn on the lights in the kitchen?", ""],
  ["How do I turn off the lights in the kitchen?", ""],
  ["Which train goes to Bern?", "tour"],
  ["And from which platform?", "tour"],
];

function tile(label) {
  const value = h("dd", { class: "value" });
  const note = h("dd", { class: "note" });
  return {
    node: h("div", { class: "tile" }, h("dt", null, label), value, note),
    set: (text, said) => {
      value.textContent = text;
      note.textContent = said;
    },
  };
}

function tryIt(refresh) {
  const steps = h("ol", { class: "steps", "aria-live": "polite" });
  const button = h("button", { type: "button", class: "main" }, "Ask seven questions");
  button.addEventListener("click", async () => {
    button.disabled = true;
    steps.replaceChildren();
    tours += 1;
    // A session that goes on asks something new each time.
    const name = `tour-${new Date().toISOString().slice(0, 10)}-${tours}`;
    try {
      for (const [question, session] of TOUR) {
        const found = await askDemo(question, session && name);
        // Its meaning is stored behind the answer, and a reader wants to follow.
        await new Promise((done) => setTimeout(done, 600));
        const said = session ? `Session ${name}. ${meaning(found.reason, found.cache)}` : meaning(found.reason, found.cache);
        steps.append(h("li", null,
          h("span", { class: `badge tone-${found.cache}` }, labelOf(found.cache)),
          h("span", { class: "asked" }, `“${question}”`),
          h("span", { class: "took number" }, duration(found.seconds)),
          h("span", { class: "said" }, said)));
        refresh();
      }
      button.textContent = "Ask them again";
    } catch (error) {
      steps.append(h("li", null, error.message));
    }
    button.disabled = false;
  });
  return h("div", { class: "try" },
    card("See it work",
      h("p", { class: "muted" }, "The demo has a scripted provider that takes a second for an answer. Ask it some questions through this gateway, and watch which of them it has to answer."),
      button, steps));
}

function firstSteps() {
  const url = location.origin;
  return empty(`No request in the last ${RANGES.find(([minutes]) => minutes === chosen.minutes)[1]}.`,
    h("p", null, "Point a client’s base_url here and change nothing else:"),
    h("pre", { tabindex: "0", "aria-label": "Example" }, `client = openai.OpenAI(base_url="${url}/v1")\nclient = anthropic.Anthropic(base_url="${url}")`));
}

function controls(reload) {
  const ranges = RANGES.map(([minutes, label]) => {
    const id = `range-${minutes}`;
    const radio = h("input", {
      type: "radio", name: "range", id, value: String(minutes), onchange: () => {
        chosen.minutes = minutes;
        reload();
      },
    });
    radio.checked = chosen.minutes === minutes;
    return [radio, h("label", { for: id }, label)];
  });
  const tenant = h("select", {
    id: "tenant", onchange: () => {
      chosen.tenant = tenant.value;
      reload();
    },
  });
  const who = h("div", { class: "field", hidden: true }, h("label", { for: "tenant" }, "Tenant"), tenant);
  const pause = h("button", { type: "button", class: "quiet", "aria-pressed": String(chosen.paused) }, "Pause");
  pause.addEventListener("click", () => {
    chosen.paused = !chosen.paused;
    pause.setAttribute("aria-pressed", String(chosen.paused));
    if (!chosen.paused) reload();
  });
  function names(all) {
    who.hidden = all.length < 2;
    if (tenant.options.length === all.length + 1) return;
    tenant.replaceChildren(h("option", { value: "" }, "All"), ...all.map((name) => h("option", { value: name }, name)));
    tenant.value = chosen.tenant;
  }
  return {
    node: h("div", { class: "controls" },
      h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "Time"), ranges), who, pause),
    names,
  };
}

function parts() {
  const tiles = {
    hits: tile("Answered from the cache"),
    tokens: tile("Tokens saved"),
    money: tile("Money saved"),
    hit: tile("A hit takes"),
    miss: tile("A miss takes"),
  };
  const requests = stacked("Requests", STATES.map((one) => ({
    id: one.id, label: one.label, of: (bin) => bin.states[one.id] || 0,
  })), compact, (bins) => {
    const all = bins.reduce((sum, bin) => sum + bin.requests, 0);
    const hits = bins.reduce((sum, bin) => sum + bin.hits, 0);
    return `${plural(all, "request", "requests")}, ${count(hits)} of them answered from the cache.`;
  });
  const tokens = stacked("Tokens", [
    { id: "saved", label: "Saved", always: true, of: (bin) => bin.saved_prompt + bin.saved_answer },
    { id: "spent", label: "Spent", always: true, of: (bin) => bin.spent_prompt + bin.spent_answer },
  ], compact, (bins) => {
    const saved = bins.reduce((sum, bin) => sum + bin.saved_prompt + bin.saved_answer, 0);
    return `${plural(saved, "token was", "tokens were")} answered from the cache and not paid for.`;
  });
  const reasons = table("Requests by reason", [
    { label: "Answer" }, { label: "Reason" }, { label: "What it means", kind: "wide" }, { label: "Requests", kind: "number" },
    { label: "Share", kind: "number bar" },
  ], "reasons");
  const durations = table("Durations", [
    { label: "Answer" }, { label: "Requests", kind: "number" },
    { label: "Gateway p50", kind: "number" }, { label: "Gateway p95", kind: "number" }, { label: "Gateway p99", kind: "number" },
    { label: "In all p50", kind: "number" }, { label: "In all p95", kind: "number" },
  ]);
  return { tiles, requests, tokens, reasons, durations };
}

function badge(state) {
  return h("span", { class: `badge tone-${state}` }, labelOf(state));
}

function median(rows, fits) {
  const found = (rows || []).filter((row) => fits(row.state)).sort((a, b) => b.count - a.count)[0];
  return found ? found : null;
}

function fill(all, found) {
  const sums = found.bins.reduce((sum, bin) => [sum[0] + bin.requests, sum[1] + bin.hits], [0, 0]);
  all.tiles.hits.set(share(sums[1], sums[0]), `${count(sums[1])} of ${plural(sums[0], "request", "requests")}`);
  const { tokens } = found;
  all.tiles.tokens.set(compact(tokens.saved_prompt + tokens.saved_answer),
    `${compact(tokens.spent_prompt + tokens.spent_answer)} spent on misses`);
  if (found.money) {
    const open = found.money.unpriced_tokens;
    all.tiles.money.set(money(found.money.saved, found.money.currency), open
      ? `${compact(open)} tokens of models without a price left out`
      : `${money(found.money.spent, found.money.currency)} spent on misses`);
  } else {
    all.tiles.money.set("–", "set prices to see it");
  }
  const hit = median(found.durations, (state) => state.startsWith("hit"));
  const miss = median(found.durations, (state) => state === "miss");
  all.tiles.hit.set(hit ? duration(hit.whole.p50) : "–", hit ? `median, ${labelOf(hit.state).toLowerCase()}` : "no hit yet");
  all.tiles.miss.set(miss ? duration(miss.whole.p50) : "–", miss ? `${duration(miss.added.p50)} of it here` : "no miss yet");
  all.requests.update(found.bins);
  all.tokens.update(found.bins);
  all.reasons.update(found.reasons.map((row) => [
    badge(row.state), h("code", null, row.reason || "–"), meaning(row.reason, row.state), count(row.count),
    [h("span", null, share(row.count, sums[0])), meter(row.count / sums[0], row.state)],
  ]));
  all.durations.update((found.durations || []).map((row) => [
    badge(row.state), count(row.count),
    ...["p50", "p95", "p99"].map((part) => duration(row.added[part])),
    duration(row.whole.p50), duration(row.whole.p95),
  ]));
}

function whose(found) {
  const workers = found.workers.length;
  if (found.is_whole && workers === 1) return "Counts of one worker, kept for a day.";
  if (found.is_whole) return `Counts of ${count(workers)} workers that share this Redis, kept for a day. Those of other workers are a few seconds old.`;
  const why = found.redis ? "Redis is away, so the counts of other workers are not here" : "Without Redis, each worker counts for itself";
  return `${why}: this is worker ${found.worker} alone.`;
}

function healthOf(found) {
  const { health } = found;
  const ups = Object.entries(health.upstreams).map(([name, state]) => [`Provider ${name}`, state]);
  const rows = [["Redis", health.redis], ["Embedder", health.embedder], ...ups,
    ["Answers in memory", `${count(found.memory.entries)}, ${bytes(found.memory.bytes)}`]];
  return h("dl", { class: "health" }, rows.map(([name, state]) =>
    h("div", null, h("dt", null, name), h("dd", { class: ["away", "failing"].includes(state) ? "bad" : null }, state))));
}

export function overview(tools) {
  const all = parts();
  let timer = 0;
  let abort = null;
  let isBuilt = false;
  let hasNumbers = null;
  let emptyFor = 0;
  const pulse = h("p", { class: "pulse", role: "status" });
  const first = h("div", null);
  const numbers = h("div", { class: "numbers" });
  const health = h("div", null);
  const foot = h("p", { class: "muted small" });
  const slow = card("Durations",
    h("p", { class: "muted" }, "What the gateway itself adds, and how long it takes until the answer’s end."), all.durations.node);
  const allTenants = h("p", { class: "muted" }, "Durations are counted for all tenants together: choose All to see them.");
  const bar = controls(() => load());

  function build(found) {
    isBuilt = true;
    tools.heading.append(bar.node);
    numbers.append(h("dl", { class: "tiles" }, Object.values(all.tiles).map((one) => one.node)),
      h("div", { class: "two" }, h("div", { class: "card" }, all.requests.node), h("div", { class: "card" }, all.tokens.node)),
      card("Reasons", h("p", { class: "muted" }, "Every request says in its headers how it was answered, and why."), all.reasons.node), slow, allTenants);
    tools.place.replaceChildren(...(found.is_demo ? [tryIt(() => load())] : []), first, numbers, card("Health", health), foot, pulse);
  }

  function take(found) {
    if (!isBuilt) build(found);
    bar.names(found.tenants);
    const has = found.bins.some((bin) => bin.requests);
    if (has !== hasNumbers || chosen.minutes !== emptyFor) {
      hasNumbers = has;
      emptyFor = chosen.minutes;
      numbers.hidden = !has;
      first.replaceChildren(...(has ? [] : [firstSteps()]));
    }
    slow.hidden = found.durations === null;
    allTenants.hidden = found.durations !== null;
    if (has) fill(all, found);
    health.replaceChildren(healthOf(found));
    foot.textContent = whose(found);
  }

  async function load() {
    clearTimeout(timer);
    if (abort) abort.abort();
    abort = new AbortController();
    const mine = abort;
    try {
      const found = await get("view/overview", { minutes: chosen.minutes, tenant: chosen.tenant }, mine.signal);
      if (!tools.isShown() || mine !== abort) return;
      take(found);
      pulse.textContent = "";
    } catch (error) {
      if (error.name === "AbortError" || !tools.isShown()) return;
      // What is there stays: it is older, not wrong.
      if (!isBuilt || error.status === 401) tools.fail(error, load);
      else pulse.textContent = `${error.message} These numbers are of ${clock(Date.now() / 1000)}; trying again.`;
      if (!isBuilt) return;
    }
    if (!chosen.paused && tools.isShown()) timer = setTimeout(tick, every());
  }

  function tick() {
    if (chosen.paused) return;
    if (document.hidden) timer = setTimeout(tick, every());
    else load();
  }

  load();
  return () => {
    clearTimeout(timer);
    if (abort) abort.abort();
  };
}
