"""What an evaluation says, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lix_cache import Evaluation, PairEvaluation
from lix_cache.cli.output import print_indented, visible
from lix_cache.cli.quality.sets import QuestionSet

__all__ = ["evaluations_as_dicts", "pairs_as_dicts", "show_evaluations", "show_pairs"]


def show_evaluations(
    console: Console, chosen: QuestionSet, runs: Mapping[str, Evaluation], mistakes: int
) -> None:
    """Print a table for a stream of questions, and some of the wrong hits."""
    answers = len({question.answer for question in chosen.questions})
    console.print(
        Text(f"\n{visible(chosen.name)}", style="bold").append(
            f"  {len(chosen.questions):,} of {chosen.available:,} questions, {answers:,} answers, "
            + ("a reply written for each" if chosen.questions[0].reply else "equal responses for each"),
            style="not bold",
        )
    )
    table = _table("hit ratio", "false-hit rate")
    for name, run in runs.items():
        table.add_row(
            Text(visible(name)),
            _share(run.hit_ratio, run.hit_interval()),
            _share(run.false_hit_rate, run.false_hit_interval()),
            f"{run.wrong:,} of {run.hits:,}",
            f"{run.lookup_ms[0]:.2f}",
        )
    console.print(table)
    _show_reasons(console, {name: run.reasons for name, run in runs.items()})
    for name, run in runs.items():
        for wrong in run.mistakes[:mistakes]:
            text = Text(f"{visible(name)}: {visible(wrong.question)!r} is {visible(wrong.right)!r}, ")
            text.append(f"served {visible(wrong.served)!r} at {wrong.similarity:.3f}")
            print_indented(console, text)


def show_summary(console: Console, results: Sequence[Mapping[str, Any]]) -> None:
    """Print what the sets of questions say together, each with the same weight."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        for run in result["caches"]:
            if "hit_ratio" in run:
                runs.setdefault(run["cache"], []).append(run)
    console.print(Text("\nall sets of questions", style="bold"))
    table = Table(box=None, pad_edge=False)
    for head in ("", "mean hit ratio", "wrong hits in 1,000 questions", "sets with at most 2% wrong"):
        table.add_column(head, overflow="fold")
    for name, own in runs.items():
        wrong = sum(1000 * run["wrong"] / max(1, run["questions"]) for run in own) / len(own)
        within = sum(run["false_hit_rate"] <= 0.02 for run in own)
        mean = sum(run["hit_ratio"] for run in own) / len(own)
        table.add_row(Text(visible(name)), f"{mean:.2%}", f"{wrong:.1f}", f"{within} of {len(own)}")
    console.print(table)


def show_pairs(console: Console, chosen: QuestionSet, results: Mapping[str, PairEvaluation]) -> None:
    """Print a table for pairs."""
    console.print(
        Text(f"\n{visible(chosen.name)}", style="bold").append(
            f"  {len(chosen.pairs):,} of {chosen.available:,} pairs", style="not bold"
        )
    )
    table = Table(box=None, pad_edge=False)
    for head in ("", "accepted of the same", "accepted of the different"):
        table.add_column(head, overflow="fold")
    for name, result in results.items():
        table.add_row(
            Text(visible(name)),
            _share(result.true_accepts / max(1, result.same), result.true_accepts_interval()),
            _share(result.false_accepts / max(1, result.different), result.false_accepts_interval()),
        )
    console.print(table)
    _show_reasons(console, {name: result.reasons for name, result in results.items()})


def _table(*shares: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in ("", *shares, "wrong", "lookup ms"):
        table.add_column(head, overflow="fold")
    return table


def _share(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.2%} ({interval[0]:.2%} to {interval[1]:.2%})"


def _show_reasons(console: Console, reasons: Mapping[str, Mapping[str, int]]) -> None:
    # Below the table: as a column they would leave the figures no room on 80 columns.
    for name, counts in reasons.items():
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        words = ", ".join(f"{visible(reason)} {count:,}" for reason, count in ordered)
        console.print(Text(f"{visible(name)}: {words}", style="dim"), soft_wrap=True)


def evaluations_as_dicts(runs: Mapping[str, Evaluation], mistakes: int) -> list[dict[str, Any]]:
    """Return the figures of a stream of questions."""
    return [
        {
            "cache": name,
            "questions": run.questions,
            "hits": run.hits,
            "wrong": run.wrong,
            "hit_ratio": run.hit_ratio,
            "hit_ratio_95": run.hit_interval(),
            "false_hit_rate": run.false_hit_rate,
            "false_hit_rate_95": run.false_hit_interval(),
            "reasons": dict(run.reasons),
            "lookup_ms_p50_p95_p99": run.lookup_ms,
            "mistakes": [
                {
                    "question": wrong.question,
                    "right": wrong.right,
                    "served": wrong.served,
                    "similarity": wrong.similarity,
                    "reason": wrong.reason,
                }
                for wrong in run.mistakes[:mistakes]
            ],
        }
        for name, run in runs.items()
    ]


def pairs_as_dicts(results: Mapping[str, PairEvaluation]) -> list[dict[str, Any]]:
    """Return the figures of pairs."""
    return [
        {
            "cache": name,
            "same": result.same,
            "true_accepts": result.true_accepts,
            "true_accepts_95": result.true_accepts_interval(),
            "different": result.different,
            "false_accepts": result.false_accepts,
            "false_accepts_95": result.false_accepts_interval(),
            "reasons": dict(result.reasons),
        }
        for name, result in results.items()
    ]
