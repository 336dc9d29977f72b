"""What a replay measures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

__all__ = ["Latencies", "Totals"]

T = TypeVar("T")

_ORDER = ("PING", "add", "get_context", "get_context, cold", "semantic get", "URL get")


@dataclass
class Latencies:
    """How long the calls of each operation took."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def timed(self, name: str, call: Callable[[], T]) -> T:
        """Make a call and note how long it took.

        Args:
            name: one of ``_ORDER``.
            call: takes nothing.
        """
        began = time.perf_counter()
        result = call()
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)
        return result

    def summary(self) -> dict[str, dict[str, float]]:
        """Return calls, median and 95th percentile in milliseconds, and the median in PINGs."""
        medians = {name: statistics.median(values) for name, values in self.seconds.items()}
        ping = medians.get("PING", 0.0)
        return {
            name: {
                "calls": len(values),
                "median_ms": medians[name] * 1000,
                "p95_ms": sorted(values)[int(0.95 * (len(values) - 1))] * 1000,
                "pings": medians[name] / ping if ping else 0.0,
            }
            for name, values in sorted(self.seconds.items(), key=lambda item: _ORDER.index(item[0]))
        }


@dataclass
class Totals:
    """What happened in a replay.

    Attributes:
        conversations: how many.
        visits: how often their users came, in all.
        messages: how many were added.
        raw_bytes: UTF-8 of their roles and contents, and of their other fields as JSON.
        hot_sessions: sessions in Redis at the end of the last visit.
        hot_messages: messages in Redis then.
        cold_messages: messages on disk then; those brought back from there are in both.
        redis_raw_bytes: UTF-8 of the messages in Redis, added up over the ends of all rounds of visits.
        redis_bytes: memory of their windows, likewise.
        disk_raw_bytes: UTF-8 of all that was on disk at the end.
        disk_bytes: size of its files.
        spilled_messages: messages that left a window because it overflowed.
        offloaded_sessions: idle sessions moved to disk.
        offloaded_messages: messages that left Redis with them.
        rehydrations: cold sessions brought back by their user's return.
        lookups: questions looked up in the semantic cache.
        hits: answers found there.
        other_answers: those of them that differ from the answer in the recording.
        url_lookups: URL vectors asked for.
        url_reused: those that were there.
    """

    conversations: int = 0
    visits: int = 0
    messages: int = 0
    raw_bytes: int = 0
    hot_sessions: int = 0
    hot_messages: int = 0
    cold_messages: int = 0
    redis_raw_bytes: int = 0
    redis_bytes: int = 0
    disk_raw_bytes: int = 0
    disk_bytes: int = 0
    spilled_messages: int = 0
    offloaded_sessions: int = 0
    offloaded_messages: int = 0
    rehydrations: int = 0
    lookups: int = 0
    hits: int = 0
    other_answers: int = 0
    url_lookups: int = 0
    url_reused: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
