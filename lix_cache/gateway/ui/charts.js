// Stacked bars over time, as SVG. Each chart has a title, a description, and the same numbers as a table.

import { h, newId, s, table } from "./dom.js";
import { clock } from "./words.js";

const HEIGHT = 210;
const LEFT = 46;
const BOTTOM = 24;
const TOP = 10;

// The least round number that is not smaller and whose quarters are whole.
function ceiling(value) {
  if (value <= 20) return Math.max(4, Math.ceil(value / 4) * 4);
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((one) => one * power).find((one) => one >= value);
}

function axis(width, most, format) {
  const marks = [];
  for (let i = 0; i <= 4; i += 1) {
    const y = TOP + ((HEIGHT - TOP - BOTTOM) * (4 - i)) / 4;
    marks.push(s("line", { class: i ? "grid" : "base", x1: LEFT, x2: width, y1: y, y2: y }));
    marks.push(s("text", { class: "tick", x: LEFT - 8, y: y + 4, "text-anchor": "end" }, format((most * i) / 4)));
  }
  return marks;
}

export function stacked(title, series, format, describe) {
  const ids = [newId("title"), newId("desc")];
  const drawing = h("div", { class: "drawing" });
  const legend = h("ul", { class: "legend" });
  const readout = h("p", { class: "readout", "aria-hidden": "true" });
  const numbers = table(`${title}, in numbers`, [
    { label: "From" }, ...series.map((one) => ({ label: one.label, kind: "number" })),
  ]);
  const node = h("figure", { class: "chart" },
    h("figcaption", null, h("h2", null, title), legend), drawing, readout,
    h("details", null, h("summary", null, "The same as a table"), numbers.node));
  let bins = [];

  function point(bin, used) {
    const parts = used.map((one) => `${one.label} ${format(one.of(bin))}`);
    readout.textContent = bin ? `${clock(bin.time)}   ${parts.join("   ")}` : "";
  }

  function draw() {
    const width = Math.max(240, drawing.clientWidth);
    const used = series.filter((one) => one.always || bins.some((bin) => one.of(bin)));
    const sums = bins.map((bin) => used.reduce((sum, one) => sum + one.of(bin), 0));
    const most = ceiling(Math.max(0, ...sums));
    const high = HEIGHT - TOP - BOTTOM;
    const room = (width - LEFT) / Math.max(1, bins.length);
    const bars = [];
    const every = Math.ceil(bins.length / Math.max(2, Math.floor(width / 110)));
    bins.forEach((bin, i) => {
      const x = LEFT + i * room;
      let y = HEIGHT - BOTTOM;
      used.forEach((one) => {
        const size = (one.of(bin) / most) * high;
        if (!size) return;
        // What is there is seen, however little it is.
        const shown = Math.max(1.5, size);
        y -= shown;
        bars.push(s("rect", {
          class: `bar fill-${one.id}`, x: x + room * 0.12, y, width: room * 0.76, height: Math.max(1, shown - 0.75),
        }));
      });
      if ((bins.length - 1 - i) % every === 0) {
        const isLast = i === bins.length - 1;
        bars.push(s("text", {
          class: "tick", x: isLast ? width : x + room / 2, y: HEIGHT - 6, "text-anchor": isLast ? "end" : "middle",
        }, clock(bin.time)));
      }
      bars.push(s("rect", {
        class: "catch", x, y: TOP, width: room, height: high,
        onpointerenter: () => point(bin, used), onpointerleave: () => point(null, used),
      }));
    });
    drawing.replaceChildren(s("svg", {
      role: "img", "aria-labelledby": ids.join(" "), width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`,
    }, s("title", { id: ids[0] }, title), s("desc", { id: ids[1] }, describe(bins)), axis(width, most, format), bars));
    legend.replaceChildren(...used.map((one) =>
      h("li", null, h("span", { class: `swatch back-${one.id}` }), one.label)));
  }

  new ResizeObserver(() => {
    const svg = drawing.firstElementChild;
    if (svg && Number(svg.getAttribute("width")) !== Math.max(240, drawing.clientWidth)) draw();
  }).observe(drawing);

  function update(found) {
    bins = found;
    draw();
    numbers.update(bins.map((bin) => [clock(bin.time), ...series.map((one) => format(one.of(bin)))]));
  }
  return { node, update };
}

// A bar beside a number that is already said in words; so it is decoration.
export function meter(part, state, mark) {
  const to = Math.max(0, Math.min(1, part)) * 100;
  return s("svg", {
    class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false",
  },
  s("rect", { class: "track", width: 100, height: 8, rx: 1 }),
  s("rect", { class: `fill-${state}`, width: to, height: 8, rx: 1 }),
  mark === undefined ? null : s("rect", { class: "mark", x: Math.max(0, Math.min(99, mark * 100)), width: 1, height: 8 }));
}
