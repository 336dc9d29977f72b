"""What the facts mean and what to do about them. Touches nothing."""

from __future__ import annotations

from collections.abc import Iterator

from lix_cache.admin.facts import DiskFacts, RedisFacts
from lix_cache.admin.results import Check
from lix_cache.config import CacheConfig, RedisSettings, SessionSettings

__all__ = ["diagnose_disk", "diagnose_redis"]

_OLDEST = (6, 2)
_MB = 1 << 20
_GB = 1 << 30
#: Messages that go to the archive while Redis is away get ids by this machine's clock, and are put in
#: order by them; so are those that come after it.
_CLOCK_WARN_SECONDS = 2.0
_CLOCK_FAIL_SECONDS = 60.0


def diagnose_redis(facts: RedisFacts, config: CacheConfig) -> Iterator[Check]:
    """Yield what there is to say about the server; only that it is unreachable if it is."""
    if facts.trouble:
        for setting, text in facts.trouble.items():
            yield Check("server", "fail", f"{setting}: {text}", _reach(facts.where))
        return
    of_many = f": {len(facts.masters)} masters" if facts.masters else ""
    yield Check("server", "ok", f"{facts.where} answers, all three layers{of_many}")
    if facts.unused_db:
        session, semantic, url = config.session_redis_db, config.semantic_redis_db, config.url_cache_redis_db
        yield Check(
            "database",
            "warn",
            f"redis_url names database {facts.unused_db}, which chooses nothing: sessions are in {session}, "
            f"answers in {semantic}, URL vectors in {url}",
            "leave it out; the settings are session_redis_db, semantic_redis_db and url_cache_redis_db",
        )
    yield _version(facts)
    yield from _cluster(facts)
    if facts.no_writes is not None:
        yield Check("writes", "fail", facts.no_writes, _WRITES)
    else:
        yield _permissions(facts, config.redis)
    if facts.buckets is not None:
        yield Check("buckets", "fail", facts.buckets, "'lix-cache migrate --help' says how to go over")
    if facts.archive is not None:
        yield Check("store's archive", "fail", facts.archive, _ANOTHER_ARCHIVE)
    if facts.info:
        yield _persistence(facts, config.session)
        yield from _last_writes(facts)
        yield _policy(facts)
        yield _memory(facts)
    yield _clock(facts)
    yield _evictor(facts, config.session)


def _cluster(facts: RedisFacts) -> Iterator[Check]:
    alone = sorted(master for master, replicas in facts.masters.items() if not replicas)
    if alone:
        yield Check(
            "replicas",
            "warn",
            f"{len(alone)} of {len(facts.masters)} masters have none: {', '.join(alone)}; while one is away, "
            "its sessions go by on_redis_error",
            "give each master one: redis-cli --cluster add-node NEW:PORT ANY:PORT --cluster-slave",
        )
    elif facts.masters:
        yield Check("replicas", "ok", f"each of the {len(facts.masters)} masters has one")
    if facts.full_coverage == "yes":
        yield Check(
            "full coverage",
            "warn",
            "cluster-require-full-coverage yes: where one master is away and no replica takes over, all the "
            "nodes refuse all commands",
            "on each node: CONFIG SET cluster-require-full-coverage no, and the same in redis.conf",
        )
    elif facts.full_coverage is not None:
        yield Check("full coverage", "ok", "not required: where one master is away, the others go on")


def _version(facts: RedisFacts) -> Check:
    if not facts.info:
        return Check("version", "warn", "the server does not tell (INFO is not allowed)", _ALLOW_INFO)
    valkey = facts.info.get("valkey_version")
    text = str(valkey or facts.info.get("redis_version", "unknown"))
    name = f"{'Valkey' if valkey else 'Redis'} {text}"
    numbers = tuple(int(part) if part.isdigit() else 0 for part in text.split("."))[:2]
    if not valkey and numbers < _OLDEST:
        return Check("version", "fail", f"{name} is too old", "install Redis 6.2 or later, or Valkey")
    return Check("version", "ok", name)


