"""Measure the guards: what they let pass that they should not, and what they refuse that is right.

    python scripts/eval_guards.py                      # all languages, some three minutes
    python scripts/eval_guards.py --languages en       # English alone

Adversarial pairs are those of PAWS-X (``pairs_pawsx``): nearly the same words, and people decided
whether they mean the same. A pair is accepted if the cosine of its vectors reaches the
threshold and no guard objects; beside it stands the cosine alone. Friendly pairs are a query
and its nearest neighbour among real queries (``intent_banking77``, ``intent_clinc150``), told
apart by whether the two have one intent. Needs the extra ``onnx``.

The guards were made while looking at these files, so they say what the guards do, not what
they will do elsewhere; ``--part`` takes one half of the pairs, cut by a hash of their ids.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _run_facts import RunFacts, write_json

from lix_cache.embedders.onnx import OnnxEmbedder
from lix_cache.evaluation.binomial import clopper_pearson
from lix_cache.matching.guards import GUARDS, check

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = ("en", "de", "fr", "es", "zh", "ja", "ko")
INTENTS = ("intent_banking77", "intent_clinc150")
#: Pairs that no cosine tells apart, and whether they ask the same.
NAMED = (
    ("sort ascending", "sort descending", False),
    ("turn the light on", "turn the light off", False),
    ("enable notifications", "disable notifications", False),
    ("flights from Tokyo to Paris", "flights from Paris to Tokyo", False),
    ("top 5 films", "top 50 films", False),
    ("weather Tokyo", "Tokyo weather forecast", True),
    ("send 1,000 euros", "send 1000 euros", True),
)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def part_of(number: object) -> int:
    return hashlib.sha256(str(number).encode()).digest()[0] % 2


def share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def adversarial(pairs: list[dict[str, Any]], cosines: Any, threshold: float) -> tuple[str, dict[str, Any]]:
    """Return a row, false and true accepts, of the cosine alone and with the guards; and the counts."""
    total = Counter(pair["label"] for pair in pairs)
    alone, guarded, by_guard = Counter[int](), Counter[int](), Counter[tuple[str, int]]()
    for pair, cosine in zip(pairs, cosines, strict=True):
        if cosine < threshold:
            continue
        alone[pair["label"]] += 1
        objection = check(pair["a"], pair["b"])
        if objection is None:
            guarded[pair["label"]] += 1
        else:
            by_guard[objection.guard, pair["label"]] += 1
    caught = ", ".join(
        f"{g} {by_guard[g, 0]}/{by_guard[g, 1]}" for g in GUARDS if by_guard[g, 0] + by_guard[g, 1]
    )
    counts: dict[str, Any] = {"language": pairs[0]["lang"], "cosine": threshold}
    for name, label in (("different", 0), ("same", 1)):
        counts[name] = {"pairs": total[label]}
        for kind, accepted in (("alone", alone), ("guarded", guarded)):
            counts[name][kind] = accepted[label] / total[label]
            counts[name][f"{kind}_interval"] = clopper_pearson(accepted[label], total[label])
    row = (
        f"| {pairs[0]['lang']} | {threshold:.2f} | {share(alone[0], total[0])} / {share(alone[1], total[1])} "
        f"| {share(guarded[0], total[0])} / {share(guarded[1], total[1])} | {caught} |"
    )
    return row, counts


def friendly(name: str, queries: list[dict[str, Any]], vectors: Any, threshold: float) -> str:
    """Return a row: objections between nearest neighbours of one intent, and of two."""
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -1.0)
    nearest = similarities.argmax(axis=1)
    total, objected, by_guard = Counter[bool](), Counter[bool](), Counter[tuple[str, bool]]()
    spent = 0.0
    for i, j in enumerate(nearest):
        if similarities[i, j] < threshold:
            continue
        same = queries[i]["intent"] == queries[j]["intent"] != "oos"
        total[same] += 1
        began = time.thread_time()
        objection = check(queries[i]["text"], queries[j]["text"])
        spent += time.thread_time() - began
        if objection is not None:
            objected[same] += 1
            by_guard[objection.guard, same] += 1
    caught = ", ".join(
        f"{g} {by_guard[g, False]}/{by_guard[g, True]}"
        for g in GUARDS
        if by_guard[g, False] + by_guard[g, True]
    )
    return (
        f"| {name} | {threshold:.2f} | {total[True]} | {share(objected[True], total[True])} | {total[False]} "
        f"| {share(objected[False], total[False])} | {caught} | {spent / (total.total() or 1) * 1e6:.0f} µs |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = os.environ.get("LIX_CACHE_SHARED", str(ROOT.parent / "shared"))
    parser.add_argument("--shared", type=Path, default=Path(shared), help="folder with data/ and models/")
    parser.add_argument("--languages", nargs="+", default=LANGUAGES, choices=LANGUAGES)
    parser.add_argument("--thresholds", nargs="+", type=float, default=[0.75, 0.9])
    parser.add_argument("--part", type=int, choices=(0, 1), help="only this half of the adversarial pairs")
    parser.add_argument("--queries", type=int, default=2_500, help="of each intent set; 0 for none")
    parser.add_argument("--json", metavar="FILE", help="write the adversarial pairs' figures here")
    options = parser.parse_args()
    facts = RunFacts("onnxruntime")
    found: list[dict[str, Any]] = []
    embedder = OnnxEmbedder(options.shared / "models" / "all-MiniLM-L6-v2")
    data = options.shared / "data"

    print("| pair | asks the same | guards |\n|---|---|---|")
    for one, other, same in NAMED:
        objection = check(one, other)
        verdict = "pass" if objection is None else f"{objection.guard}: {objection.detail}"
        print(f"| {one} / {other} | {'yes' if same else 'no'} | {verdict} |")

    print(
        "\n| language | cosine ≥ | alone: false / true accepts | with guards | caught: wrong / right pairs |"
    )
    print("|---|---|---|---|---|")
    everything = list(rows(data / "pairs_pawsx" / "pairs.jsonl"))
    for language in options.languages:
        pairs = [pair for pair in everything if pair["lang"] == language]
        if options.part is not None:
            pairs = [pair for pair in pairs if part_of(pair["id"]) == options.part]
        cosines = np.einsum(
            "ij,ij->i",
            embedder.embed([pair["a"] for pair in pairs]),
            embedder.embed([pair["b"] for pair in pairs]),
        )
        for threshold in options.thresholds:
            row, counts = adversarial(pairs, cosines, threshold)
            found.append(counts)
            print(row, flush=True)

    if options.queries:
        print("\n| queries | cosine ≥ | one intent | objected | two intents | objected | two / one | check |")
        print("|---|---|---|---|---|---|---|---|")
    for name in INTENTS if options.queries else ():
        queries = list(rows(data / name / "queries.jsonl"))
        chosen = np.random.default_rng(0).choice(
            len(queries), min(options.queries, len(queries)), replace=False
        )
        sample = [queries[i] for i in chosen]
        vectors = embedder.embed([query["text"] for query in sample])
        for threshold in options.thresholds:
            print(friendly(name, sample, vectors, threshold), flush=True)
    if options.json:
        write_json(options.json, facts, {"pairs": found})


if __name__ == "__main__":
    main()
