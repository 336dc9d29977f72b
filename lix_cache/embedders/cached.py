"""An embedder that makes no vector twice."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from lix_cache.checks import check_has, check_whole
from lix_cache.embedders.process import PerProcess
from lix_cache.embedders.protocol import Embedder, checked_texts
from lix_cache.errors import EmbedderError

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = ["CachedEmbedder", "EmbeddingStore"]


class EmbeddingStore(Protocol):
    """Where vectors are kept for all processes; :class:`lix_cache.URLEmbeddingCache` is one."""

    def batch_get(self, urls: Sequence[str]) -> Mapping[str, FloatArray | None]:
        """Return the vector, or None, for each key."""
        ...

    def batch_set(self, url_embeddings: Mapping[str, Any]) -> Any:
        """Keep a vector under each key."""
        ...


@dataclass
class _State:
    """What one process knows."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    memory: OrderedDict[str, FloatArray] = field(default_factory=OrderedDict)
    under_way: dict[str, Future[FloatArray]] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)


class CachedEmbedder:
    """An embedder behind a memory of its own and, if given, a cache that all processes share.

    Keys are digests of the embedder's id and the text: no text is stored, and vectors of
    different embedders never meet. What is in neither is embedded in one batch. If several
    threads want one text at once, one makes the vector and the others wait for it.

    Trouble with the shared cache is handled as that cache is set up: by default its error
    is raised, with ``on_cache_error="miss"`` the vectors are made anew, and counted there.

    Args:
        embedder: makes the vectors.
        cache: a :class:`lix_cache.URLEmbeddingCache`; None keeps vectors in this process only.
        memory_items: vectors kept in this process, the least recently used leave first.

    Raises:
        ConfigError: ``memory_items`` is negative.
    """

    def __init__(
        self, embedder: Embedder, cache: EmbeddingStore | None = None, *, memory_items: int = 1024
    ) -> None:
        check_whole("memory_items", memory_items, 0)
        check_has("embedder", embedder, "HashingEmbedder()", embed=True, id=False, dim=False)
        if cache is not None:
            check_has("cache", cache, "URLEmbeddingCache(…)", batch_get=True, batch_set=True)
        self._embedder = embedder
        self._cache = cache
        self._memory_items = memory_items
        self._state = PerProcess(_State)

    def __repr__(self) -> str:
        return f"CachedEmbedder({self._embedder!r})"

    @property
    def id(self) -> str:
        """That of the embedder behind it."""
        return self._embedder.id

    @property
    def dim(self) -> int:
        """Numbers in each vector."""
        return self._embedder.dim

    def get_stats(self) -> dict[str, int]:
        """Return how many texts came from where in this process.

        ``memory``, ``cache``: found there; ``waited``: made for another caller at that moment;
        ``embedded``: made; ``refused``: found in the cache with a wrong dimension or length,
        and made anew.
        """
        state = self._state()
        with state.lock:
            return {
                name: state.counters[name] for name in ("memory", "cache", "waited", "embedded", "refused")
            }

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return vectors, shape (n, dim), float32, each of length 1.

        Raises:
            InvalidInput: not a sequence of strings.
            EmbedderError: as the embedder says.
            RedisError: the shared cache is in trouble, and set up to say so.
        """
        import numpy as np

        checked = checked_texts(texts)
        if not checked:
            return np.empty((0, self.dim), dtype=np.float32)
        who = self.id
        keys = [_key(who, text) for text in checked]
        state = self._state()
        mine: dict[str, str] = {}
        waiting: dict[str, Future[FloatArray]] = {}
        found: dict[str, FloatArray] = {}
        with state.lock:
            for key, text in zip(keys, checked, strict=True):
                self._claim(state, key, text, mine, waiting, found)
        # Own work before waiting for others': so no two threads can wait for each other.
        if mine:
            found.update(self._work(state, mine))
        for key, future in waiting.items():
            found[key] = future.result()
        return np.stack([found[key] for key in keys])

    def _claim(
        self,
        state: _State,
        key: str,
        text: str,
        mine: dict[str, str],
        waiting: dict[str, Future[FloatArray]],
        found: dict[str, FloatArray],
    ) -> None:
        """Decide where a text's vector will come from. Under the lock."""
        if key in mine or key in waiting or key in found:
            return
        vector = state.memory.get(key)
        if vector is not None:
            state.memory.move_to_end(key)
            state.counters["memory"] += 1
            found[key] = vector
        elif key in state.under_way:
            state.counters["waited"] += 1
            waiting[key] = state.under_way[key]
        else:
            state.under_way[key] = Future()
            mine[key] = text

    def _work(self, state: _State, mine: dict[str, str]) -> dict[str, FloatArray]:
        """Find or make what this thread has claimed; waiting threads learn how it went."""
        try:
            made = self._found_or_made(state, mine)
        except BaseException as error:
            with state.lock:
                futures = [state.under_way.pop(key) for key in mine]
            for future in futures:
                future.set_exception(error)
            raise
        with state.lock:
            futures = [state.under_way.pop(key) for key in mine]
            state.memory.update(made)
            while len(state.memory) > self._memory_items:
                state.memory.popitem(last=False)
        for key, future in zip(mine, futures, strict=True):
            future.set_result(made[key])
        return made

    def _found_or_made(self, state: _State, mine: dict[str, str]) -> dict[str, FloatArray]:
        kept = {} if self._cache is None else self._cache.batch_get(list(mine))
        dim = self.dim
        found = {key: vector for key, vector in kept.items() if vector is not None}
        sound = {key: vector for key, vector in found.items() if _is_sound(vector, dim)}
        missing = {key: text for key, text in mine.items() if key not in sound}
        if missing:
            made = self._made(missing, dim)
            if self._cache is not None:
                self._cache.batch_set(made)
            sound.update(made)
        for vector in sound.values():
            # Shared by all who ask for it.
            vector.flags.writeable = False
        with state.lock:
            state.counters["cache"] += len(mine) - len(missing)
            state.counters["embedded"] += len(missing)
            state.counters["refused"] += len(found) - (len(mine) - len(missing))
        return sound

    def _made(self, missing: dict[str, str], dim: int) -> dict[str, FloatArray]:
        import numpy as np

        rows: FloatArray = np.asarray(self._embedder.embed(list(missing.values())), dtype=np.float32)
        if rows.shape != (len(missing), dim) or not np.isfinite(rows).all():
            raise EmbedderError(
                f"{self._embedder!r} answered {len(missing)} texts with an array of shape {rows.shape}, or "
                f"with numbers that are not finite; its dim is {dim}"
            )
        return {key: row.copy() for key, row in zip(missing, rows, strict=True)}


def _key(embedder_id: str, text: str) -> str:
    digest = hashlib.blake2b(digest_size=24)
    for part in (embedder_id, text):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return f"text:{digest.hexdigest()}"


def _is_sound(vector: FloatArray, dim: int) -> bool:
    """Whether it is of the right dimension and of length 1, as every vector made here is."""
    return vector.shape == (dim,) and abs(float(vector @ vector) - 1.0) < 1e-3
