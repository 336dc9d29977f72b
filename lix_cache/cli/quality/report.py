"""What an evaluation says, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lix_cache import PairTally, Replay
from lix_cache.cli.output import print_indented, visible
from lix_cache.cli.quality.sets import QuestionSet

__all__ = ["pairs_as_dicts", "replays_as_dicts", "show_pairs", "show_replays"]


def show_replays(console: Console, chosen: QuestionSet, replays: Mapping[str, Replay], mistakes: int) -> None:
    """Print a table for a stream of questions, and some of the wrong hits."""
    answers = len({question.answer for question in chosen.questions})
    console.print(
        Text(f"\n{visible(chosen.name)}", style="bold").append(
            f"  {len(chosen.questions):,} of {chosen.available:,} questions, {answers:,} answers, "
            + ("a reply written for each" if chosen.questions[0].reply else "equal responses for each"),
            style="not bold",
        )
    )
    table = _table("hit ratio", "wrong among hits")
    for name, run in replays.items():
        table.add_row(
            Text(visible(name)),
            _share(run.hit_ratio, run.hit_interval()),
            _share(run.wrong_ratio, run.wrong_interval()),
            f"{run.wrong:,} of {run.hits:,}",
            f"{run.lookup_ms[0]:.2f}",
        )
    console.print(table)
    _show_reasons(console, {name: run.reasons for name, run in replays.items()})
    for name, run in replays.items():
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
        within = sum(run["wrong_among_hits"] <= 0.02 for run in own)
        mean = sum(run["hit_ratio"] for run in own) / len(own)
        table.add_row(Text(visible(name)), f"{mean:.2%}", f"{wrong:.1f}", f"{within} of {len(own)}")
    console.print(table)


def show_pairs(console: Console, chosen: QuestionSet, tallies: Mapping[str, PairTally]) -> None:
    """Print a table for pairs."""
    console.print(
        Text(f"\n{visible(chosen.name)}", style="bold").append(
            f"  {len(chosen.pairs):,} of {chosen.available:,} pairs", style="not bold"
        )
    )
    table = Table(box=None, pad_edge=False)
    for head in ("", "accepted of the same", "accepted of the different"):
        table.add_column(head, overflow="fold")
    for name, tally in tallies.items():
        table.add_row(
            Text(visible(name)),
            _share(tally.true_accepts / max(1, tally.same), tally.true_accepts_interval()),
            _share(tally.false_accepts / max(1, tally.different), tally.false_accepts_interval()),
        )
    console.print(table)
    _show_reasons(console, {name: tally.reasons for name, tally in tallies.items()})


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


def replays_as_dicts(replays: Mapping[str, Replay], mistakes: int) -> list[dict[str, Any]]:
    """Return the figures of a stream of questions."""
    return [
        {
            "cache": name,
            "questions": run.questions,
            "hits": run.hits,
            "wrong": run.wrong,
            "hit_ratio": run.hit_ratio,
            "hit_ratio_95": run.hit_interval(),
            "wrong_among_hits": run.wrong_ratio,
            "wrong_among_hits_95": run.wrong_interval(),
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
        for name, run in replays.items()
    ]


def pairs_as_dicts(tallies: Mapping[str, PairTally]) -> list[dict[str, Any]]:
    """Return the figures of pairs."""
    return [
        {
            "cache": name,
            "same": tally.same,
            "true_accepts": tally.true_accepts,
            "true_accepts_95": tally.true_accepts_interval(),
            "different": tally.different,
            "false_accepts": tally.false_accepts,
            "false_accepts_95": tally.false_accepts_interval(),
            "reasons": dict(tally.reasons),
        }
        for name, tally in tallies.items()
    ]
