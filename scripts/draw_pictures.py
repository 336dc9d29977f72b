#!/usr/bin/env python3
"""Draw docs/pictures/: the architecture, a message's way, a question's way.

    python scripts/draw_pictures.py            # writes all three

Plain SVG, written by hand-placed boxes: no program lays it out, so it is the same on every machine, and a
test compares. Each picture paints its own background and follows the reader's light or dark scheme.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"

#: Mean width of a letter in units of the font size, and of a bold one; wide enough for the usual fonts.
LETTER, BOLD_LETTER = 0.56, 0.66
SMALL, NORMAL, LARGE = 13.5, 14.5, 15.5

#: Colours that readers who see no red or no green can tell apart (after Okabe and Ito), light and dark.
STYLE = """
  svg { --page: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #6e7781;
        --plain: #f3f4f6; --blue: #dcebf7; --orange: #fcecd2; --green: #d9f0e6; --rose: #f6e1ee;
        --blue-edge: #0072b2; --orange-edge: #b87400; --green-edge: #00795a; --rose-edge: #a8507f; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #14181d; --ink: #e8ebee; --soft: #a5adb6; --line: #8b949e;
          --plain: #232930; --blue: #16324a; --orange: #43310f; --green: #123a2e; --rose: #43233a;
          --blue-edge: #56b4e9; --orange-edge: #e69f00; --green-edge: #2fbf95; --rose-edge: #d78bb5; } }
  text { font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink); }
  .soft { fill: var(--soft); }
  .way { stroke: var(--line); stroke-width: 1.6; fill: none; }
""".strip("\n")


def width_of(text: str, size: float, *, bold: bool = False) -> float:
    """Return about how wide a text is."""
    return len(text) * size * (BOLD_LETTER if bold else LETTER)


def _resolved(svg: str, scheme: str) -> str:
    """Put the colours of one scheme in the place of the variables, and a font's name that is one."""
    light, dark = STYLE.split("@media", 1)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", dark))
    head, rest = svg.split("  <style>", 1)
    style = '  text { font-family: "DejaVu Sans"; fill: var(--ink); }\n  .soft { fill: var(--soft); }\n'
    style += "  .way { stroke: var(--line); stroke-width: 1.6; fill: none; }\n"
    whole = f"{head}  <style>\n{style}{rest[rest.index('  </style>') :]}"
    return re.sub(r"var\(--([a-z-]+)\)", lambda found: colours[found[1]], whole)


