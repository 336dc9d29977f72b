// Elements, made by name. Text becomes text and nothing else: nothing here reads HTML.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return node;
}

export function h(tag, props, ...children) {
  return filled(document.createElement(tag), props, children);
}

export function s(tag, props, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

let last = 0;

export function newId(start) {
  last += 1;
  return `${start}-${last}`;
}

// A table that becomes a list of cards where there is no room. The roles are said, because a table that is laid
// out as blocks is none any more for assistive technology.
export function table(caption, columns, kind) {
  const body = h("tbody", { role: "rowgroup" });
  const head = columns.map((one) =>
    h("th", { role: "columnheader", scope: "col", class: one.kind }, one.label));
  const node = h("table", { role: "table", class: kind },
    h("caption", { class: "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)), body);
  const update = (rows) => body.replaceChildren(...rows.map((cells) =>
    h("tr", { role: "row" }, cells.map((cell, i) =>
      h("td", { role: "cell", class: columns[i].kind, "data-label": columns[i].label }, cell)))));
  return { node, update };
}

export function card(title, ...children) {
  const id = newId("card");
  return h("section", { class: "card", "aria-labelledby": id }, h("h2", { id }, title), children);
}

export function empty(title, ...children) {
  return h("div", { class: "empty" }, h("p", { class: "lead" }, title), children);
}

export function loading(what) {
  return h("p", { class: "loading", role: "status" }, `Reading ${what} …`);
}

export function failure(error, again) {
  return h("div", { class: "failure", role: "alert" },
    h("p", { class: "lead" }, "That did not work"), h("p", null, error.message),
    again && h("button", { type: "button", onclick: again }, "Try again"));
}
