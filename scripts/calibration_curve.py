#!/usr/bin/env python3
"""Measure how the built-in thresholds trade hits for wrong answers, and draw it.

Plays labelled questions through in memory, online, with the guards (lix_cache/evaluation/offline.py);
``lix-cache eval`` does the same with the real cache on a real Redis, for single points of the curve.
Needs the evaluation sets and the model (LIX_CACHE_SHARED, or ../shared).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _run_facts import RunFacts, write_json

from lix_cache import (
    DEFAULT_THRESHOLDS,
    STRICT_THRESHOLDS,
    CalibrationPoint,
    Question,
    Thresholds,
    calibration_curve,
)
from lix_cache.cli.quality.model import Remembering, find_embedder
from lix_cache.cli.quality.plot import Curve, draw
from lix_cache.cli.quality.sets import load_set
from lix_cache.evaluation.binomial import clopper_pearson

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- begin: measured by scripts/calibration_curve.py -->", "<!-- end -->"
SETS = ("banking77", "clinc150")
SCORES = (1.06, 1.1, 1.14, 1.18, 1.23, 1.3, 1.35, 1.42, 1.5, 1.6, 1.7)
#: Curves that the table and the plot show; the guards' part in ours is seen from cosines with guards.
SHOWN = ("lix-cache", "plain cosine")
GUARDED = "cosine with guards"
COSINES = (0.80, 0.83, 0.85, 0.87, 0.90, 0.92, 0.94, 0.96)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--sets", nargs="+", default=SETS, help="of labelled questions")
    add("--queries", type=int, default=3000, help="of each set and seed")
    add("--seeds", type=int, default=5, help="so many samples of each set, summed up")
    add("--disjoint", action="store_true", help="cut each set into samples that share no question")
    add("--half", default="all", help="dev, heldout or all")
    add("--model", help="ONNX model; by default the usual one")
    add("--json", metavar="FILE", help="write the figures here")
    add("--plot", metavar="FILE", help="draw the curve: docs/img/calibration.svg")
    add("--write-docs", metavar="FILE", help="put the table between the marks of docs/calibration.md")
    return parser.parse_args()


def main() -> None:
    """Measure, print, draw."""
    arguments = _arguments()
    facts = RunFacts("onnxruntime")
    embedder = Remembering(find_embedder(arguments.model))
    measured: dict[str, dict[str, list[CalibrationPoint]]] = {}
    many: dict[str, int] = {}
    for name in arguments.sets:
        samples = _samples(name, arguments)
        many[name] = len(samples)
        measured[name] = _measure(embedder, samples)
        print(f"{name}: done", flush=True)
    table = "\n".join(_table(measured, arguments))
    print(table)
    if arguments.json:
        sample = {
            "queries": arguments.queries,
            "samples": many,
            "disjoint": arguments.disjoint,
            "half": arguments.half,
        }
        write_json(arguments.json, facts, {"sample": sample, "sets": _as_dict(measured)})
    if arguments.plot:
        Path(arguments.plot).parent.mkdir(parents=True, exist_ok=True)
        draw(
            _curves(measured),
            arguments.plot,
            bound=0.02,
            title=f"{embedder.id.rsplit(':', 1)[0]}, {arguments.queries:,} questions online",
        )
    if arguments.write_docs:
        _write_between_marks(Path(arguments.write_docs), table)


def _samples(name: str, arguments: argparse.Namespace) -> list[Sequence[Question]]:
    """Return the samples of a set: each from a seed, or pieces of one order of the whole set.

    Samples from seeds overlap, so a question that goes wrong counts several times and the intervals come out
    too narrow. Pieces share no question; what does not fill one is left out.
    """

    def load(count: int, seed: int) -> Sequence[Question]:
        return load_set(name, None, half=arguments.half, count=count, seed=seed, languages=()).questions

    size = arguments.queries
    if not arguments.disjoint:
        return [load(size, seed) for seed in range(arguments.seeds)]
    whole = load(0, 0)
    return [whole[start : start + size] for start in range(0, len(whole) - size + 1, size)]


def _with(score: float) -> Thresholds:
    """Return the default thresholds with another score."""
    if score == STRICT_THRESHOLDS.score:
        return STRICT_THRESHOLDS
    return replace(DEFAULT_THRESHOLDS, score=score)


def _measure(
    embedder: Remembering, samples: Sequence[Sequence[Question]]
) -> dict[str, list[CalibrationPoint]]:
    ours = [DEFAULT_THRESHOLDS if e == DEFAULT_THRESHOLDS.score else _with(e) for e in SCORES]
    plain = [Thresholds(threshold=cosine) for cosine in COSINES]
    runs: dict[str, list[list[CalibrationPoint]]] = {name: [] for name in (*SHOWN, GUARDED)}
    for questions in samples:
        vectors = embedder.embed([question.text for question in questions])
        runs["lix-cache"].append(calibration_curve(questions, vectors, ours))
        runs["plain cosine"].append(calibration_curve(questions, vectors, plain, guards=False))
        runs[GUARDED].append(calibration_curve(questions, vectors, plain))
    return {name: [_sum(points) for points in zip(*run, strict=True)] for name, run in runs.items()}


def _sum(points: Iterable[CalibrationPoint]) -> CalibrationPoint:
    points = list(points)
    return CalibrationPoint(
        points[0].thresholds,
        sum(point.questions for point in points),
        sum(point.hits for point in points),
        sum(point.wrong for point in points),
        math.nan,
    )


def _curves(measured: dict[str, dict[str, list[CalibrationPoint]]]) -> dict[str, Curve]:
    curves = {}
    for name, kinds in measured.items():
        for kind, points in ((kind, kinds[kind]) for kind in SHOWN):
            marks = {
                {
                    DEFAULT_THRESHOLDS: "default",
                    STRICT_THRESHOLDS: "strict",
                    Thresholds(threshold=0.90): "0.90",
                }[point.thresholds]: (point.hit_ratio, point.false_hit_rate)
                for point in points
                if point.thresholds in (DEFAULT_THRESHOLDS, STRICT_THRESHOLDS, Thresholds(threshold=0.90))
            }
            curves[f"{name}, {kind}"] = Curve(
                [(p.hit_ratio, p.false_hit_rate) for p in points if p.hits], marks, kind != "lix-cache"
            )
    return curves


def _table(
    measured: dict[str, dict[str, list[CalibrationPoint]]], arguments: argparse.Namespace
) -> Iterable[str]:
    many = "disjoint" if arguments.disjoint else str(arguments.seeds)
    yield (
        f"Sums of {many} samples of {arguments.queries:,} questions "
        f"(half: {arguments.half}), all-MiniLM-L6-v2 int8; in brackets the exact 95% interval."
    )
    yield ""
    yield "| thresholds | " + " | ".join(f"{name}: hits | false-hit rate" for name in measured) + " |"
    yield "|---|" + "---|" * 2 * len(measured)
    first = next(iter(measured.values()))
    for kind, points in ((kind, first[kind]) for kind in SHOWN):
        for number, point in enumerate(points):
            cells = [cell for kinds in measured.values() for cell in _cells(kinds[kind][number])]
            yield f"| {_name(kind, point.thresholds)} | {' | '.join(cells)} |"


def _name(kind: str, thresholds: Thresholds) -> str:
    if kind != "lix-cache":
        return f"plain cosine {thresholds.threshold:.2f}"
    word = {DEFAULT_THRESHOLDS: " (default)", STRICT_THRESHOLDS: " (strict)"}.get(thresholds, "")
    return f"score {thresholds.score:.2f}{word}"


def _cells(point: CalibrationPoint) -> tuple[str, str]:
    low, high = clopper_pearson(point.wrong, point.hits) if point.hits else (0.0, 1.0)
    return f"{point.hit_ratio:.1%}", f"{point.false_hit_rate:.2%} ({low:.2%} to {high:.2%})"


def _as_dict(measured: dict[str, dict[str, list[CalibrationPoint]]]) -> dict[str, Any]:
    return {
        name: {
            kind: [
                {
                    "thresholds": p.thresholds.as_dict(),
                    # Without those that repeat the words of an earlier one: they are answered by their text.
                    "questions": p.questions,
                    "hits": p.hits,
                    "wrong": p.wrong,
                    "hit_ratio": p.hit_ratio,
                    "false_hit_rate": p.false_hit_rate,
                    "interval": clopper_pearson(p.wrong, p.hits) if p.hits else (0.0, 1.0),
                }
                for p in points
            ]
            for kind, points in kinds.items()
        }
        for name, kinds in measured.items()
    }


def _write_between_marks(path: Path, text: str) -> None:
    content = path.read_text()
    head, rest = content.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    path.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}")


if __name__ == "__main__":
    main()