_WRITES = (
    "name the primary if this is a replica; make room if it is full (maxmemory, 'lix-cache offload'); else "
    "look at the server's log and at its disk"
)
_ANOTHER_ARCHIVE = "name that archive in archive_dir or archive_url; give another application its own prefix"
_ANOTHER_PREFIX = (
    "name the application's redis_key_prefix (--prefix); applications that may not see each other's "
    "sessions need an archive each, besides a prefix each"
)
_REACH = "the settings are redis_url, or redis_host, redis_port, redis_username and redis_password"
_REACH_CLUSTER = (
    "the sessions of other nodes go on; wait for the replica, or start the server again. Where none answers, "
    "look at the address: redis_url"
)
_REACH_SENTINEL = (
    "redis_url names the sentinels and, at its end, the service: {where}. One of them must run and know that "
    "service (redis-cli -h HOST -p PORT sentinel masters lists what it knows), and its master must answer"
)
_ALLOW_INFO = "allow it, so that persistence and memory can be looked at: ACL SETUSER <user> +info"


def _reach(where: str) -> str:
    if "+sentinel://" in where:
        return _REACH_SENTINEL.format(where=where)
    return _REACH_CLUSTER if "+cluster://" in where else _REACH


def _permissions(facts: RedisFacts, redis: RedisSettings) -> Check:
    user = redis.username or "default"
    if facts.refused:
        advice = (
            "the user is allowed to: look at the words of the server, at its configuration and its version"
        )
        if facts.is_denied:
            advice = f"ACL SETUSER {user} ~{redis.key_prefix}:* +@all -@dangerous +info"
            advice += " +cluster|slots +cluster|nodes" if facts.masters else ""
        text = next(iter(facts.refused.values()))
        return Check("permissions", "fail", f"refused: {', '.join(facts.refused)} ({text})", advice)
    if facts.refused_admin:
        return Check(
            "permissions",
            "warn",
            f"sessions and caches work; refused: {', '.join(facts.refused_admin)}",
            f"for stats and this command: ACL SETUSER {user} +info +scan +memory|usage +config|get",
        )
    return Check("permissions", "ok", "everything the library sends was tried, and is allowed")


def _persistence(facts: RedisFacts, session: SessionSettings) -> Check:
    name = "persistence"
    if facts.info.get("aof_enabled"):
        if facts.appendfsync == "no":
            return Check(
                name,
                "warn",
                "append-only file, but the server never syncs it itself",
                "CONFIG SET appendfsync everysec",
            )
        return Check(name, "ok", f"append-only file, synced {facts.appendfsync or 'as configured'}")
    on = "turn on the append-only file: CONFIG SET appendonly yes, and appendonly yes in redis.conf"
    if session.durability == "disk":
        return Check(name, "ok", "no append-only file; durability=disk has every message on disk anyway")
    if facts.save:
        return Check(
            name,
            "warn",
            f"snapshots only (save {facts.save}): a crash loses what came after the last one",
            on,
        )
    if facts.save is None:
        return Check(name, "warn", "no append-only file; whether there are snapshots is not told", on)
    return Check(
        name,
        "fail",
        "off: a restart of the server loses every message that is not on disk yet",
        f"{on}; or set durability=disk",
    )


def _last_writes(facts: RedisFacts) -> Iterator[Check]:
    status = {
        name: str(facts.info.get(name, "ok"))
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    }
    bad = [name for name, value in status.items() if value != "ok"]
    if bad:
        yield Check(
            "persistence works",
            "fail",
            f"the server's last write failed: {', '.join(bad)}",
            "look at the server's log and at the room on its disk; it may refuse writes until then",
        )


def _policy(facts: RedisFacts) -> Check:
    name = "maxmemory-policy"
    policy = str(facts.info.get("maxmemory_policy", "unknown"))
    if policy == "noeviction":
        return Check(name, "ok", "noeviction: the server refuses writes rather than forget sessions")
    fix = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
    # Windows have a time to live, so the volatile-* policies take them as well.
    if int(facts.info.get("maxmemory", 0)):
        return Check(name, "fail", f"{policy}: when memory is full the server drops sessions", fix)
    return Check(name, "warn", f"{policy}: as soon as a maxmemory is set, the server may drop sessions", fix)


