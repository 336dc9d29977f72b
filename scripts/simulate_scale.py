#!/usr/bin/env python3
"""Work out what a store of millions of sessions needs: Redis bytes, objects, requests, dollars, daemons.

    python scripts/simulate_scale.py                                  # 10 million sessions, 1,000 messages/s
    python scripts/simulate_scale.py --sessions 2e6 --messages-per-second 150 --idle-minutes 30
    python scripts/simulate_scale.py --measure                        # the unit costs anew, on this machine

It is arithmetic: assumptions (each is an option), unit costs that were counted and measured on the library
itself (--measure counts them again, with a Redis server and an object store in memory), and list prices.
The same input prints the same figures on any machine; docs/scale.md shows those of the first line above.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _scale_model import (
    MEASURED,
    MEMORY_PRICE,
    MONTH,
    SOME,
    STORAGE_PRICE,
    Assumptions,
    UnitCosts,
    log_index,
    simulate,
    turn_of,
)
from bench_objects import PRICED

__all__ = ["MEASURED", "Assumptions", "log_index", "simulate", "turn_of"]


def _number_of(one: dataclasses.Field[Any]) -> Callable[[str], float]:
    """Return what reads an option: a number that there can be."""
    least, most = one.metadata["least"], one.metadata["most"]

    def read(text: str) -> float:
        value = float(text)
        if math.isfinite(value) and least <= value <= most:
            return value
        low = "more than 0" if least == SOME else f"at least {least:g}"
        raise argparse.ArgumentTypeError(
            f"{text} is not {low}" + f" and at most {most:g}" * (most < math.inf)
        )

    read.__name__ = "number"  # as argparse calls what float() refuses
    return read


def size(count: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def number(count: float) -> str:
    for unit, factor in ((" billion", 1e9), (" million", 1e6)):
        if count >= factor:
            return f"{count / factor:,.2f}{unit}"
    return f"{count:,.0f}" if count >= 100 else f"{count:,.3g}"


def told(a: Assumptions, u: UnitCosts) -> list[str]:
    """Return the report, line by line."""
    f = simulate(a, u)
    total = sum(f.dollars.values())
    lines = ["assumptions"]
    lines += [_line(one, a) for one in dataclasses.fields(a)]
    lines += ["", "unit costs, counted and measured"]
    lines += [_line(one, u) for one in dataclasses.fields(u)]
    lines += ["", f"prices: {PRICED}; ${STORAGE_PRICE} a GB-month"]
    lines += [f"        memory ${MEMORY_PRICE:.2f} a GiB-month (EC2 r6g.large on demand, us-east-1)"]
    rows = {
        "visits a second": number(f.visits_per_second),
        "hot sessions": f"{number(f.hot_sessions)} ({f.hot_sessions / a.sessions:.1%})",
        "Redis bytes, mean": size(f.hot_bytes),
        "Redis bytes, busiest hour": size(f.peak_bytes),
        "masters; servers with replicas": f"{f.masters:.0f}; {f.masters * (1 + a.replicas):.0f}",
        "a master's time for adds and reads, busiest hour": f"{f.server_share:.1%}",
        "messages stored": number(f.messages_stored),
        "archive": size(f.archive_bytes),
        "objects, at most": number(f.objects),
        "sessions of a log; its snapshot": f"{number(f.log_sessions)}; {size(f.snapshot_bytes)}, "
        f"{number(f.snapshots_per_day)} a day, each {f.snapshot_gets:.0f} gets",
        "memory of a process that uses all logs, at most": size(f.process_bytes),
        "sessions brought back a second": number(f.sessions_brought_back),
        "commits a second": number(f.commits_per_second),
        "requests a month": f"{number(f.puts)} puts, {number(f.gets)} gets, {number(f.lists)} lists",
        "daemons that are busy, busiest hour": f"{f.daemons_busy:.2f} of {a.daemons:.0f}",
        **{f"  with {what}": f"{share:.2f}" for what, share in f.busy.items()},
    }
    lines += ["", "result", *(f"  {what:<50} {value}" for what, value in rows.items())]
    lines += ["", "dollars a month"]
    lines += [f"  {what:<50} {dollars:>9,.0f}" for what, dollars in f.dollars.items()]
    lines += [f"  {'all':<50} {total:>9,.0f}"]
    lines += [f"  {'for a million messages':<50} {total / (a.messages_per_second * MONTH / 1e6):>9.2f}"]
    lines += ["", "what the settings change: Redis bytes in the busiest hour, puts a month, dollars a month"]
    lines += [_other(a, u, **change) for change in CHANGES]
    return lines


#: Settings that move most of it.
CHANGES: tuple[dict[str, float], ...] = (
    {},
    {"idle_minutes": 30},
    {"idle_minutes": 720},
    {"idle_minutes": 2880},
    {"interval_seconds": 60},
    {"interval_seconds": 5},
    {"interval_seconds": 5, "daemons": 50},
    {"buckets": 64},
    {"processes": 5},
)


def _other(a: Assumptions, u: UnitCosts, **change: float) -> str:
    f = simulate(dataclasses.replace(a, **change), u)
    name = ", ".join(f"{what}={value:g}" for what, value in change.items()) or "as above"
    dollars = sum(f.dollars.values())
    return f"  {name:<50} {size(f.peak_bytes):>9} {number(f.puts):>15} {dollars:>9,.0f}"


def _line(one: dataclasses.Field[Any], of: Any) -> str:
    value = getattr(of, one.name)
    return (
        f"  {one.name:<22} {number(value) if value >= 1e6 else f'{value:,g}':>12}  {one.metadata['meaning']}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for one in dataclasses.fields(Assumptions):
        option = f"--{one.name.replace('_', '-')}"
        parser.add_argument(
            option, type=_number_of(one), default=one.default, help=f"{one.metadata['meaning']} (%(default)g)"
        )
    parser.add_argument("--measure", action="store_true", help="measure the unit costs anew, and use them")
    parser.add_argument(
        "--data", metavar="DIR", help="conversations for --measure; those of the demo otherwise"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    chosen = vars(parser.parse_args())
    assumed = Assumptions(**{one.name: chosen[one.name] for one in dataclasses.fields(Assumptions)})
    costs = MEASURED
    if chosen["measure"]:
        from _scale_costs import measured

        costs = dataclasses.replace(MEASURED, **measured(chosen["data"]))
        print("\n".join(f"    {name}={value:g}," for name, value in dataclasses.asdict(costs).items()), "\n")
    print("\n".join(told(assumed, costs)))
    if chosen["json"]:
        found = {
            "assumptions": dataclasses.asdict(assumed),
            "unit_costs": dataclasses.asdict(costs),
            "figures": dataclasses.asdict(simulate(assumed, costs)),
        }
        Path(chosen["json"]).write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
