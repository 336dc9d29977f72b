"""What a semantic cache counts: answers by reason, latencies, and what was saved. No I/O."""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import Any

from lix_cache.config import Prices
from lix_cache.errors import told
from lix_cache.hot.entries import Tokens
from lix_cache.semantic.result import Lookup

__all__ = ["Latencies", "Stats", "about_tokens"]


def about_tokens(characters: int) -> int:
    """Return about how many tokens a text has: one for each four characters, rounded up.

    The rule of thumb for English that the makers of models give. Other languages have
    more; give ``store`` the true numbers where they are known.
    """
    return -(-characters // 4)


class Latencies:
    """A histogram of durations in constant memory, with quantiles within 5 %.

    The buckets' bounds grow by a twentieth each, from a microsecond to a quarter of an
    hour, so a quantile is known to that precision however many durations there were.
    """

    _GROWTH = math.log(1.05)
    _LEAST = 1e-6
    _BUCKETS = 420

    def __init__(self) -> None:
        self.count = 0
        self._buckets = [0] * self._BUCKETS

    def add(self, seconds: float) -> None:
        place = 0 if seconds <= self._LEAST else int(math.log(seconds / self._LEAST) / self._GROWTH)
        self._buckets[min(place, self._BUCKETS - 1)] += 1
        self.count += 1

    def quantile(self, share: float) -> float:
        """Return the seconds that this share of all took at most; 0.0 if there was none."""
        wanted, seen = share * self.count, 0
        for place, number in enumerate(self._buckets):
            seen += number
            if number and seen >= wanted:
                return self._LEAST * math.exp((place + 0.5) * self._GROWTH)
        return 0.0

    def as_dict(self) -> dict[str, float]:
        """Return count, and p50, p95 and p99 in milliseconds."""
        names = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
        return {"count": self.count, **{n: round(self.quantile(q) * 1000, 4) for n, q in names.items()}}


class Stats:
    """The counters of one cache object. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.hits: Counter[str] = Counter()
        self.misses: Counter[str] = Counter()
        self.counters: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.latencies = {
            "lookup": Latencies(),
            "embed": Latencies(),
            "verify": Latencies(),
            "store": Latencies(),
        }
        self.saved_prompt = self.saved_completion = 0
        self.last_error: str | None = None

    def renew_lock(self) -> None:
        """In a forked child: let it not be held by a thread that was not forked with it."""
        self._lock = threading.Lock()

    def looked_up(self, found: Lookup, seconds: float) -> None:
        """Count an answer. ``seconds``: of all but the embedder and the verifier."""
        with self._lock:
            (self.hits if found.is_hit else self.misses)[found.reason] += 1
            self.latencies["lookup"].add(seconds)

    def saved(self, tokens: Tokens) -> None:
        with self._lock:
            self.saved_prompt += tokens.prompt
            self.saved_completion += tokens.completion

    def count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self.counters[name] += by

    def refused(self, rule: str) -> None:
        """Count a response that was not stored."""
        with self._lock:
            self.refusals[rule] += 1

    def took(self, what: str, seconds: float) -> None:
        with self._lock:
            self.latencies[what].add(seconds)

    def trouble(self, what: str, error: BaseException) -> None:
        """Count trouble that did not fail the call it happened in."""
        with self._lock:
            self.counters[what] += 1
            self.last_error = told(error)

    def as_dict(self, prices: Prices | None) -> dict[str, Any]:
        """Return all of it, for ``get_stats``."""
        with self._lock:
            hits, misses = sum(self.hits.values()), sum(self.misses.values())
            saved: dict[str, Any] = {
                "calls": hits,
                "prompt_tokens": self.saved_prompt,
                "completion_tokens": self.saved_completion,
            }
            if prices is not None:
                saved["money"] = prices.of(self.saved_prompt, self.saved_completion)
                saved["currency"] = prices.currency
            names = (
                *("stored", "evicted", "wrong_reports", "invalidated", "expired", "degraded"),
                *("shared_runs", "refreshed", "uncacheable", "vector_set_lookups"),
            )
            troubles = (
                *("embedder_errors", "verifier_errors", "redis_errors", "cleanup_errors"),
                *("single_flight_errors", "refresh_errors", "note_errors"),
            )
            return {
                "hits": hits,
                "misses": misses,
                "hit_ratio": hits / (hits + misses) if hits + misses else 0.0,
                "hits_by_reason": dict(self.hits),
                "misses_by_reason": dict(self.misses),
                "stores_refused": dict(self.refusals),
                **{name: self.counters[name] for name in names + troubles},
                "latency": {name: histogram.as_dict() for name, histogram in self.latencies.items()},
                "saved": saved,
                "last_error": self.last_error,
            }
