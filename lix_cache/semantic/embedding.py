"""How texts become vectors: within a deadline, and each text once while it is remembered.

What an embedder made is remembered for all caches that use the same object. An object, not an id: two that
bear one id are not known to make the same vectors.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from lix_cache.compat.ring import unit_vector
from lix_cache.compute import Failed
from lix_cache.effects import Compute, Flow
from lix_cache.embedders.passages import passages
from lix_cache.errors import ComputeTimeout, ConfigError, InvalidInput, MissingExtra, told
from lix_cache.hot import entries
from lix_cache.matching.reasons import Reason
from lix_cache.matching.thresholds import is_lexical
from lix_cache.semantic.response_vectors import Meanings
from lix_cache.semantic.result import Stop
from lix_cache.vectors import check_dimension

if TYPE_CHECKING:
    from lix_cache.clock import Clock
    from lix_cache.config import EmbedderSettings
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.semantic.stats import Stats
    from lix_cache.vectors import FloatArray, VectorLike

__all__ = ["EmbedderMemory", "Embedding", "Spent", "memory_of"]

T = TypeVar("T")

#: Bytes of vectors that are remembered for an embedder: 10,000 of 384 numbers.
_REMEMBERED_BYTES = 16 * 1024 * 1024


@dataclass
class Spent:
    """Seconds that one call spent on waiting for embedder and verifier."""

    seconds: float = 0.0

    def add(self, stats: Stats, what: str, seconds: float) -> None:
        """Note how long one of them took."""
        self.seconds += seconds
        stats.took(what, seconds)


class EmbedderMemory:
    """What all caches of one embedder share in this process. Safe between threads.

    Args:
        embedder: held as long as this is, so that no other object gets its number.

    Attributes:
        meanings: embeds responses behind the callers' backs, in one thread.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.meanings = Meanings(embedder)
        self.renew()

    def renew(self) -> None:
        """In a forked child: let no lock be held by a thread that was not forked with it."""
        self._lock = threading.Lock()
        self._vectors: OrderedDict[bytes, FloatArray] = OrderedDict()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Memory that the vectors take."""
        return self._bytes

    def get(self, key: bytes) -> FloatArray | None:
        """Return the vector of a text by its digest."""
        with self._lock:
            return self._vectors.get(key)

    def put(self, key: bytes, vector: FloatArray) -> None:
        """Remember a vector; those that were made first are forgotten."""
        with self._lock:
            old = self._vectors.pop(key, None)
            self._bytes += vector.nbytes - (0 if old is None else old.nbytes)
            self._vectors[key] = vector
            while self._bytes > _REMEMBERED_BYTES:
                self._bytes -= self._vectors.popitem(last=False)[1].nbytes


_memories: WeakValueDictionary[int, EmbedderMemory] = WeakValueDictionary()
_memories_lock = threading.Lock()


def memory_of(embedder: Embedder) -> EmbedderMemory:
    """Return what all caches of an embedder share, as long as there is one of them."""
    with _memories_lock:
        memory = _memories.get(id(embedder))
        if memory is None:
            memory = _memories[id(embedder)] = EmbedderMemory(embedder)
        return memory


def _after_fork_in_child() -> None:
    global _memories_lock
    _memories_lock = threading.Lock()
    for memory in list(_memories.values()):
        memory.renew()


os.register_at_fork(after_in_child=_after_fork_in_child)


class Embedding:
    """The embedder of one cache.

    Args:
        embedder: None where every vector is given.
        given: what the configuration says of the vectors.
        deadline: seconds that the embedder has for one call; None for no limit.
        embed_answers: whether responses are compared by meaning.
        stats: of the cache.
        clock: for durations.
    """

    def __init__(
        self,
        embedder: Embedder | None,
        given: EmbedderSettings,
        deadline: float | None,
        embed_answers: bool,
        stats: Stats,
        clock: Clock,
    ) -> None:
        self.embedder, self.deadline = embedder, deadline
        self._given, self._stats, self._clock = given, stats, clock
        self._memory = None if embedder is None else memory_of(embedder)
        self._identity: tuple[str, int] | None = None
        #: What embeds responses; None where they are compared by equality.
        self.meanings = self._memory.meanings if embed_answers and self._memory is not None else None

    @property
    def name(self) -> str:
        """The embedder's id; "" while it is not known."""
        return "" if self._identity is None else self._identity[0]

    def answer_meanings(self) -> Meanings | None:
        """Return what embeds responses; None where they are compared by equality.

        An answer need not share words with its question, and two that differ in one word may say the
        opposite. So lexical vectors of responses would cost right hits, and let wrong ones pass.
        """
        return None if is_lexical(self.name) else self.meanings

    def trouble(self, error: BaseException) -> None:
        """Count trouble with a response's vector."""
        self._stats.trouble("embedder_errors", error)

    def identity(self) -> Flow[tuple[str, int]]:
        """Return the embedder's id and dimension. A model may be loaded for the answer."""
        if self._identity is None:
            embedder = self.embedder
            if embedder is None:
                self._identity = self._given.id, self._given.dim or 0
            else:
                asked = yield from self._within(lambda: (str(embedder.id), int(embedder.dim)), Spent())
                check_dimension(asked[1], self._given.dim, "the semantic cache (embedding_dim)")
                self._identity = asked
        return self._identity

    def given(self, embedding: VectorLike, dim: int) -> FloatArray:
        """Check a vector that the application made."""
        vector = unit_vector(embedding)
        if dim == 0:
            raise ConfigError(
                "a query_embedding needs a known dimension: give the cache an embedder, "
                "or set embedding_dim and embedder_id in its configuration"
            )
        check_dimension(vector.size, dim, "the semantic cache")
        return vector

    def vector(self, text: str, dim: int, spent: Spent) -> Flow[FloatArray]:
        """Embed a text.

        Raises:
            Stop: it cannot be done, with the reason.
        """
        embedder, memory = self.embedder, self._memory
        if embedder is None or memory is None:
            raise Stop(Reason.NO_EMBEDDING, "there is no embedder, and no query_embedding was given")
        key = entries.text_digest(text)
        known = memory.get(key)
        if known is not None and known.size == dim:
            return known

        def embed() -> FloatArray:
            parts = passages(text)
            made = _mean(embedder.embed(parts), len(parts))
            check_dimension(made.size, dim, "the semantic cache")
            return made

        vector: FloatArray = yield from self._within(embed, spent)
        # A miss is followed by a store of the same text.
        memory.put(key, vector)
        return vector

    def vector_or_none(self, text: str, dim: int, spent: Spent) -> Flow[FloatArray | None]:
        """Embed a text; None where that cannot be done: then only its exact words find it."""
        try:
            return (yield from self.vector(text, dim, spent))
        except Stop:
            return None

    def _within(self, call: Callable[[], T], spent: Spent) -> Flow[T]:
        """Let the embedder work within the deadline.

        Raises:
            Stop: it did not, with the reason.
            MissingExtra: a package it needs is not installed. No later call would do better, so it
                is no miss: as a miss it would stay unnoticed.
        """
        started = self._clock.monotonic()
        try:
            result: T = yield Compute(call, self.deadline, "the embedder", may_hang=True)
        except ComputeTimeout as error:
            self.trouble(error)
            raise Stop(Reason.EMBEDDER_TIMEOUT, str(error)) from error
        except Failed as failed:
            self.trouble(failed.error)
            if isinstance(failed.error, MissingExtra):
                raise failed.error from None
            raise Stop(Reason.EMBEDDER_FAILED, told(failed.error)) from failed.error
        finally:
            spent.add(self._stats, "embed", self._clock.monotonic() - started)
        return result


def _mean(vectors: Any, wanted: int) -> FloatArray:
    """Return the mean of the passages of one text."""
    if wanted == 1:
        return unit_vector(vectors, "what the embedder made")
    # Rows too few or too many would make the mean of some other text, and still look like a vector.
    if len(vectors) != wanted:
        raise InvalidInput(f"the embedder made {len(vectors)} vectors of {wanted} passages")
    parts = [unit_vector(vector, "what the embedder made") for vector in vectors]
    return unit_vector(sum(parts[1:], parts[0]), "what the embedder made")
