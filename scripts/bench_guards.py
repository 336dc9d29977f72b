"""Measure what runs on the event loop over a question's text: normal form, policy, guards.

    python scripts/bench_guards.py            # some two minutes
    python scripts/bench_guards.py --real     # real text alone

One row for each text and length: milliseconds of CPU time (the thread's own, the best of five) of the
normal form, of the policy's look (one pattern, words about now), and of all guards on two
texts of that length. *Alike* are two texts of which one has a word more; *other* are two that
share their beginning alone. Both texts are new, their readings forgotten; in a *lookup* the query
alone is, since the cache has compared the stored question before; and *known* are both, as with
the second comparison of a lookup. For *new words*, whatever was looked up of any word is forgotten
too, as in the first comparison of a process.
Real text comes from the conversations in ``data`` (``LIX_CACHE_SHARED`` or ../shared); hostile
text is made here. Guards compare texts of up to 8,000 characters, so beyond that they cost nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from lix_cache.matching.guards import check, reading
from lix_cache.matching.guards.reading import Memo
from lix_cache.matching.text import normalise
from lix_cache.semantic.policy import CachePolicy

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (100, 500, 1_000, 2_000, 8_000, 20_000, 100_000)
REAL = {
    "English": "conv_mtbench101",
    "many languages": "conv_mtbench_multilingual",
    "Chinese": "conv_crosswoz_zh",
    "SQL and shell": "conv_intercode_sql_bash",
}
HOSTILE = {
    "spaces": " ",
    "carriage returns": "\r",
    "combining marks": "\u0301\u0323",
    "marks on letters": "e" + "\u0301\u0323" * 15,
    "digits": "7",
    "numbers": "1,234.5 km 3/4 5:30 ",
    "number words": "twenty hundred and ",
    "quotes": "'\"`“«",
    "open quotes": "“«「 'a ",
    "one word": "a",
    "capitals": "Aa Bb'c ",
    "brackets": "([{",
    "hyphens": "-",
    "mail": "a.b+c-d@",
    "paths": "/a.b/c-d:",
    "flags": "--a- ",
    "negations": "don't not never ",
    "opposites": "on off to from enable disable ",
    "apostrophes": "a'b",
    "Han": "不是从东京到巴黎二十五",
    "Thai": "ภาษาไทยไม่",
    "Hangul": "서울에서 부산까지 ",
    "superscripts": "x²½ ",
    "invisible": "a\u200b\u00ad ",
}
POLICY = CachePolicy(max_query_chars=20_000, exclude=(r"\b\d{4}[- ]?\d{4}[- ]?\d{4}[- ]?\d{4}\b",))


def real_text(folder: Path) -> str:
    parts: list[str] = []
    with (folder / "conversations.jsonl").open(encoding="utf-8") as file:
        for line in file:
            turns = json.loads(line)["turns"]
            parts.extend(turn["content"] for turn in turns if isinstance(turn["content"], str))
    return "\n".join(parts)


def made_text(piece: str, length: int) -> str:
    return (piece * (length // len(piece) + 1))[:length]


def distinct_words(length: int) -> str:
    return " ".join(
        f"w{i:x}zq".translate(str.maketrans("0123456789", "ghijklmnop")) for i in range(length // 5)
    )[:length]


def forget(*, words: bool) -> None:
    for found in gc.get_objects() if words else ():
        if isinstance(found, Memo):
            found.clear()
    for remembered in (reading._read_short, reading._read_long, reading.only_in, reading.words_only_in):
        remembered.cache_clear()


def milliseconds(
    call: Callable[[], object], *, words: bool = False, before: Callable[[], object] | None = None
) -> float:
    best = float("inf")
    for _ in range(5):
        forget(words=words)
        if before is not None:
            before()
        began = time.thread_time()
        call()
        best = min(best, time.thread_time() - began)
    return best * 1e3


def row(name: str, one: str, alike: str, other: str) -> None:
    def policy() -> None:
        if POLICY.check_lookup(one, {}) is None:
            POLICY.is_time_sensitive(one)

    check(one, alike)  # tables are made once in a process
    form, look = milliseconds(lambda: normalise(one)), milliseconds(policy)
    near, far = milliseconds(lambda: check(one, alike)), milliseconds(lambda: check(one, other))
    # Compared with a text that nothing is known of either, so the query stays new.
    lookup = milliseconds(lambda: check(one, alike), before=lambda: check(alike, f"{alike[:-4]} so"))
    known = milliseconds(lambda: check(one, alike), before=lambda: check(one, alike))
    first = milliseconds(lambda: check(one, alike), words=True)
    per = max(near, far) / len(one) * 1_000
    figures = " | ".join(f"{figure:.2f}" for figure in (form, look, near, far, lookup, known, per, first))
    print(f"| {name} | {len(one):,} | {figures} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = os.environ.get("LIX_CACHE_SHARED", str(ROOT.parent / "shared"))
    parser.add_argument("--shared", type=Path, default=Path(shared), help="folder with data/")
    parser.add_argument("--real", action="store_true", help="real text alone")
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    options = parser.parse_args()

    print("Milliseconds of CPU time, the best of five:\n")
    print(
        "| text | characters | normal form | policy | guards, alike | other | lookup | known "
        "| worse per 1,000 | new words |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, folder in REAL.items():
        text = real_text(options.shared / "data" / folder)
        for length in options.lengths:
            one = text[5_000 : 5_000 + length]
            middle = length // 2
            alike = (one[:middle] + " indeed " + one[middle:])[:length]
            row(name, one, alike, one[:20] + text[200_000 : 200_000 + length - 20])
    if options.real:
        return
    for name, piece in HOSTILE.items():
        for length in (2_000, 8_000):
            one = made_text(piece, length)
            middle = length // 2
            row(name, one, one[:middle] + "z" + one[middle + 1 :], "x" + one[1:])
    for length in (2_000, 8_000):
        one = distinct_words(length)
        row("words never seen", one, one[: length // 2] + " z " + one[length // 2 + 3 :], one[::-1])


if __name__ == "__main__":
    main()
