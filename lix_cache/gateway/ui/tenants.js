// Who uses the gateway, how much, and what each may do.

import { get } from "./api.js";
import { meter } from "./charts.js";
import { card, h, table } from "./dom.js";
import { compact, count, money, plural, share } from "./words.js";

function limits(one) {
  const found = [];
  if (one.requests_per_minute) found.push(`${count(one.requests_per_minute)} requests a minute`);
  if (one.tokens_per_day) found.push(`${compact(one.tokens_per_day)} tokens a day`);
  return found.join(", ") || "none";
}

export function tenants(tools) {
  async function load() {
    try {
      const found = await get("view/tenants", { minutes: 1440 });
      if (!tools.isShown()) return;
      const hasMoney = found.tenants.some((one) => one.money);
      const use = table("Use by tenant", [
        { label: "Tenant" }, { label: "Requests", kind: "number" }, { label: "Hits", kind: "number bar" },
        { label: "Tokens saved", kind: "number" }, { label: "Tokens spent", kind: "number" },
        ...(hasMoney ? [{ label: "Saved", kind: "number" }, { label: "Spent", kind: "number" }] : []),
      ]);
      use.update(found.tenants.map((one) => [
        h("strong", null, one.name), count(one.requests),
        [h("span", null, share(one.hits, one.requests)), meter(one.requests ? one.hits / one.requests : 0, "hit-l1-exact")],
        count(one.tokens.saved_prompt + one.tokens.saved_answer), count(one.tokens.spent_prompt + one.tokens.spent_answer),
        ...(hasMoney ? [money(one.money.saved, one.money.currency), money(one.money.spent, one.money.currency)] : []),
      ]));
      const rights = table("What tenants may do", [
        { label: "Tenant" }, { label: "Scopes" }, { label: "Models" }, { label: "Limits" }, { label: "Sessions" },
      ]);
      rights.update(found.tenants.map((one) => [
        h("strong", null, one.name), one.scopes.join(", "), one.models.join(", "), limits(one), one.sessions ? "kept" : "off",
      ]));
      const strangers = found.refused
        ? `${plural(found.refused, "request was", "requests were")} refused: the key was not known.` : "No request came with an unknown key.";
      const whose = found.is_whole ? `Counts of ${plural(found.workers.length, "worker", "workers")}.` : "Counts of one worker alone.";
      tools.place.replaceChildren(
        card("The last 24 hours", use.node, h("p", { class: "muted small" }, `${strangers} ${whose}`)),
        card("Rights and limits", h("p", { class: "muted" }, "As the settings say."), rights.node));
    } catch (error) {
      tools.fail(error, load);
    }
  }
  load();
}
