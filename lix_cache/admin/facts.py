"""What the doctor finds out before the diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DiskFacts", "RedisFacts"]


@dataclass
class RedisFacts:
    """The server as it answers now.

    Attributes:
        where: its address, without secrets.
        trouble: what is wrong with each database, by the setting that names it; empty
            where all of them answer.
        unused_db: the number of a database in ``redis_url``; 0 for none.
        no_writes: why it takes no writes from any client; None if it does.
        buckets: why ``redis_buckets`` is not that of the store; None if it is.
        archive: why the archive is not that of the store; None if it is.
        info: the answer to INFO.
        save: the snapshot rule, "" for none; None if the server does not tell.
        appendfsync: when the append-only file is synced; None if the server does not tell.
        clock_ahead: seconds that the server's clock is ahead of ours.
        refused: what the library does that the server refused, and its words.
        is_denied: some of it because the user may not do it.
        refused_admin: the same for what only the administration does.
        overdue: sessions that should have been moved to disk a while ago.
        evictor_runs: whether some process's evictor has been at work just now.
        masters: of a cluster, each with its replicas; empty for one server, and where it is not told.
        full_coverage: ``cluster-require-full-coverage`` of a cluster; None if it is not told.
    """

    where: str
    trouble: dict[str, str] = field(default_factory=dict)
    unused_db: int = 0
    no_writes: str | None = None
    buckets: str | None = None
    archive: str | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    save: str | None = None
    appendfsync: str | None = None
    clock_ahead: float | None = None
    refused: dict[str, str] = field(default_factory=dict)
    is_denied: bool = False
    refused_admin: dict[str, str] = field(default_factory=dict)
    overdue: int = 0
    evictor_runs: bool = False
    masters: Mapping[str, set[str]] = field(default_factory=dict)
    full_coverage: str | None = None


@dataclass(frozen=True)
class DiskFacts:
    """The archive as it is now.

    Attributes:
        folder: its path, or its URL.
        exists: whether it is there.
        trouble: why a file could not be written, synced and removed there; None if it could.
        locks_work: whether a lock keeps a second writer out.
        free_bytes: room on its disk.
        total_bytes: size of its disk; 0 where that is not known.
        pending: sessions that an outage left in two parts.
        set_aside: files with damaged bytes that repairs made.
        is_folder: of files, and not a log under a URL.
        other_prefixes: whether it is in use, and never was under our prefix.
    """

    folder: str
    exists: bool
    trouble: str | None
    locks_work: bool
    free_bytes: int
    total_bytes: int
    pending: int
    set_aside: int
    is_folder: bool = True
    other_prefixes: bool = False
