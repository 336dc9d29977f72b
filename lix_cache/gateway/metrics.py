"""What the gateway counts, for Prometheus and for people. Kept in this process; a scrape reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

__all__ = ["Metrics"]

_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_MOST_LABELS = 1000


class Metrics:
    """Counters by tenant, protocol, state and reason."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, str, str], int] = defaultdict(int)
        self.saved: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.spent: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        #: Of the prompts' tokens that were paid for, those that the provider had in a cache of its own.
        self.cached: dict[str, int] = defaultdict(int)
        self.statuses: dict[int, int] = defaultdict(int)
        self.not_stored: dict[str, int] = defaultdict(int)
        self._added: dict[str, list[int]] = {}
        self._added_sum: dict[str, float] = defaultdict(float)
        self.stored = 0
        #: Tokens that were not sent because records were written in another way.
        self.encoded_tokens = 0
        self.open = 0

    def answered(self, tenant: str, protocol: str, state: str, reason: str, added: float) -> None:
        """Count one request and the seconds that the gateway itself took."""
        label = (tenant, protocol, state, reason)
        # Reasons are ours, but a bound is cheaper than a proof.
        if label not in self.requests and len(self.requests) >= _MOST_LABELS:
            label = (tenant, protocol, state, "other")
        self.requests[label] += 1
        buckets = self._added.get(state)
        if buckets is None:
            buckets = self._added[state] = [0] * (len(_BUCKETS) + 1)
        buckets[bisect_left(_BUCKETS, added)] += 1
        self._added_sum[state] += added

    def tokens(self, tenant: str, usage: tuple[int, int], *, are_saved: bool) -> None:
        """Count tokens of prompt and answer."""
        counts = (self.saved if are_saved else self.spent)[tenant]
        counts[0] += usage[0]
        counts[1] += usage[1]

    def text(self, gauges: dict[str, float]) -> bytes:
        """Return all of it as Prometheus reads it."""
        return ("\n".join([*self._lines(), *_gauges(gauges)]) + "\n").encode()

    def _lines(self) -> Iterator[str]:
        start = "lix_cache_gateway"
        yield f"# TYPE {start}_requests_total counter"
        for (tenant, protocol, state, reason), count in self.requests.items():
            labels = f'tenant="{tenant}",protocol="{protocol}",cache="{state}",reason="{_safe(reason)}"'
            yield f"{start}_requests_total{{{labels}}} {count}"
        yield f"# TYPE {start}_responses_total counter"
        for status, count in self.statuses.items():
            yield f'{start}_responses_total{{status="{status}"}} {count}'
        for name, counts in (("saved", self.saved), ("spent", self.spent)):
            yield f"# TYPE {start}_tokens_{name}_total counter"
            for tenant, (prompt, answer) in counts.items():
                yield f'{start}_tokens_{name}_total{{tenant="{tenant}",kind="prompt"}} {prompt}'
                yield f'{start}_tokens_{name}_total{{tenant="{tenant}",kind="answer"}} {answer}'
        yield f"# TYPE {start}_tokens_cached_by_provider_total counter"
        for tenant, count in self.cached.items():
            yield f'{start}_tokens_cached_by_provider_total{{tenant="{tenant}"}} {count}'
        yield f"# TYPE {start}_stored_total counter"
        yield f"{start}_stored_total {self.stored}"
        yield f"# TYPE {start}_tokens_encoded_away_total counter"
        yield f"{start}_tokens_encoded_away_total {self.encoded_tokens}"
        yield f"# TYPE {start}_not_stored_total counter"
        for reason, count in self.not_stored.items():
            yield f'{start}_not_stored_total{{reason="{_safe(reason)}"}} {count}'
        yield f"# TYPE {start}_added_seconds histogram"
        for state, buckets in self._added.items():
            total = 0
            for edge, count in zip(_BUCKETS, buckets, strict=False):
                total += count
                yield f'{start}_added_seconds_bucket{{cache="{state}",le="{edge}"}} {total}'
            total += buckets[-1]
            yield f'{start}_added_seconds_bucket{{cache="{state}",le="+Inf"}} {total}'
            yield f'{start}_added_seconds_sum{{cache="{state}"}} {self._added_sum[state]:.6f}'
            yield f'{start}_added_seconds_count{{cache="{state}"}} {total}'


def _gauges(gauges: dict[str, float]) -> Iterator[str]:
    for name, value in gauges.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        yield f"# TYPE lix_cache_gateway_{name} {kind}"
        yield f"lix_cache_gateway_{name} {value:g}"


def _safe(word: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in word[:60])
