"""What a local model tells of its state, in a header and in metrics. Pure."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lix_cache.errors import EngineBusy

if TYPE_CHECKING:
    from lix_cache.gateway.local.answering import Begun
    from lix_cache.kv.swap import SwappableModel

__all__ = ["Tally", "kv_header", "metric_lines"]

_START = "lix_cache_kv"
#: Counters of a model and its store: name for Prometheus.
_COUNTERS = {
    "calls": "calls_total",
    "prompt_tokens": "prompt_tokens_total",
    "cached_tokens": "cached_tokens_total",
    "restored_tokens": "restored_tokens_total",
    "recomputed_tokens": "recomputed_tokens_total",
    "completion_tokens": "completion_tokens_total",
    "hits_memory": "hits_memory_total",
    "hits_disk": "hits_disk_total",
    "misses": "misses_total",
    "restores": "restores_total",
    "failed_restores": "failed_restores_total",
    "saves": "saves_total",
    "failed_saves": "failed_saves_total",
    "evictions": "memory_evictions_total",
    "store_loaded_files": "blocks_loaded_total",
    "store_loaded_bytes": "loaded_bytes_total",
    "store_written_bytes": "written_bytes_total",
    "store_evicted_files": "blocks_evicted_total",
    "store_bad_files": "bad_blocks_total",
    "store_left_out": "left_out_blocks_total",
    "lost_sessions": "lost_sessions_total",
}
_GAUGES = {
    "live_sessions": "memory_sessions",
    "live_bytes": "memory_bytes",
    "load_seconds_per_token": "load_seconds_per_token",
    "prefill_seconds_per_token": "prefill_seconds_per_token",
}
_STORED = {
    "files": "blocks",
    "bytes": "bytes",
    "sessions": "sessions",
    "models": "models",
    "shared_files": "shared_blocks",
}


class Tally:
    """What models count that serve one after the other: to Prometheus a counter that falls is a restart."""

    def __init__(self) -> None:
        self._past: Counter[str] = Counter()

    @contextlib.contextmanager
    def over(self, swappable: SwappableModel) -> Iterator[None]:
        """Keep what a model counted, if it is exchanged meanwhile."""
        # Nothing else of it is held: it goes before another is loaded.
        before, counted = swappable.model.counters, swappable.model.counting()
        try:
            yield
        finally:
            now = None
            with contextlib.suppress(EngineBusy):
                now = swappable.model.counters
            if now is not before:
                self._past.update(counted())

    def whole(self, stats: Mapping[str, Any]) -> dict[str, Any]:
        """Return the numbers of the model that serves, with what those before it counted."""
        return {**stats, **{name: count + stats.get(name, 0) for name, count in self._past.items()}}


def kv_header(begun: Begun) -> str:
    """Return how much of a prompt was known, and where it left what was known. No content."""
    usage, miss = begun.usage, begun.miss
    told = f"cached={usage.cached_tokens}/{usage.prompt_tokens}; source={usage.source}"
    if miss is not None:
        part = "".join(letter for letter in miss.part if letter.isalnum() or letter in " ()_-")[:60]
        told += f'; differs="token {miss.token_in_part} of {part.encode("ascii", "replace").decode()}"'
    return told


def metric_lines(models: Mapping[str, Mapping[str, Any]], stored: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines for Prometheus.

    Args:
        models: name of an upstream -> what its model counts.
        stored: numbers of the store that all models share.
    """
    for names, kind in ((_COUNTERS, "counter"), (_GAUGES, "gauge")):
        for name, shown in names.items():
            yield f"# TYPE {_START}_{shown} {kind}"
            for model, stats in models.items():
                value = stats.get(name)
                if value is not None or kind == "counter":
                    yield f'{_START}_{shown}{{upstream="{model}"}} {value or 0:g}'
    for name, shown in _STORED.items():
        if name in stored:
            yield f"# TYPE {_START}_stored_{shown} gauge"
            yield f"{_START}_stored_{shown} {stored[name]:g}"
