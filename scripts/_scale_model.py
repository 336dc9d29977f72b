"""What a store of millions of sessions needs, worked out: the arithmetic of ``simulate_scale.py``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench_objects import PRICES

from lix_cache.archive.objects.opened import KEPT_BYTES, SCAN_BYTES
from lix_cache.archive.objects.shard import SNAPSHOT_EVERY
from lix_cache.archive.objects.snapshot import BLOCK_BYTES, RUN_BYTES
from lix_cache.archive.objects.store_note import MOST_SHARDS

__all__ = [
    "MEASURED",
    "MEMORY_PRICE",
    "MONTH",
    "SOME",
    "STORAGE_PRICE",
    "Assumptions",
    "Figures",
    "LogIndex",
    "Spent",
    "UnitCosts",
    "log_index",
    "simulate",
    "turn_of",
]

#: Dollars for a GB-month there, the first 50 TB.
STORAGE_PRICE = 0.023
#: Amazon EC2 r6g.large on demand, us-east-1: 16 GiB for $0.1008 an hour of 730 in a month.
MEMORY_PRICE = 0.1008 * 730 / 16
HOUR, DAY, MONTH = 3_600.0, 86_400.0, 30 * 86_400.0
GIB, GB = 2.0**30, 1e9
#: Sessions that the daemon moves together.
AT_ONCE = 32
#: Of so many kinds of age a snapshot of each is kept; the rest goes when it is the turn of the log.
SNAPSHOTS_KEPT = 10
#: Sessions that one commit of a clean-up changes; objects in a page of a listing.
CHANGED_AT_ONCE, LISTED = 256, 1000
SNAPSHOTS = f"snapshots, one for {SNAPSHOT_EVERY} puts of a log"


#: The least that a rate or a size that must not be 0 can be.
SOME = 1e-6


def _of(value: float, meaning: str, least: float = 0, most: float = math.inf) -> Any:
    return field(default=value, metadata={"meaning": meaning, "least": least, "most": most})


@dataclass(frozen=True)
class Assumptions:
    """What the application does, and how the store is set up."""

    sessions: float = _of(10e6, "sessions that are stored at any time", 1)
    messages_per_second: float = _of(1000, "messages added, by users and assistants, mean over the day", SOME)
    peak: float = _of(3, "busiest hour, as a multiple of the mean", 1)
    visit_messages: float = _of(10, "messages of one visit, from its first one to the last", 1)
    visit_minutes: float = _of(10, "minutes that a visit takes")
    reads_per_message: float = _of(0.5, "get_context calls for each message: one before each answer")
    trash_days: float = _of(7, "archive_trash_days: days that what expired is kept")
    days_unused: float = _of(14, "disk_ttl_days: days after its last use that a session is removed", SOME)
    idle_minutes: float = _of(120, "evict_after_minutes: idle minutes after which a session leaves Redis")
    window: float = _of(20, "hot_window_size: messages that a context has", 1)
    batch: float = _of(10, "archive_batch_turns: messages by which a window grows before it is cut", 1)
    interval_seconds: float = _of(300, "evictor_interval_seconds, of the processes with a daemon", SOME)
    processes: float = _of(20, "processes that bring sessions back", 1)
    daemons: float = _of(6, "processes with a daemon; all others have evictor_enabled=False", 1)
    buckets: float = _of(1024, "redis_buckets; the archive has as many logs", 1, MOST_SHARDS)
    request_ms: float = _of(20, "milliseconds that a request to object storage takes")
    masters_gib: float = _of(13, "maxmemory of one master: what a server of 16 GiB can give", SOME)
    fill: float = _of(0.7, "share of it that is in use in the busiest hour", SOME, 1)
    replicas: float = _of(1, "replicas of each master")


@dataclass(frozen=True)
class UnitCosts:
    """What the library takes for one of each. ``--measure`` prints them."""

    message_bytes: float = _of(0, "bytes of text in a message, mean of the conversations")
    hot_session_bytes: float = _of(0, "Redis bytes of a hot session besides its messages")
    hot_message_bytes: float = _of(0, "Redis bytes of a message in a window")
    add_us: float = _of(0, "microseconds of the server for an add")
    read_us: float = _of(0, "microseconds of the server for a read of the window")
    archived_message_bytes: float = _of(0, "bytes of an archived message, with what the log says of it")
    index_session_bytes: float = _of(0, "bytes of a snapshot for a session")
    index_frame_bytes: float = _of(0, "bytes of a snapshot for each frame of a session")
    place_bytes: float = _of(0, "bytes of a snapshot for a session's place in the order by last use")
    piece_memory: float = _of(0, "memory of a process for a block (16 KiB) or run (8 KiB) of a snapshot")
    put_memory: float = _of(0, "memory of a process for a put, until a newer snapshot says the same")
    return_puts: float = _of(0, "puts to bring a session back")
    return_gets: float = _of(0, "gets to bring a session back")
    away_gets: float = _of(0, "gets to move such a session away again: what is archived is recognised")
    look_gets: float = _of(0, "gets of a daemon's round for each log, for what was written without Redis")
    follow_gets: float = _of(0, "gets of a process for each put of another that it learns of")
    follow_lists: float = _of(0, "lists of a process for each put of another")
    hour_gets: float = _of(0, "gets of an hourly clean-up for each log, where some have expired")
    expire_puts: float = _of(0, "puts to move an expired session to the trash")
    expire_gets: float = _of(0, "gets to move an expired session to the trash")
    evictions_per_second: float = _of(
        0, "sessions a daemon moves in a second to a folder (make bench-cluster)"
    )


#: By --measure with the conversations of the demo and Redis 7.0.15, times on a machine that did nothing else;
#: evictions by make bench-cluster.
MEASURED = UnitCosts(
    message_bytes=144,
    hot_session_bytes=2456,
    hot_message_bytes=202,
    add_us=29.1,
    read_us=106.9,
    archived_message_bytes=76.5,
    index_session_bytes=47.9,
    index_frame_bytes=22.1,
    place_bytes=46,
    piece_memory=265,
    put_memory=500,
    return_puts=2,
    return_gets=3,
    away_gets=5,
    look_gets=1,
    follow_gets=1.004,
    follow_lists=0.004,
    hour_gets=2,
    expire_puts=3,
    expire_gets=3,
    evictions_per_second=1180,
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
    log_sessions: float
    snapshot_bytes: float
    snapshot_gets: float
    snapshots_per_day: float
    process_bytes: float
    commits_per_second: float
    sessions_brought_back: float
    puts: float
    gets: float
    lists: float
    daemons_busy: float
    busy: dict[str, float]
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
    each = a.messages_per_second / _born(a)
    used = _days_stored(a) - a.days_unused
    stored = a.sessions * each * (used / 2 + a.days_unused) / _days_stored(a)
    # What the archive lacks of a window that overflows is a commit of its own: a session that came back began
    # with a window that is archived. The sessions of a bucket that a round finds idle are one, or several of
    # 32.
    spilled = is_hot * a.visit_messages + max(0.0, a.visit_messages - a.window)
    waiting = returns * round_seconds / a.buckets
    commits = a.buckets / round_seconds * max(-math.expm1(-waiting), waiting / AT_ONCE)
    commits += visits * spilled / a.batch
    # What is in the trash has its frames, and its place in the index, for some days more.
    trashed = _born(a) * DAY * a.trash_days
    index = log_index((a.sessions + trashed) / a.buckets, stored / a.sessions / a.visit_messages, u)
    spent = _requests(a, u, commits, returns, index)
    puts = sum(one.puts for one in spent.values())
    snapshots_per_day = spent[SNAPSHOTS].puts * DAY / a.buckets
    archive_bytes = (stored + trashed * each) * u.archived_message_bytes
    archive_bytes += a.buckets * (SNAPSHOTS_KEPT + snapshots_per_day) * index.bytes
    servers = masters * (1 + a.replicas)
    dollars = {
        "Redis memory": servers * 16 * MEMORY_PRICE,
        "object storage, bytes": archive_bytes / GB * STORAGE_PRICE,
        **{what: one.dollars * MONTH for what, one in spent.items()},
    }
    busy = _busy(a, u, puts, returns)
    return Figures(
        visits_per_second=visits,
        hot_sessions=hot,
        hot_bytes=hot_bytes,
        peak_bytes=peak_bytes,
        masters=masters,
        server_share=calls * a.peak / masters / 1e6,
        messages_stored=stored,
        archive_bytes=archive_bytes,
        objects=_objects(a, commits, puts),
        log_sessions=a.sessions / a.buckets,
        snapshot_bytes=index.bytes,
        snapshot_gets=index.gets,
        snapshots_per_day=snapshots_per_day,
        process_bytes=KEPT_BYTES
        + a.buckets * (index.pieces * u.piece_memory + 2 * SNAPSHOT_EVERY * u.put_memory),
        commits_per_second=commits,
        sessions_brought_back=returns,
        puts=puts * MONTH,
        gets=sum(one.gets for one in spent.values()) * MONTH,
        lists=sum(one.lists for one in spent.values()) * MONTH,
        daemons_busy=sum(busy.values()),
        busy=busy,
        dollars=dollars,
    )


def _requests(
    a: Assumptions, u: UnitCosts, commits: float, returns: float, index: LogIndex
) -> dict[str, Spent]:
    """Return the requests a second, by what they are for."""
    cleaned = _clean_up(a, u, index, _objects(a, commits, 0.0))
    puts = commits + returns * u.return_puts + cleaned.puts
    snapshots = puts / SNAPSHOT_EVERY
    looks = a.daemons / a.interval_seconds * a.buckets
    # Who uses a log learns of all that others put there.
    follows = puts * (a.processes + a.daemons - 1)
    back_gets = u.return_gets + u.away_gets
    return {
        "commits of the daemons": Spent(commits),
        "sessions brought back, and moved again": Spent(returns * u.return_puts, returns * back_gets),
        SNAPSHOTS: Spent(snapshots, snapshots * index.gets),
        "following what others put": Spent(0, follows * u.follow_gets, follows * u.follow_lists),
        "looks for what was written without Redis": Spent(0, looks * u.look_gets),
        "clean-up": cleaned,
    }


def _busy(a: Assumptions, u: UnitCosts, puts: float, returns: float) -> dict[str, float]:
    """Return how many daemons are busy in the busiest hour, and with what."""
    wait = a.request_ms / 1000
    # Sessions that move together are in another log each, and these are asked side by side.
    move = 1 / u.evictions_per_second + (u.away_gets + 1) * wait / AT_ONCE
    looks = a.daemons * (a.peak * puts * u.follow_gets + a.buckets / a.interval_seconds * u.look_gets)
    return {
        "moving sessions": returns * a.peak * move,
        "following others": looks * wait / AT_ONCE,
        # One session after the other, by one daemon.
        "the clean-up": _born(a) * (u.expire_puts + u.expire_gets) * wait,
    }


def _objects(a: Assumptions, commits: float, puts: float) -> float:
    """Return how many objects there are at most: those with frames as long as the frames, others for days."""
    return commits * _days_stored(a) * DAY + max(0.0, puts - commits) * _kept_days() * DAY


def _born(a: Assumptions) -> float:
    """Return the sessions that begin each second. As many expire, and leave the trash."""
    return a.sessions / _days_stored(a) / DAY


class Spent(NamedTuple):
    """Requests a second."""

    puts: float = 0
    gets: float = 0
    lists: float = 0

    @property
    def dollars(self) -> float:
        return self.puts * PRICES["put"] + self.gets * PRICES["get"] + self.lists * PRICES["list"]


class LogIndex(NamedTuple):
    """A snapshot of a log.

    Attributes:
        bytes: of all of it.
        pieces: blocks and runs.
        blocks: of states.
        scan_gets: to look at all states.
        gets: to make the next one of it.
    """

    bytes: float
    pieces: float
    blocks: float
    scan_gets: float
    gets: float


def log_index(sessions: float, frames: float, u: UnitCosts) -> LogIndex:
    """Return what the snapshot of a log is, with so many sessions of so many frames."""
    states = sessions * (u.index_session_bytes + frames * u.index_frame_bytes)
    places = sessions * u.place_bytes
    # A piece ends with the entry that fills it, and a request reads whole pieces.
    entry = states / sessions
    blocks = math.ceil(states / (BLOCK_BYTES + entry / 2))
    runs = math.ceil(places / (RUN_BYTES + u.place_bytes / 2))
    scan = math.ceil(blocks / (SCAN_BYTES // (BLOCK_BYTES + entry / 2)))
    run_scan = math.ceil(runs / (SCAN_BYTES // (RUN_BYTES + u.place_bytes / 2)))
    return LogIndex(states + places, blocks + runs, blocks, scan, scan + run_scan)


def turn_of(index: LogIndex, due: float, objects: float) -> Spent:
    """Return the requests of a clean-up for a log whose turn it is.

    Args:
        index: its snapshot.
        due: sessions of which something is in the trash, or noted, for long enough.
        objects: of the log.
    """
    # What is new; a look at all states; the block of each session that changes; the next snapshot, made of
    # this one. The listings: snapshots, and the log.
    gets = 1 + index.scan_gets + min(due, index.blocks) + index.gets
    return Spent(math.ceil(due / CHANGED_AT_ONCE) + 1, gets, 1 + math.ceil(objects / LISTED))


def _clean_up(a: Assumptions, u: UnitCosts, index: LogIndex, objects: float) -> Spent:
    """Return what a second takes of it: each hour a look for what expired, each day a turn for each log."""
    due = _born(a) * DAY / a.buckets if a.trash_days else 0
    turn = turn_of(index, due, objects / a.buckets)
    hourly, daily = a.buckets / HOUR, a.buckets / DAY
    return Spent(
        _born(a) * u.expire_puts + daily * turn.puts,
        hourly * u.hour_gets + _born(a) * u.expire_gets + daily * turn.gets,
        daily * turn.lists,
    )


def _days_stored(a: Assumptions) -> float:
    """Days from a session's first message to its removal: twice as long as it may lie unused."""
    return 2 * a.days_unused


def _kept_days() -> float:
    """Days that an object of a lease alone is kept: the grace period, and until the turn of the log."""
    return 2.0
