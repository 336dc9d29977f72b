#!/usr/bin/env python3
"""Compare the figures of README and docs with the committed data (docs/paper/data/*.json), or write them.

    python scripts/page_figures.py            # says which pages differ, and ends with 1 if any does
    python scripts/page_figures.py --write    # brings them into the pages, after 'make paper-data'

A table stands between ``<!-- figures: NAME -->`` and ``<!-- end -->`` and is made whole. A figure in a
sentence is found by the words around it: the groups of its pattern.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "docs" / "paper" / "data"
NAMES = {
    "banking77": "BANKING77 (a bank's intents)",
    "clinc150": "CLINC150 (intents of ten domains)",
    "hwu64": "HWU64 (home assistant)",
    "faq": "FAQ (of a chat bot)",
    "xsid": "xSID (18 languages)",
}


@cache
def data(name: str) -> Any:
    """Return what a file of the data holds."""
    return json.loads((DATA / f"{name}.json").read_text("utf-8"))


def rate(found: dict[str, Any]) -> str:
    """Return a false-hit rate with its exact 95% interval."""
    low, high = found["interval"] if "interval" in found else (found["low"], found["high"])
    return f"{found['false_hit_rate']:.2%} ({low:.2%} to {high:.2%})"


def table(head: str, rows: Iterator[list[str]]) -> str:
    """Return a table in Markdown."""
    line = "|---" * (head.count("|") + 1) + "|"
    return "\n".join([f"| {head} |", line, *(f"| {' | '.join(row)} |" for row in rows)])


def generated() -> str:
    """Questions of which each has its own answer, by rule."""
    rules = data("generated")["streams"]["rules"]

    def rows() -> Iterator[list[str]]:
        for name, found in rules.items():
            whole, late = found["whole"], found["second_half"]
            yield [name, f"{whole['hit_ratio']:.1%}", rate(whole), f"{late['hit_ratio']:.1%}", rate(late)]

    return table("| hits | false-hit rate | second half: hits | false-hit rate", rows())


def labels() -> str:
    """Questions with labels as answers, before the answers were compared by degree and now."""
    found = data("labels")["labels"]

    def cells(one: dict[str, Any]) -> list[str]:
        return [f"{one['hit_ratio']:.1%}", f"{one['wrong_per_1000']:.1f}", rate(one)]

    def rows() -> Iterator[list[str]]:
        for name, one in found["sets"].items():
            yield [NAMES[name], *cells(one["before"]), *cells(one["now"])]
        mean = [
            (f"{one['hit_ratio']:.1%}", f"{one['wrong_per_1000']:.1f}", "")
            for one in (found["mean"]["before"], found["mean"]["now"])
        ]
        yield ["mean", *mean[0], *mean[1]]

    head = "hits | wrong in 1,000 questions | false-hit rate"
    return table(f"set | equality: {head} | defaults: {head}", rows())


def quality() -> str:
    """What README says of hits and how many are wrong."""
    sets = data("labels")["labels"]["sets"]
    rows = ([NAMES[name], f"{one['now']['hit_ratio']:.1%}", rate(one["now"])] for name, one in sets.items())
    return table("questions | hits | of these wrong", rows)


def thresholds() -> str:
    """Hits and false-hit rates by threshold and set."""
    sets = data("thresholds")["sets"]
    names = {"lix-cache": "score", "plain cosine": "cosine"}
    marks = {("lix-cache", 1.23): " (default)", ("lix-cache", 1.42): " (strict)"}

    def rows() -> Iterator[list[str]]:
        for kind, name in names.items():
            for number, point in enumerate(sets["banking77"][kind]):
                least = point["thresholds"]["score" if kind == "lix-cache" else "threshold"]
                cells = [kinds[kind][number] for kinds in sets.values()]
                yield [
                    f"{name} {least:.2f}{marks.get((kind, least), '')}",
                    *(f"{one['hit_ratio']:.1%}; {rate(one)}" for one in cells),
                ]

    asked = [f"{name} {kinds['lix-cache'][0]['questions']:,}" for name, kinds in sets.items()]
    head = " | ".join(f"{name}: hits; false-hit rate" for name in sets)
    return f"Questions asked: {', '.join(asked)}.\n\n{table(f'thresholds | {head}', rows())}"


def archive(part: str, names: dict[str, str]) -> str:
    """Processor seconds and memory of an archive's steps."""
    found = data("archive")[part]

    def seconds(ms: float) -> str:
        return f"{ms / 1000:.4f}" if ms < 100 else f"{ms / 1000:.2f}" if ms < 1000 else f"{ms / 1000:.1f}"

    rows = (
        [shown, seconds(found[name]["cpu_ms"]), f"{found[name]['megabytes']:.0f}"]
        for name, shown in names.items()
    )
    return table("step | processor seconds | MB at most", rows)


def one_session() -> str:
    """One session of a million messages."""
    names = ("append one", "the last 20", "metadata", "load all", "search by text", "verify", "compact")
    return archive("one", {name: name for name in names} | {"load all": "load all (`get_full`, too)"})


def many_sessions() -> str:
    """A folder of many sessions."""
    names = ("append to one", "load one", "delete one", "list all", "clean up, nothing expired", "verify all")
    return archive("many", {name: name for name in names})


TABLES: dict[str, Callable[[], str]] = {
    "generated": generated,
    "labels": labels,
    "quality": quality,
    "thresholds": thresholds,
    "one session": one_session,
    "many sessions": many_sessions,
}


def halves() -> tuple[str, ...]:
    found = data("generated")["halves"]
    all_of = found["all"]
    single = [one["false_hit_rate"] for one in found["single"]]
    return (
        f"{all_of['hit_ratio']:.1%}",
        rate(all_of).replace(" (", " false hits ("),
        f"{min(single):.1%}",
        f"{max(single):.1%}",
    )


