"""``lix-cache calibrate``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lix_cache import (
    Calibration,
    CalibrationPoint,
    InvalidInput,
    Question,
    calibrate,
    questions_from_log,
    questions_from_pairs,
    save_thresholds,
)
from lix_cache.cli.errors import PROBLEM
from lix_cache.cli.options import AsJson
from lix_cache.cli.output import for_humans, print_json, progress, to_stderr, visible
from lix_cache.cli.quality.model import Remembering, find_embedder
from lix_cache.cli.quality.plot import Curve, check_drawing, draw, text_plot
from lix_cache.cli.quality.sets import records_of

__all__ = ["calibrate_"]

_ALL = ""


def calibrate_(
    log: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help='JSONL of {"query", "answer_id"}. Repeatable.'),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help='JSONL of {"a", "b", "label"}. Repeatable.'),
    ] = None,
    bound: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="The highest false-hit rate allowed.")
    ] = 0.02,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Confidence of the proof.")] = 0.95,
    model: Annotated[
        str | None, typer.Option(metavar="DIR|NAME", help="ONNX model; 'lexical' needs none.")
    ] = None,
    guards: Annotated[bool, typer.Option(help="Whether the cache will have guards.")] = True,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Save the thresholds, for SemanticCache."),
    ] = None,
    plot: Annotated[
        str | None, typer.Option(metavar="FILE", help="Plot precision against hit ratio: .svg, .png or .pdf.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find thresholds on your own questions, and prove their false-hit rate.

    Fits on one half of the questions, proves on the other with an exact (Clopper-Pearson) limit. Each
    "group" in the records gets its own thresholds if they can be proven, beside those for
    all. Exits with 1 if nothing can be proven for all of them. docs/calibration.md explains.
    """
    if not log and not pairs:
        raise InvalidInput("no questions were given; name a file with --log or --pairs")
    if plot is not None:
        check_drawing()
    questions, left_out = _read(log or [], pairs or [])
    embedder = Remembering(find_embedder(model))
    with progress("embedding") as tell:
        vectors = embedder.prepare([question.text for question in questions], tell)
    rules: dict[str, Any] = {"bound": bound, "confidence": confidence}
    results = _by_group(questions, vectors, partial(calibrate, **rules, guards=guards))
    if output is not None:
        for group, result in results.items():
            if result.best is not None:
                save_thresholds(output, result, embedder=embedder.id, group=group)
    if plot is not None:
        curves = {name or "all": _curve(result) for name, result in results.items()}
        draw(curves, plot, bound=bound, title=f"{embedder.id}: {len(questions):,} questions")
    if as_json:
        found = [{"group": group, **_as_dict(result)} for group, result in results.items()]
        print_json({"embedder": embedder.id, **rules, "left_out": dict(left_out), "groups": found})
    else:
        _tell_left_out(left_out)
        for group, result in results.items():
            _show(for_humans(), group, result, output)
    if results[_ALL].best is None:
        raise typer.Exit(PROBLEM)


def _by_group(
    questions: list[Question], vectors: Any, run: Callable[..., Calibration]
) -> dict[str, Calibration]:
    """Calibrate for all questions, and for each group of them."""
    results: dict[str, Calibration] = {}
    for group in [_ALL, *sorted({question.group for question in questions} - {_ALL})]:
        numbers = [n for n, question in enumerate(questions) if group in (_ALL, question.group)]
        with progress(f"calibrating {group}".rstrip()) as tell:
            results[group] = run([questions[n] for n in numbers], vectors[numbers], progress=tell)
    return results


def _read(logs: Sequence[str], pairs: Sequence[str]) -> tuple[list[Question], dict[str, int]]:
    questions: list[Question] = []
    left_out: dict[str, int] = {}
    for paths, reader in ((logs, questions_from_log), (pairs, questions_from_pairs)):
        for path in paths:
            if not os.path.exists(path):
                raise InvalidInput(f"there is no file {path!r}")
            labelled = reader((record.where, record.value) for record in records_of(path))
            questions += labelled.questions
            for why, count in labelled.left_out.items():
                left_out[why] = left_out.get(why, 0) + count
    if not questions:
        raise InvalidInput("there is no question with a known answer in it")
    return questions, left_out


def _curve(result: Calibration) -> Curve:
    points = [(point.hit_ratio, point.false_hit_rate) for point in result.points if point.hits]
    best = result.best
    return Curve(points, {} if best is None else {"proven": (best.hit_ratio, best.false_hit_rate)})


def _as_dict(result: Calibration) -> dict[str, Any]:
    return {
        "questions": result.questions,
        "thresholds": None if result.thresholds is None else result.thresholds.as_dict(),
        "points": [
            {
                **{name: value for name, value in asdict(point).items() if name != "thresholds"},
                "hit_ratio": point.hit_ratio,
                "false_hit_rate": point.false_hit_rate,
                "thresholds": point.thresholds.as_dict(),
            }
            for point in result.points
        ],
        "hits_needed": result.needed,
    }


def _tell_left_out(left_out: dict[str, int]) -> None:
    for why, count in left_out.items():
        to_stderr().print(Text(f"left out: {count:,} {why}", style="yellow"), soft_wrap=True)


def _show(console: Console, group: str, result: Calibration, output: str | None) -> None:
    console.print(
        Text(f"\n{visible(group) or 'all'}", style="bold").append(
            f"  {result.questions:,} questions; at most {result.bound:.2%} of the hits wrong, "
            f"with {result.confidence:.0%} confidence",
            style="not bold",
        )
    )
    table = Table(box=None, pad_edge=False)
    for head in ("score", "hit ratio", "false-hit rate", "at most", ""):
        table.add_column(head, justify="left" if not head else "right")
    for point in result.points:
        table.add_row(
            f"{point.thresholds.score:.3f}",
            f"{point.hit_ratio:.2%}",
            f"{point.false_hit_rate:.2%}  {point.wrong:,} of {point.hits:,}",
            f"{point.upper:.2%}",
            _verdict(point, result),
        )
    console.print(table)
    console.print(Text(text_plot({"measured": _curve(result)}, bound=result.bound)), soft_wrap=True)
    best = result.best
    if best is None:
        console.print(
            Text(
                f"✗ nothing is proven: it takes {result.needed:,} hits without a mistake, or more with some. "
                "Give more questions, or a higher --bound",
                style="bold red",
            ),
            soft_wrap=True,
        )
        return
    numbers = ", ".join(
        f"{name} {value:g}" for name, value in best.thresholds.as_dict().items() if value is not None
    )
    console.print(Text(f"✓ {numbers}", style="green"), soft_wrap=True)
    if output is not None:
        console.print(Text(f"  saved in {visible(output)}"), soft_wrap=True)


def _verdict(point: CalibrationPoint, result: Calibration) -> Text:
    if point is result.best:
        return Text("✓ proven, and taken", style="bold green")
    if point.is_proven:
        return Text("✓ proven", style="green")
    return Text("not proven" if point.is_tried else "for comparison", style="dim")