@dataclass
class Picture:
    """Boxes, arrows and texts, in the order in which they are drawn."""

    width: int
    height: int
    title: str
    description: str
    parts: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, text: str, *, size: float = NORMAL, at: str = "start", bold: bool = False,
        soft: bool = False,
    ) -> None:  # fmt: skip
        wide = width_of(text, size, bold=bold)
        left = {"start": x, "middle": x - wide / 2, "end": x - wide}[at]
        if left < 0 or left + wide > self.width:
            raise ValueError(f"does not fit into the picture: {text!r}")
        weight = ' font-weight="600"' if bold else ""
        kind = ' class="soft"' if soft else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{at}"{weight}{kind}>'
            f"{escape(text)}</text>"
        )

    def box(
        self, x: float, y: float, w: float, h: float, title: str, lines: Sequence[str] = (),
        *, colour: str = "plain", dashed: bool = False,
    ) -> None:  # fmt: skip
        """Draw a box whose title and lines stand in its middle."""
        edge = "line" if colour == "plain" else f"{colour}-edge"
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="8" fill="var(--{colour})" '
            f'stroke="var(--{edge})" stroke-width="1.4"{dash}/>'
        )
        rows = [(title, LARGE, True), *((line, SMALL, False) for line in lines)] if title else []
        for text, size, bold in rows:
            if width_of(text, size, bold=bold) > w - 8:
                raise ValueError(f"does not fit into its box: {text!r}")
        step = 18
        top = y + h / 2 - step * (len(rows) - 1) / 2 + 5
        for number, (text, size, bold) in enumerate(rows):
            self.text(x + w / 2, top + number * step, text, size=size, at="middle", bold=bold, soft=not bold)

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draw a line through the points with a head at its end."""
        way = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline class="way" points="{way}" marker-end="url(#head)"/>')

    def svg(self, scheme: str | None = None) -> str:
        """Return the picture for both schemes, or for one of them, for programs that know no variables."""
        if scheme is not None:
            return _resolved(self.svg(), scheme)
        body = "\n".join(f"  {part}" for part in self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img" aria-labelledby="title description">\n'
            f'  <title id="title">{escape(self.title)}</title>\n'
            f'  <desc id="description">{escape(self.description)}</desc>\n'
            f"  <style>\n{STYLE}\n  </style>\n"
            '  <defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
            'markerHeight="8" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="var(--line)"/>'
            "</marker></defs>\n"
            f'  <rect width="{self.width}" height="{self.height}" rx="10" fill="var(--page)"/>\n'
            f"{body}\n</svg>\n"
        )


def architecture() -> Picture:
    p = Picture(
        960, 560, "The architecture of lix_cache",
        "An application or the gateway calls caches. Flows decide, two drivers carry out what flows ask for, "
        "in Redis and in an archive on disk. A daemon moves messages to disk, a read brings them back.",
    )  # fmt: skip
    p.box(30, 24, 640, 50, "your application", ["sync or async, in any number of processes"])
    p.box(700, 24, 230, 50, "clients of providers", ["OpenAI, Anthropic: same code"])
    p.arrow((815, 74), (815, 108))
    p.box(700, 108, 230, 66, "gateway", ["lix-cache serve", "streams, tenants, spending"], colour="rose")
    p.arrow((700, 139), (672, 139))
    for x, title, lines in (
        (30, "session memory", ["HybridConversationCache", "hot window, cold archive"]),
        (250, "URL vectors", ["URLEmbeddingCache", "each URL embedded once"]),
        (470, "cached answers", ["SemanticCache, cached()", "every answer has a reason"]),
    ):
        p.arrow((x + 100, 74), (x + 100, 108))
        p.box(x, 108, 200, 66, title, lines, colour="blue")
    p.box(30, 204, 640, 92, "flows: generators that decide and do no I/O", [
        "add · read · offload · reconcile · change · lookup · store · audit · calibrate",
        "near enough?  what do the neighbours answer?  does a guard object?",
    ])  # fmt: skip
    for x in (130, 350, 570):
        p.arrow((x, 174), (x, 204))
    p.box(700, 204, 230, 92, "models, if any", [
        "embedder: text to vector", "verifier: a second opinion", "in threads, with a deadline",
    ], colour="plain", dashed=True)  # fmt: skip
    p.arrow((670, 250), (700, 250))
    p.arrow((240, 296), (240, 330))
    p.arrow((460, 296), (460, 330))
    p.box(140, 330, 200, 46, "SyncDriver", ["in the calling thread"])
    p.box(360, 330, 200, 46, "AsyncDriver", ["on the event loop"])
    p.text(580, 349, "the only two places", size=SMALL, soft=True)
    p.text(580, 366, "where sync and async differ", size=SMALL, soft=True)
    p.arrow((220, 376), (220, 420))
    p.arrow((300, 376), (300, 396), (745, 396), (745, 420))
    p.arrow((400, 376), (400, 420))
    p.arrow((500, 376), (500, 408), (825, 408), (825, 420))
    p.box(30, 420, 440, 112, "hot: Redis or Valkey", [
        "a stream for each session: the last 20 messages",
        "answers and their vectors, URL vectors",
        "an add, a read, a miss: one round trip",
    ], colour="orange")  # fmt: skip
    p.box(640, 420, 290, 112, "cold: archives on disk", [
        "frames: append, never rewrite",
        "columns in the phrase Huffman code",
        "recovered by scanning",
    ], colour="green")  # fmt: skip
    p.arrow((470, 452), (640, 452))
    p.text(555, 444, "daemon: append,", size=SMALL, at="middle", soft=True)
    p.text(555, 468, "fsync, then trim", size=SMALL, at="middle", soft=True)
    p.arrow((640, 502), (470, 502))
    p.text(555, 494, "a read of an idle", size=SMALL, at="middle", soft=True)
    p.text(555, 518, "session: put back", size=SMALL, at="middle", soft=True)
    return p


def message() -> Picture:
    p = Picture(
        960, 470, "A message's way",
        "An add is one call to Redis and is then acknowledged. When the window overflows or the session is "
        "idle, a daemon reads the oldest messages, appends them to the archive, syncs, and only then trims. "
        "A later read of an idle session puts its newest messages back under their ids.",
    )  # fmt: skip
    p.box(30, 30, 170, 64, "add_message", ["one round trip"], colour="blue")
    p.arrow((200, 62), (300, 62))
    p.box(300, 30, 270, 64, "Redis stream", ["gives the id: unique, in order"], colour="orange")
    p.arrow((570, 62), (690, 62))
    p.box(690, 30, 240, 64, "acknowledged", ["kept once, and in order"], colour="rose")
    p.arrow((435, 94), (435, 118), (125, 118), (125, 154))
    p.text(447, 122, "the window is a batch too long, or the session is idle:", size=SMALL, soft=True)
    p.text(447, 140, "the daemon, under the lock on the session's file", size=SMALL, soft=True)
    steps = (
        ("1  read", ["the oldest entries,", "500 at a time"]),
        ("2  append", ["one frame to .huff;", "known ids are skipped"]),
        ("3  fsync", ["from here on", "the disk has them"]),
        ("4  trim", ["XTRIM in Redis,", "up to that id"]),
    )
    for number, (title, lines) in enumerate(steps):
        x = 30 + number * 230
        p.box(x, 154, 190, 80, title, lines, colour="orange" if number in (0, 3) else "green")
        if number:
            p.arrow((x - 40, 194), (x, 194))
    p.text(30, 262, "killed here:", size=SMALL, bold=True)
    for number, left in enumerate((
        ("as before:", "it starts over"),
        ("a torn tail: set aside,", "messages are still hot"),
        ("hot and cold: one id,", "counted once"),
        ("done;", "nothing to do"),
    )):  # fmt: skip
        for row, line in enumerate(left):
            p.text(125 + number * 230, 284 + row * 17, line, size=SMALL, at="middle", soft=True)
    p.box(
        690,
        340,
        240,
        90,
        "cold: .huff archive",
        ["every message, once, in order", "for disk_ttl_days"],
        colour="green",
    )
    p.box(300, 340, 270, 90, "rehydrated window", [
        "the newest, under their ids,", "if no other did meanwhile",
    ], colour="orange")  # fmt: skip
    p.box(30, 340, 170, 90, "get_context", ["of an idle session:", "two round trips"], colour="blue")
    p.arrow((690, 385), (570, 385))
    p.arrow((300, 385), (200, 385))
    p.arrow((890, 234), (890, 340))
    return p


def question() -> Picture:
    p = Picture(
        960, 560, "A question's way",
        "A lookup asks for the exact text, then for near entries, then whether the nearest has a margin over "
        "entries that answer differently, then guards and a verifier. Each step can end it as a miss "
        "with a reason.",
    )  # fmt: skip
    p.box(30, 26, 300, 50, "lookup(question)", ["in a scope that must match exactly"], colour="blue")
    steps = (
        ("policy", "may it be cached at all?", "policy"),
        ("exact text", "one round trip; brings what is new", "empty"),
        ("near enough", "cosine of the nearest entry", "below_threshold"),
        ("margin and votes", "against entries that answer otherwise", "margin, score"),
        ("guards", "numbers, negation, roles, names ...", "guard, reported"),
        ("verifier, if any", "a model reads both questions", "verifier"),
    )
    for number, (title, line, reason) in enumerate(steps):
        y = 96 + number * 70
        p.arrow((180, y - 20 if number else 76), (180, y))
        p.box(30, y, 300, 50, title, [line])
        p.arrow((330, y + 25), (440, y + 25))
        # Another text is looked for by its meaning: only a scope without entries ends here.
        said, down = ("empty scope", 40) if reason == "empty" else ("no", 19)
        p.text(385, y + down, said, size=SMALL, at="middle", soft=True)
        p.box(440, y, 190, 50, "miss", [reason], colour="rose")
    p.arrow((180, 496), (180, 510))
    p.box(30, 510, 300, 38, "semantic hit", colour="green")
    p.text(345, 526, "the second round trip; about 3 in 100 are audited instead", size=SMALL, soft=True)
    p.text(
        345,
        545,
        "A step that fails is a miss too: embedder_failed, verifier_failed, gone",
        size=SMALL,
        soft=True,
    )
    p.arrow((330, 180), (350, 180), (350, 156), (660, 156), (660, 51), (690, 51))
    p.text(653, 80, "yes", size=SMALL, at="end", soft=True)
    p.box(690, 26, 240, 50, "exact hit", ["the same text was asked before"], colour="green")
    p.arrow((630, 331), (690, 331))
    p.box(690, 166, 240, 330, "", colour="plain")
    p.text(810, 200, "your model answers", size=LARGE, at="middle", bold=True)
    for row, line in enumerate((
        "store(question, answer)", "",
        "Each miss is a free label:", "does the new answer agree", "with that of the nearest entry?", "",
        "The scope raises its threshold", "until the expected share of", "wrong hits is at most 2 %.", "",
        "Audited hits measure that", "share, with an exact interval.", "If it is proven too high,",
        "the scope closes.",
    )):  # fmt: skip
        if line:
            p.text(810, 230 + row * 18, line, size=SMALL, at="middle", soft=True)
    return p


DRAWINGS: dict[str, Callable[[], Picture]] = {
    "architecture": architecture,
    "message": message,
    "question": question,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=PICTURES, help="where the pictures go")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        (arguments.folder / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")
        print(arguments.folder / f"{name}.svg")


if __name__ == "__main__":
    main()
