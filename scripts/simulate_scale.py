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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_objects import PRICED, PRICES

from lix_cache.archive.objects.store_note import MOST_SHARDS

#: Dollars for a GB-month there, the first 50 TB.
STORAGE_PRICE = 0.023
#: Amazon EC2 r6g.large on demand, us-east-1: 16 GiB for $0.1008 an hour of 730 in a month.
MEMORY_PRICE = 0.1008 * 730 / 16
DAY, MONTH = 86_400.0, 30 * 86_400.0
GIB, GB = 2.0**30, 1e9
#: Sessions that the daemon moves together.
AT_ONCE = 32


#: The least that a rate or a size that must not be 0 can be.
_SOME = 1e-6


def _of(value: float, meaning: str, least: float = 0, most: float = math.inf) -> Any:
    return field(default=value, metadata={"meaning": meaning, "least": least, "most": most})


def _number_of(one: dataclasses.Field[Any]) -> Callable[[str], float]:
    """Return what reads an option: a number that there can be."""
    least, most = one.metadata["least"], one.metadata["most"]

    def read(text: str) -> float:
        value = float(text)
        if math.isfinite(value) and least <= value <= most:
            return value
        low = "more than 0" if least == _SOME else f"at least {least:g}"
        raise argparse.ArgumentTypeError(
            f"{text} is not {low}" + f" and at most {most:g}" * (most < math.inf)
        )

    read.__name__ = "number"  # as argparse calls what float() refuses
    return read


@dataclass(frozen=True)
class Assumptions:
    """What the application does, and how the store is set up."""

    sessions: float = _of(10e6, "sessions that are stored at any time", 1)
    messages_per_second: float = _of(
        1000, "messages added, by users and assistants, mean over the day", _SOME
    )
    peak: float = _of(3, "busiest hour, as a multiple of the mean", 1)
    visit_messages: float = _of(10, "messages of one visit, from its first one to the last", 1)
    visit_minutes: float = _of(10, "minutes that a visit takes")
    reads_per_message: float = _of(0.5, "get_context calls for each message: one before each answer")
    days_unused: float = _of(14, "disk_ttl_days: days after its last use that a session is removed", _SOME)
    idle_minutes: float = _of(120, "evict_after_minutes: idle minutes after which a session leaves Redis")
    window: float = _of(20, "hot_window_size: messages that a context has", 1)
    batch: float = _of(10, "archive_batch_turns: messages by which a window grows before it is cut", 1)
    interval_seconds: float = _of(300, "evictor_interval_seconds, of the processes with a daemon", _SOME)
    processes: float = _of(20, "processes that bring sessions back", 1)
    daemons: float = _of(4, "processes with a daemon; all others have evictor_enabled=False", 1)
    buckets: float = _of(1024, "redis_buckets; the archive has as many logs", 1, MOST_SHARDS)
    masters_gib: float = _of(13, "maxmemory of one master: what a server of 16 GiB can give", _SOME)
    fill: float = _of(0.7, "share of it that is in use in the busiest hour", _SOME, 1)
    replicas: float = _of(1, "replicas of each master")


@dataclass(frozen=True)
class UnitCosts:
    """What the library takes for one of each. ``--measure`` prints them."""

    message_bytes: float = _of(0, "bytes of text in a message, mean of the conversations")
    hot_session_bytes: float = _of(0, "Redis bytes of a hot session besides its messages")
    hot_message_bytes: float = _of(0, "Redis bytes of a message in a window")
    add_us: float = _of(0, "microseconds of the server for an add")
    read_us: float = _of(0, "microseconds of the server for a read of the window")
    archived_message_bytes: float = _of(0, "bytes of an archived message, its share of the index included")
    commit_puts: float = _of(0, "puts of a commit, with its share of the snapshots")
    commit_gets: float = _of(0, "gets of a commit")
    commit_lists: float = _of(0, "lists of a commit")
    return_puts: float = _of(0, "puts to bring a session back")
    return_gets: float = _of(0, "gets to bring a session back")
    away_gets: float = _of(0, "gets to move such a session away again: what is archived is recognised")
    follow_gets: float = _of(0, "gets of a process for each put of another that it learns of")
    look_gets: float = _of(0, "gets of a daemon's round for each log, for what was written without Redis")
    evictions_per_second: float = _of(0, "sessions a daemon moves in a second (make bench-cluster)")


#: By --measure with nine sets of conversations and Redis 7.0.15; evictions by make bench-cluster.
MEASURED = UnitCosts(
    message_bytes=150,
    hot_session_bytes=3276,
    hot_message_bytes=163,
    add_us=29.1,
    read_us=106.9,
    archived_message_bytes=67,
    commit_puts=1.004,
    commit_gets=0.008,
    commit_lists=0.002,
    return_puts=2,
    return_gets=2,
    away_gets=4,
    follow_gets=1,
    look_gets=1,
    evictions_per_second=294,
)


