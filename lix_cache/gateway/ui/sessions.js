// Conversations that the gateway keeps, and what was said in them.

import { get } from "./api.js";
import { empty, h, loading } from "./dom.js";
import { count, moment, plural } from "./words.js";

const ROLES = { user: "User", assistant: "Assistant", system: "System", tool: "Tool" };

// A message that was brought back from disk is in both, so there is no sum.
function held(one) {
  const parts = [];
  if (one.in_redis || !one.on_disk) parts.push(`${plural(one.in_redis, "message", "messages")} in Redis`);
  if (one.on_disk) parts.push(`${count(one.on_disk)} on disk`);
  return parts.join(", ");
}

function message(one) {
  const text = typeof one.content === "string" ? one.content : JSON.stringify(one.content, null, 2);
  const time = typeof one.timestamp === "number" ? moment(one.timestamp) : typeof one.timestamp === "string" ? one.timestamp.slice(0, 16).replace("T", " ") : "";
  const known = Object.hasOwn(ROLES, one.role);
  return h("li", { class: `message ${known ? one.role : "other"}` },
    h("p", { class: "who" }, h("strong", null, known ? ROLES[one.role] : String(one.role)), " ", h("span", { class: "muted" }, time)),
    h("p", { class: "text" }, text));
}

function transcript(place, tenant, id, failed) {
  const list = h("ol", { class: "messages" });
  const older = h("button", { type: "button", class: "quiet", hidden: true }, "Older messages");
  const title = h("h2", { tabindex: "-1" }, id);
  let before = null;

  async function load(isFirst) {
    older.disabled = true;
    try {
      const found = await get("view/transcript", { tenant, id, before });
      const top = list.firstElementChild;
      list.prepend(...found.messages.map(message));
      before = found.before;
      older.hidden = before === null;
      if (isFirst) {
        place.replaceChildren(h("div", { class: "card" },
          h("p", { class: "back" }, h("a", { href: "#/sessions" }, "All sessions")),
          title, h("p", { class: "muted" }, `Tenant ${tenant}`), older, list));
        title.focus();
      } else if (top) {
        top.scrollIntoView({ block: "nearest" });
        if (before === null) title.focus(); // the button that had the focus is gone
      }
    } catch (error) {
      const node = failed(error, () => load(isFirst));
      if (node) place.replaceChildren(h("p", { class: "back" }, h("a", { href: "#/sessions" }, "All sessions")), node);
    }
    older.disabled = false;
  }

  older.addEventListener("click", () => load(false));
  place.replaceChildren(loading("the session"));
  load(true);
}

export function sessions(tools) {
  const [tenant, ...name] = tools.rest;
  const id = name.join("/");
  const list = h("ul", { class: "sessions" });
  const more = h("button", { type: "button", class: "quiet", hidden: true }, "More sessions");
  const right = h("div", { class: "transcript" });
  let cursor = null;

  function entry(one) {
    const isOpen = one.tenant === tenant && one.id === id;
    return h("li", null, h("a", {
      href: `#/sessions/${encodeURIComponent(one.tenant)}/${encodeURIComponent(one.id)}`, "aria-current": isOpen ? "true" : null,
    },
    h("span", { class: "name" }, one.id),
    h("span", { class: "muted small" }, `${one.tenant} · ${held(one)} · ${moment(one.last_use)}`)));
  }

  async function load() {
    more.disabled = true;
    try {
      const found = await get("view/sessions", { cursor });
      if (!tools.isShown()) return;
      if (!found.is_on) {
        tools.place.replaceChildren(empty("Sessions are not switched on.",
          h("p", null, "The gateway keeps conversations that clients name by X-Session-ID, where you want it to:"),
          h("pre", { tabindex: "0", "aria-label": "Example" }, "lix-cache serve --upstream URL --sessions")));
        return;
      }
      list.append(...found.sessions.map(entry));
      cursor = found.cursor;
      more.hidden = cursor === null;
      if (list.childElementCount || cursor !== null || id) {
        if (!right.isConnected) {
          tools.place.replaceChildren(h("div", { class: id ? "split open" : "split" },
            h("div", { class: "list" }, list, more), right));
          if (id) transcript(right, tenant, id, tools.failed);
          else right.replaceChildren(h("p", { class: "muted pick" }, "Choose a session to read it."));
        }
      } else {
        tools.place.replaceChildren(empty("No session is kept yet.",
          h("p", null, "A client names its conversation with the header X-Session-ID and sends only its new turn.")));
      }
    } catch (error) {
      tools.fail(error, load);
    }
    more.disabled = false;
  }

  more.addEventListener("click", load);
  load();
}