def _memory(facts: RedisFacts) -> Check:
    name = "memory"
    used = int(facts.info.get("used_memory", 0))
    limit = int(facts.info.get("maxmemory", 0))
    of_what = "the maxmemory of all masters" if facts.masters else "maxmemory"
    if not limit:
        limit = int(facts.info.get("total_system_memory", 0))
        # A machine with several masters is counted for each: which share one is not told.
        of_what = "the memory of all masters' machines" if facts.masters else "the memory of its machine"
    if not limit:
        return Check(name, "ok", f"{used / _MB:.1f} MB used")
    share = used / limit
    found = f"{used / _MB:.1f} MB used, {share:.0%} of {of_what} ({limit / _MB:.0f} MB)"
    fix = "raise maxmemory, or move sessions to disk earlier (evict_after_minutes)"
    if share >= 0.97:
        return Check(name, "fail", f"{found}: writes are refused when it is full", fix)
    return Check(name, "warn" if share >= 0.8 else "ok", found, fix if share >= 0.8 else "")


def _clock(facts: RedisFacts) -> Check:
    name = "clock"
    if facts.clock_ahead is None:
        return Check(name, "warn", "the server's time is not told", "allow the command TIME")
    apart = abs(facts.clock_ahead)
    direction = "ahead of" if facts.clock_ahead > 0 else "behind"
    found = f"the server is {apart:.1f} s {direction} this machine"
    if apart < _CLOCK_WARN_SECONDS:
        return Check(name, "ok", f"the server and this machine agree within {max(apart, 0.1):.1f} s")
    advice = "synchronise both with NTP: messages are ordered by these clocks during an outage"
    return Check(name, "fail" if apart >= _CLOCK_FAIL_SECONDS else "warn", found, advice)


def _evictor(facts: RedisFacts, session: SessionSettings) -> Check:
    name = "evictor"
    if facts.overdue:
        return Check(
            name,
            "warn",
            f"{facts.overdue} sessions have been idle for too long and are still hot",
            "run an application with evictor_enabled, or call: lix-cache offload",
        )
    if facts.evictor_runs:
        return Check(name, "ok", "a process moves idle sessions to disk")
    minutes = session.idle_seconds / 60
    return Check(
        name,
        "ok",
        f"nothing is overdue; sessions go to disk after {minutes:g} idle minutes while an application runs",
    )


def diagnose_disk(facts: DiskFacts) -> Iterator[Check]:
    """Yield what there is to say about the archive."""
    if not facts.is_folder:
        yield _log(facts)
    elif facts.trouble is not None:
        yield Check(
            "archive folder",
            "fail",
            facts.trouble,
            "mend what it names, or name another place in archive_dir or archive_url"
            if "object store" in facts.trouble
            else "make the folder writable for this user, or name another in archive_dir",
        )
    elif not facts.exists:
        yield Check("archive folder", "ok", f"{facts.folder} is not there yet, and can be made")
    else:
        yield Check("archive folder", "ok", f"{facts.folder}: written, synced and removed a file")
    if not facts.locks_work:
        yield Check(
            "archive locks",
            "fail",
            "a lock does not keep a second writer out",
            "put archive_dir on a local disk, or on a network disk with working flock",
        )
    if facts.other_prefixes:
        yield Check("prefix", "warn", "no process has used this archive under this prefix", _ANOTHER_PREFIX)
    if facts.total_bytes:
        yield _room(facts)
    if facts.pending:
        yield Check(
            "outages",
            "warn",
            f"{facts.pending} sessions were written to while Redis was away",
            "the evictor reconciles them; or call: lix-cache offload",
        )
    else:
        yield Check("outages", "ok", "no session waits to be reconciled")
    if facts.set_aside:
        yield Check(
            "repairs",
            "warn",
            f"{facts.set_aside} files hold damaged bytes that were set aside",
            "lix-cache verify names them; keep them until you know what was lost",
        )


def _log(facts: DiskFacts) -> Check:
    if facts.trouble is None:
        return Check("archive", "ok", f"{facts.folder} can be written to")
    return Check("archive", "fail", facts.trouble, "archive_url names it, or --archive-dir")


def _room(facts: DiskFacts) -> Check:
    found = f"{facts.free_bytes / _GB:.1f} GB free of {facts.total_bytes / _GB:.0f} GB"
    fix = "make room: a full disk stops messages from leaving Redis"
    if facts.free_bytes < 100 * _MB:
        return Check("disk", "fail", found, fix)
    if facts.free_bytes < _GB:
        return Check("disk", "warn", found, fix)
    return Check("disk", "ok", found)