@dataclass(frozen=True)
class Figures:
    """What comes of it."""

    visits_per_second: float
    hot_sessions: float
    hot_bytes: float
    peak_bytes: float
    masters: float
    server_share: float
    messages_stored: float
    archive_bytes: float
    objects: float
    commits_per_second: float
    sessions_brought_back: float
    puts: float
    gets: float
    lists: float
    daemons_busy: float
    dollars: dict[str, float]


def simulate(a: Assumptions, u: UnitCosts) -> Figures:
    """Return the figures of one store."""
    visits = a.messages_per_second / a.visit_messages
    # Visits come independently of each other. So a session is hot for a share of the time, and a visit finds
    # it hot with the same probability: a visit before was not long enough ago.
    round_seconds = a.interval_seconds / a.daemons
    hot_seconds = (a.visit_minutes + a.idle_minutes) * 60 + round_seconds / 2
    is_hot = -math.expm1(-hot_seconds * visits / a.sessions)
    hot = a.sessions * is_hot
    returns = visits * (1 - is_hot)
    # A session that was brought back begins with a full window.
    hot_bytes = hot * (u.hot_session_bytes + (a.window + a.batch / 2) * u.hot_message_bytes)
    peak_bytes = min(hot_bytes * a.peak, a.sessions * hot_bytes / max(hot, 1))
    masters = max(3, math.ceil(peak_bytes / (a.masters_gib * GIB * a.fill)))
    calls = a.messages_per_second * (u.add_us + a.reads_per_message * u.read_us)
    # A session is stored while it is used and for some days more; it grows evenly while it is used.
    born = a.sessions / _days_stored(a) / DAY
    each = a.messages_per_second / born
    used = _days_stored(a) - a.days_unused
    stored = a.sessions * each * (used / 2 + a.days_unused) / _days_stored(a)
    # What the archive lacks of a window that overflows is a commit of its own: a session that came back began
    # with a window that is archived. The sessions of a bucket that a round finds idle are one, or several of
    # 32.
    spilled = is_hot * a.visit_messages + max(0.0, a.visit_messages - a.window)
    waiting = returns * round_seconds / a.buckets
    commits = a.buckets / round_seconds * max(-math.expm1(-waiting), waiting / AT_ONCE)
    commits += visits * spilled / a.batch
    looks = a.daemons / a.interval_seconds * a.buckets
    # Who uses a log learns of all that others put there.
    puts = commits * u.commit_puts + returns * u.return_puts
    follows = puts * (a.processes + a.daemons - 1)
    back_gets = u.return_gets + u.away_gets
    requests = {
        "put": puts * MONTH,
        "get": (commits * u.commit_gets + returns * back_gets + looks * u.look_gets + follows * u.follow_gets)
        * MONTH,
        "list": commits * u.commit_lists * MONTH,
    }
    archive_bytes = stored * u.archived_message_bytes
    servers = masters * (1 + a.replicas)
    dollars = {
        "Redis memory": servers * 16 * MEMORY_PRICE,
        "object storage, bytes": archive_bytes / GB * STORAGE_PRICE,
        "commits of the daemons": commits * MONTH * _price(u.commit_puts, u.commit_gets, u.commit_lists),
        "sessions brought back, and moved again": returns * MONTH * _price(u.return_puts, back_gets, 0),
        "following what others put": follows * MONTH * _price(0, u.follow_gets, 0),
        "looks for what was written without Redis": looks * MONTH * _price(0, u.look_gets, 0),
    }
    return Figures(
        visits_per_second=visits,
        hot_sessions=hot,
        hot_bytes=hot_bytes,
        peak_bytes=peak_bytes,
        masters=masters,
        server_share=calls * a.peak / masters / 1e6,
        messages_stored=stored,
        archive_bytes=archive_bytes,
        objects=commits * _days_stored(a) * DAY + returns * u.return_puts * _kept_days() * DAY,
        commits_per_second=commits,
        sessions_brought_back=returns,
        puts=requests["put"],
        gets=requests["get"],
        lists=requests["list"],
        daemons_busy=returns * a.peak / u.evictions_per_second if u.evictions_per_second else math.inf,
        dollars=dollars,
    )


def _days_stored(a: Assumptions) -> float:
    """Days from a session's first message to its removal: twice as long as it may lie unused."""
    return 2 * a.days_unused


def _kept_days() -> float:
    """Days that an object of a lease alone is kept: the grace period, and until the next snapshot."""
    return 2.0


def _price(puts: float, gets: float, lists: float) -> float:
    return puts * PRICES["put"] + gets * PRICES["get"] + lists * PRICES["list"]


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
        "sessions brought back a second": number(f.sessions_brought_back),
        "commits a second": number(f.commits_per_second),
        "requests a month": f"{number(f.puts)} puts, {number(f.gets)} gets, {number(f.lists)} lists",
        "daemons that are busy, busiest hour": f"{f.daemons_busy:.2f} of {a.daemons:.0f}",
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