def closing() -> tuple[str, ...]:
    rows = [one for one in data("audits")["closing"] if one["wrong_rate"] == 0.6]
    within = sum(one["streams"] * one["within_300"] for one in rows) / sum(one["streams"] for one in rows)
    return (f"{sum(one['streams'] for one in rows):,}", f"{within:.0%}")


def staying() -> tuple[str, ...]:
    [one] = [one for one in data("audits")["staying"] if one["wrong_rate"] == 0.01]
    return (f"{one['streams']:,}", f"{one['streams'] * one['stayed_open']:.0f}", f"{one['served']:.0%}")


def audited() -> tuple[str, ...]:
    [one] = [one for one in data("audits")["staying"] if not one["wrong_rate"]]
    return (f"{1 - one['served']:.0%}",)


def pawsx() -> tuple[str, ...]:
    [one] = [one for one in data("guards")["pairs"] if one["cosine"] == 0.9]
    shares = (one[kind][how] for how in ("guarded", "alone") for kind in ("same", "different"))
    return (f"{one['same']['pairs']}", f"{one['different']['pairs']}", *(f"{share:.0%}" for share in shares))


def messages() -> tuple[str, ...]:
    found = data("archive")
    return (f"{found['messages']:,}", f"{found['file_bytes'] / 1e6:.1f} MB")


def sessions() -> tuple[str, ...]:
    return (f"{data('archive')['sessions']:,}",)


#: Page, the words around some figures, and what these are.
FIGURES: list[tuple[str, str, Callable[[], tuple[str, ...]]]] = [
    (
        "docs/calibration.md",
        r"it is (\S+) hits with ([^;]+\)); single halves lie between (\S+) and (\S+%)",
        halves,
    ),
    ("docs/semantic-cache.md", r"Of (\S+) simulated streams in which 60% .*?, (\S+) closed", closing),
    (
        "docs/semantic-cache.md",
        r"Of (\S+) with 1% wrong, (\S+) stayed open .*?, with (\S+) of their",
        staying,
    ),
    ("docs/semantic-cache.md", r"good hits, (\S+) are audited", audited),
    ("docs/faq.md", r"Some (\S+) of the semantic hits", audited),
    ("docs/tune.md", r"some (\S+) of the hits are checked", audited),
    (
        "docs/calibration.md",
        r"(\d+) pairs that mean the same and (\d+) .*?: (\S+) of .*? (\S+) of .*? alone (\S+) and (\S+%)",
        pawsx,
    ),
    ("docs/benchmarks.md", r"One session of (\S+) messages \(short, and alike: (\S+ MB) on disk", messages),
    ("docs/benchmarks.md", r"A folder of (\S+) sessions:", sessions),
]


def renewed(page: str, text: str) -> str:
    """Return a page's text with the figures of the data.

    Raises:
        ValueError: a table has no end, or the words around some figures are not there once.
    """
    for name, made in re.findall(r"<!-- figures: (.+?) -->\n(.*?)<!-- end -->", text, re.DOTALL):
        text = text.replace(
            f"<!-- figures: {name} -->\n{made}", f"<!-- figures: {name} -->\n\n{TABLES[name]()}\n\n"
        )
    for where, pattern, figures in FIGURES:
        if where == page:
            # A line may end between any two of the words.
            found = list(re.finditer(pattern.replace(" ", r"\s+"), text, re.DOTALL))
            if len(found) != 1:
                raise ValueError(f"{page}: {len(found)} places with {pattern!r}")
            for number, figure in reversed(list(enumerate(figures(), 1))):
                start, end = found[0].span(number)
                if " ".join(text[start:end].split()) != figure:
                    text = text[:start] + figure + text[end:]
    return text


def draw_curve() -> None:
    """Draw docs/img/calibration.svg: the two sets of English intents."""
    from lix_cache.cli.quality.plot import Curve, draw

    marks = {("lix-cache", 1.23): "default", ("lix-cache", 1.42): "strict", ("plain cosine", 0.9): "0.90"}
    curves = {}
    for name in ("banking77", "clinc150"):
        for kind in ("lix-cache", "plain cosine"):
            points = [one for one in data("thresholds")["sets"][name][kind] if one["hits"]]
            places = [(one["hit_ratio"], one["false_hit_rate"]) for one in points]
            least = [one["thresholds"]["score" if kind == "lix-cache" else "threshold"] for one in points]
            marked = {
                marks[kind, at]: place for at, place in zip(least, places, strict=True) if (kind, at) in marks
            }
            curves[f"{name}, {kind}"] = Curve(places, marked, is_dashed=kind != "lix-cache")
    title = "all-MiniLM-L6-v2, questions played online"
    draw(curves, str(ROOT / "docs" / "img" / "calibration.svg"), bound=0.02, title=title)


def pages() -> list[str]:
    """Return the pages with figures, as paths from the top folder."""
    marked = [path for path in (ROOT / "docs").rglob("*.md") if "<!-- figures: " in path.read_text("utf-8")]
    return sorted(
        {"README.md", *(str(path.relative_to(ROOT)) for path in marked), *(one[0] for one in FIGURES)}
    )


def main() -> None:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="bring the figures into the pages")
    is_writing = parser.parse_args().write
    stale = []
    for page in pages():
        before = (ROOT / page).read_text("utf-8")
        after = renewed(page, before)
        if before != after:
            stale.append(page)
            if is_writing:
                (ROOT / page).write_text(after, "utf-8")
    if is_writing:
        draw_curve()
    print("\n".join(f"{'written' if is_writing else 'differs from the data'}: {page}" for page in stale))
    sys.exit(bool(stale) and not is_writing)


if __name__ == "__main__":
    main()
