// The frame: the key, the views and the way between them.

import { Failed, get, key } from "./api.js";
import { failure, h, loading } from "./dom.js";
import { explain } from "./explain.js";
import { overview } from "./overview.js";
import { sessions } from "./sessions.js";
import { tenants } from "./tenants.js";

const VIEWS = [
  { id: "overview", label: "Overview", show: overview },
  { id: "explain", label: "Explain", show: explain },
  { id: "sessions", label: "Sessions", show: sessions },
  { id: "tenants", label: "Tenants", show: tenants },
];
const main = document.getElementById("main");
const nav = document.getElementById("nav");
const state = document.getElementById("state");
let leave = null;
let shown = 0;

function wanted() {
  const parts = location.hash.replace(/^#\/?/, "").split("/");
  const view = VIEWS.find((one) => one.id === parts[0]) || VIEWS[0];
  const rest = parts.slice(1).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return { view, rest };
}

function end() {
  if (leave) leave();
  leave = null;
}

function askForKey(said) {
  end();
  shown += 1;
  nav.hidden = true;
  state.replaceChildren();
  document.title = "Sign in · lix-cache gateway";
  const input = h("input", {
    id: "key", type: "password", autocomplete: "current-password", required: true, spellcheck: "false",
    "aria-describedby": "key-help",
  });
  const note = h("p", { class: "wrong", role: "alert" }, said || "");
  const button = h("button", { type: "submit", class: "main" }, "Open");
  const form = h("form", {
    class: "sign-in",
    onsubmit: async (event) => {
      event.preventDefault();
      button.disabled = true;
      key.set(input.value.trim());
      try {
        await get("view/overview", { minutes: 15 });
      } catch (error) {
        key.forget();
        note.textContent = error.status === 401 ? "That is not the admin key." : error.message;
        button.disabled = false;
        input.focus();
        input.select();
        return;
      }
      show(true);
    },
  },
  h("h1", null, "What does your cache do?"),
  h("p", { class: "muted" }, "Hits and their reasons, tokens saved, durations, sessions, and why a question hits or misses."),
  // For managers of passwords, which look for a name.
  h("input", { type: "text", autocomplete: "username", value: "admin", hidden: true }),
  h("label", { for: "key" }, "Admin key"), input, note, button,
  h("p", { class: "help", id: "key-help" },
    h("span", null, "With ", h("code", null, "lix-cache serve --demo"), " it stands in the terminal. Otherwise it is the key whose digest the setting ",
      h("code", null, "admin_key"), " holds. It stays in this tab and is forgotten with it.")));
  main.replaceChildren(form);
  input.focus();
}

function fail(error, again) {
  if (error instanceof Failed && error.status === 401) {
    key.forget();
    askForKey("The key is no longer right. Please give it again.");
    return null;
  }
  return failure(error, again);
}

function lock() {
  key.forget();
  askForKey("");
}

function show(moves) {
  if (!key.get()) {
    askForKey("");
    return;
  }
  end();
  shown += 1;
  const mine = shown;
  const { view, rest } = wanted();
  nav.hidden = false;
  nav.replaceChildren(...VIEWS.map((one) =>
    h("a", { href: `#/${one.id}`, "aria-current": one === view ? "page" : null }, one.label)));
  if (!state.querySelector("button")) {
    state.replaceChildren(h("button", { type: "button", class: "quiet", onclick: lock }, "Lock"));
  }
  document.title = `${view.label} · lix-cache gateway`;
  const title = h("h1", { tabindex: "-1" }, view.label);
  const place = h("div", { class: "view" }, loading(view.label.toLowerCase()));
  main.replaceChildren(h("div", { class: "heading" }, title), place);
  if (moves) title.focus();
  const tools = {
    place,
    heading: title.parentNode,
    rest,
    isShown: () => mine === shown,
    fail: (error, again) => {
      if (mine !== shown || error.name === "AbortError") return;
      const node = fail(error, again);
      if (node) place.replaceChildren(node);
    },
    failed: (error, again) => (mine === shown ? fail(error, again) : null),
  };
  leave = view.show(tools) || null;
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the view
  main.focus();
});
window.addEventListener("hashchange", () => show(true));
show(false);
// A gateway with idle_seconds stays while its page is open.
setInterval(() => fetch("mark.svg", { cache: "no-store" }).catch(() => null), 20000);
