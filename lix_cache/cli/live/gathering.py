"""One look at a store: its totals, its windows, its cached answers, and what processes tell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lix_cache import CacheConfig, LixCacheError, RedisError, SemanticCache, StoreAdmin
from lix_cache._advice import for_command_line
from lix_cache.admin import SessionInfo, StoreStats
from lix_cache.cli.live.metrics import Metrics, fetch
from lix_cache.cli.naming import name_fields

__all__ = ["Look", "Looker"]

_ANSWERS = ("scopes", "entries", "bytes", "audits", "audits_wrong", "false_hit_rate_95", "closed_scopes")


@dataclass(frozen=True)
class Look:
    """What there was at one moment.

    Attributes:
        at: Unix seconds.
        took: how many seconds the look took.
        trouble: why the store could not be read; None where it could. Then the rest is of the look before.
        stats: the totals; None before the first look that succeeded.
        sessions: those used last.
        answers: what the caches of answers share in Redis.
        processes: what processes tell of themselves.
    """

    at: float
    took: float
    trouble: str | None = None
    stats: StoreStats | None = None
    sessions: Sequence[SessionInfo] = ()
    answers: dict[str, Any] = field(default_factory=dict)
    processes: Sequence[Metrics] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the look for JSON; what is old is left out."""
        is_new = self.trouble is None and self.stats is not None
        return {
            "at": self.at,
            "took_seconds": self.took,
            "trouble": self.trouble,
            "store": asdict(self.stats) if is_new and self.stats else None,
            "sessions": [{**asdict(one), **name_fields(one.session_id)} for one in self.sessions]
            if is_new
            else [],
            "answers": self.answers if is_new else {},
            "processes": [asdict(one) for one in self.processes],
        }


class Looker:
    """Looks again and again.

    Args:
        config: of the store.
        limit: sessions to show.
        urls: metrics of processes.
        key: for those metrics; "" for none.
    """

    def __init__(self, config: CacheConfig, limit: int, urls: Sequence[str], key: str = "") -> None:
        self._admin = StoreAdmin(config)
        self._cache = SemanticCache(None, config)
        self._limit, self._urls, self._key = limit, urls, key
        self._last = Look(0.0, 0.0)

    def look(self) -> Look:
        """Look once.

        Raises:
            LixCacheError: the store cannot be read.
        """
        began = time.monotonic()
        stats = self._admin.stats()
        sessions = self._admin.session_page(self._limit).sessions
        found = self._cache.get_stats()
        if found["redis"] != "ok":
            raise RedisError(found["redis"])
        processes = [fetch(url, self._key) for url in self._urls]
        answers = {name: found[name] for name in _ANSWERS}
        took = time.monotonic() - began
        self._last = Look(time.time(), took, None, stats, sessions, answers, processes)
        return self._last

    def look_on(self) -> Look:
        """Look once; where the store cannot be read, return what is known and say why it is old."""
        began = time.monotonic()
        try:
            return self.look()
        except (LixCacheError, OSError) as error:
            last = self._last
            trouble = f"{type(error).__name__}: {for_command_line(str(error))}"
            processes = [fetch(url, self._key) for url in self._urls]
            return Look(
                last.at, time.monotonic() - began, trouble, last.stats, last.sessions, last.answers, processes
            )
