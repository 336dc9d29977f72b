"""Finding out: sends what the library sends, writes where it writes, and takes it all back."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from lix_cache.admin import files
from lix_cache.admin.facts import DiskFacts, RedisFacts
from lix_cache.admin.flows import ask, server_time
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.compat.caches import SemanticCacheRedis, URLEmbeddingCache
from lix_cache.config import CacheConfig
from lix_cache.drivers.sync import SyncDriver
from lix_cache.effects import ask_each
from lix_cache.errors import (
    ArchiveError,
    ArchiveMismatch,
    LayoutMismatch,
    LixCacheError,
    RedisAuthError,
    RedisError,
    RedisUnavailable,
)
from lix_cache.hot.activity import last_used
from lix_cache.hot.endpoint import endpoint_for, unused_db
from lix_cache.hot.keys import Keys
from lix_cache.hot.layout import claim_buckets, noted_buckets
from lix_cache.hot.probe import READS_ONLY
from lix_cache.hot.replies import Cold
from lix_cache.hot.scripts import Command
from lix_cache.hot.window import HotWindow
from lix_cache.messages.packing import pack_hot
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn
from lix_cache.session.health import redis_trouble
from lix_cache.session.layout import agree, is_of_other_prefixes
from lix_cache.session.store import SessionStore
from lix_cache.storage.files import Files

__all__ = ["GRACE_SECONDS", "look_at_disk", "look_at_redis"]

_LAYERS = ("session_redis_db", "semantic_redis_db", "url_cache_redis_db")
#: How long a session may be overdue before the doctor reports it: a few rounds of the daemon.
GRACE_SECONDS = 120.0
_PROBE_TTL_MS = 60_000
_NONCE = b"doctor"


def look_at_redis(store: SessionStore, config: CacheConfig) -> RedisFacts:
    """Ask the server about itself, and try everything the library does on keys of its own."""
    facts = RedisFacts(where=store.endpoint.label.rsplit(" db ", 1)[0], unused_db=unused_db(config.redis))
    for setting in _LAYERS:
        try:
            _drive(config, getattr(config, setting))(ask(("PING",)))
        except LixCacheError as error:
            if isinstance(error, RedisUnavailable) and error.code in READS_ONLY:
                continue  # it answers; that it takes no writes is looked for below
            facts.trouble[setting] = str(error)
            if isinstance(error, RedisUnavailable):
                break  # the others are on the same server
    if facts.trouble:
        return facts
    drive = SyncDriver(store.endpoint, store.clock)
    closed = drive(redis_trouble(store))
    if isinstance(closed, RedisUnavailable):
        facts.no_writes = str(closed)
    else:
        _try_sessions(drive, store, config, facts)
        _try_caches(config, facts)
    try:
        drive(agree(store, notes=False))
    except LayoutMismatch as error:
        facts.buckets = str(error)
    except ArchiveMismatch as error:
        facts.archive = str(error)
    _ask_about_itself(drive, store, facts)
    _look_for_overdue(drive, store, facts)
    return facts


def _drive(config: CacheConfig, db: int) -> SyncDriver:
    return SyncDriver(endpoint_for(config.redis, db))


def _tried(refused: dict[str, str], what: str, call: Callable[[], object]) -> object:
    """Return the answer, or None after noting a refusal."""
    try:
        return call()
    except RedisError as error:
        refused[what] = _short(error)
        return None


def _needed(facts: RedisFacts, what: str, call: Callable[[], object]) -> None:
    """Try what the library does; note whether the user may not do it, or the server refuses it anyway."""
    try:
        call()
    except RedisError as error:
        facts.refused[what] = _short(error)
        facts.is_denied |= isinstance(error, RedisAuthError)


def _short(error: RedisError) -> str:
    # The server's own words are behind the first colon; those before name it once more.
    text = str(error.__cause__ or error)
    return text if isinstance(error, RedisAuthError) else str(error)


def _try_sessions(drive: SyncDriver, store: SessionStore, config: CacheConfig, facts: RedisFacts) -> None:
    keys = Keys(f"{config.redis_key_prefix}:doctor-{uuid.uuid4().hex[:8]}")
    hot = HotWindow(keys, _PROBE_TTL_MS, config.archive_batch_turns)
    turn = Turn(MessageId(1, 0), {"role": "user", "content": "a probe", "timestamp": 0.001, "metadata": {}})
    added = hot.add("a", [pack_hot(turn)], window=20, floor=ZERO_ID, floor_is_fresh=True, tags=[bytes(32)])
    steps: dict[str, Command] = {
        "note the buckets": claim_buckets(keys)[0],
        "look at the buckets": noted_buckets(keys),
        "add a message": added,
        "read a window": hot.read("a", 20, _NONCE),
        "read the oldest": hot.oldest("a", keep=0, limit=1),
        "count a window": hot.length("a"),
        "take back a message": hot.take_back("a", [turn.id]),
        "take out what is deleted": hot.take_out("a", [turn]),
        "look what a window gave": hot.given("a"),
        "find idle sessions": hot.idle(0, 0, 0, 1),
        "list sessions by last use": last_used(keys, 0, None, 0, 1),
        "find long windows": hot.overflowing(0, 1),
        "list hot sessions": hot.active_page(0, 0, 1),
        "take the lease": hot.lease(0, "doctor", _PROBE_TTL_MS),
        "bring a session back": hot.rehydrate("b", [turn], Cold(b"none"), turn.id),
        "trim a window": hot.trim("b", [turn], turn.id, 20),
        "refuse late copies": hot.refuse("a", {_NONCE: turn.id}),
        "look where a window ends": hot.ends("a"),
        "forget a window": hot.forget("a", turn.id),
    }
    for what, command in steps.items():
        if not store.layout.meets_old:
            # As the library sends it: what the old package left is in another slot than ours.
            command = hot.old.without_list(command) or command
        _needed(facts, what, partial(drive, ask(command)))
    buckets = (keys.layout(), keys.active(0), keys.overflow(0), keys.high_water(0), keys.lease(0))
    left = (
        keys.window("a"),
        keys.window("b"),
        keys.ticket("a"),
        keys.refused("a"),
        *keys.known("a"),
        *buckets,
    )
    _needed(facts, "delete a key", lambda: drive(ask(("DEL", *left))))


def _try_caches(config: CacheConfig, facts: RedisFacts) -> None:
    config = config.replace(
        redis_key_prefix=f"{config.redis_key_prefix}:doctor-{uuid.uuid4().hex[:8]}",
        embedding_dim=None,
        on_cache_error="raise",
    )
    answers = SemanticCacheRedis("doctor", config, ttl_seconds=1)
    _needed(facts, "cache an answer", lambda: answers.set("url", [1.0, 0.0], "a probe"))
    _needed(facts, "find an answer", lambda: answers.get("url", [1.0, 0.0]))
    _needed(facts, "drop answers", answers.clear_session)
    vectors = URLEmbeddingCache("doctor", config, ttl_seconds=1)
    _needed(facts, "cache a URL's vector", lambda: vectors.set("url", [1.0, 0.0]))
    _needed(facts, "find a URL's vector", lambda: vectors.get("url"))
    _needed(facts, "find URL vectors", lambda: vectors.batch_get(["url", "another"]))


def _ask_about_itself(drive: SyncDriver, store: SessionStore, facts: RedisFacts) -> None:
    refused = facts.refused_admin
    info = _tried(refused, "INFO", lambda: drive(ask(("INFO",))))
    facts.info = info if isinstance(info, dict) else {}
    facts.save = _setting(drive, refused, "save")
    facts.appendfsync = _setting(drive, refused, "appendfsync")
    if store.endpoint.kind == "cluster":
        facts.full_coverage = _setting(drive, refused, "cluster-require-full-coverage")
        served = _tried(refused, "CLUSTER SLOTS", lambda: drive(ask(("CLUSTER", "SLOTS"))))
        facts.masters = _with_replicas(served)
    window = store.hot.keys.window("doctor")
    _tried(refused, "MEMORY USAGE", lambda: drive(ask(("MEMORY", "USAGE", window))))
    _tried(refused, "SCAN", lambda: drive(ask(("SCAN", 0, "MATCH", window, "COUNT", 1))))
    # Half of the round trip has passed when the server looks at its clock.
    before = store.clock.time()
    server = _tried(facts.refused, "read the clock", lambda: drive(server_time()))
    if isinstance(server, float):
        facts.clock_ahead = server - (before + store.clock.time()) / 2


def _with_replicas(served: object) -> dict[str, set[str]]:
    """Return the masters with their replicas, by address, of what CLUSTER SLOTS answers."""
    found: dict[str, set[str]] = {}
    for _, _, *nodes in served if isinstance(served, list) else ():
        master, *replicas = [f"{host.decode()}:{port}" for host, port, *_ in nodes]
        found.setdefault(master, set()).update(replicas)
    return found


def _setting(drive: SyncDriver, refused: dict[str, str], name: str) -> str | None:
    reply = _tried(refused, "CONFIG GET", lambda: drive(ask(("CONFIG", "GET", name))))
    if not isinstance(reply, (list, tuple)) or len(reply) != 2:
        return None
    value = reply[1]
    return value.decode() if isinstance(value, bytes) else str(value)


def _look_for_overdue(drive: SyncDriver, store: SessionStore, facts: RedisFacts) -> None:
    if facts.refused or facts.clock_ahead is None:
        return
    keys = store.hot.keys
    latest = store.clock.time() + facts.clock_ahead - store.settings.idle_seconds - GRACE_SECONDS
    every: Sequence[int] = range(keys.buckets)
    counts: dict[int, Command] = {b: ("ZCOUNT", keys.active(b), "-inf", int(latest * 1000)) for b in every}
    late = _tried(facts.refused_admin, "ZCOUNT", lambda: drive(ask_each(counts)))
    facts.overdue += sum(map(int, late.values())) if isinstance(late, dict) else 0
    told = _tried(facts.refused_admin, "EXISTS", lambda: drive(ask(("EXISTS", keys.rounds()))))
    facts.evictor_runs = bool(told)


def look_at_disk(store: SessionStore) -> DiskFacts:
    """Write, sync, lock and remove a file in the archive folder, and see how much room there is."""
    if isinstance(store.cold, ObjectTier):
        return _look_at_objects(store, store.cold)
    folder = os.path.abspath(store.archive.archive_dir)
    exists = os.path.isdir(folder)
    trouble, locks_work = _try_folder(folder) if exists else (_cannot_be_made(folder), True)
    place = folder if exists else _nearest(folder)
    usage = shutil.disk_usage(place)
    return DiskFacts(
        folder=folder,
        exists=exists,
        trouble=trouble,
        locks_work=locks_work,
        free_bytes=usage.free,
        total_bytes=usage.total,
        pending=len(_listed(store.archive.store.pending_sessions)),
        set_aside=len(_listed(lambda: files.set_aside(store.archive))),
        other_prefixes=is_of_other_prefixes(store),
    )


def _look_at_objects(store: SessionStore, tier: ObjectTier) -> DiskFacts:
    try:
        tier.check_writable()
        trouble = None
    except ArchiveError as error:
        trouble = _words(error)
    return DiskFacts(
        folder=tier.location,
        exists=True,
        trouble=trouble,
        locks_work=True,
        free_bytes=0,
        total_bytes=0,
        pending=len(_listed(tier.pending_sessions)),
        set_aside=0,
        is_folder=False,
        other_prefixes=is_of_other_prefixes(store),
    )


def _listed(call: Callable[[], list[str]]) -> list[str]:
    with contextlib.suppress(ArchiveError):  # the folder's own check says why it cannot be read
        return call()
    return []


def _try_folder(folder: str) -> tuple[str | None, bool]:
    door = Files()
    path = os.path.join(folder, f".doctor-{uuid.uuid4().hex[:8]}")
    try:
        door.write_synced(path, b"a probe")
        door.sync_folder(folder)
    except ArchiveError as error:
        return _words(error), True
    try:
        with _held(door, path):
            second = door.try_lock(path)
            if second is not None:
                second.release()
            return None, second is None
    except ArchiveError as error:
        return _words(error), False
    finally:
        door.remove(path)


def _words(error: ArchiveError) -> str:
    # Without the number that an OSError puts in front.
    return str(getattr(error, "strerror", None) or error)


@contextlib.contextmanager
def _held(door: Files, path: str) -> Iterator[None]:
    lock = door.try_lock(path)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _nearest(folder: str) -> str:
    """Return the folder itself, or the nearest one above it that is there."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return folder


def _cannot_be_made(folder: str) -> str | None:
    above = _nearest(folder)
    if not os.path.isdir(above):
        return f"{above} is a file, not a folder"
    if not os.access(above, os.W_OK | os.X_OK):
        return f"{folder} is not there, and this user may not make it in {above}"
    return None
