"""What every protocol of a provider can do for the gateway."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from lix_cache.gateway.answer import LARGEST_ANSWER, Answer, Incomplete

__all__ = ["EventReader", "Protocol"]


class EventReader:
    """Records a stream while its bytes are passed on; nothing is parsed before :meth:`finish`.

    Args:
        assemble: makes the answer of all the bytes.
        max_bytes: the most that is kept. A stream that exceeds it goes on, and is not kept.
    """

    def __init__(
        self, assemble: Callable[[bytes], Answer | Incomplete], max_bytes: int = LARGEST_ANSWER
    ) -> None:
        self._assemble = assemble
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._size = 0

    @property
    def size(self) -> int:
        """How many bytes came."""
        return self._size

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes, cut anywhere."""
        self._size += len(chunk)
        if self._size > self._max_bytes:
            self._chunks.clear()
        else:
            self._chunks.append(chunk)

    def finish(self) -> Answer | Incomplete:
        """Return the answer, after the last byte; or why it is not to be kept. Only once."""
        if self._size > self._max_bytes:
            return Incomplete("too_large", f"a stream of {self._size} bytes; {self._max_bytes} is the most")
        chunks, self._chunks = self._chunks, []
        return self._assemble(b"".join(chunks))


class Protocol(ABC):
    """One protocol: reads what the provider says, and says it again.

    Attributes:
        name: of the protocol, for keys, logs and answers.
        path: where it is spoken.
    """

    name: ClassVar[str]
    path: ClassVar[str]

    @abstractmethod
    def read_body(self, body: bytes) -> Answer | Incomplete:
        """Read the body of an unstreamed response with status 200, its content encoding undone."""

    @abstractmethod
    def reader(self, request: Mapping[str, Any], *, max_bytes: int = LARGEST_ANSWER) -> EventReader:
        """Return what records a streamed response with status 200.

        Args:
            request: the parsed body of the request that it answers.
            max_bytes: the most that is kept.
        """

    @abstractmethod
    def lacks(self, answer: Answer, *, stream: bool, request: Mapping[str, Any]) -> str | None:
        """Return what the answer lacks for this request: then it is a miss. None if it can be served.

        What a request may leave out of its key may still need more than another recorded: the usage.
        """

    @abstractmethod
    def render(
        self, answer: Answer, *, stream: bool, request: Mapping[str, Any], new_id: str, created: int
    ) -> bytes:
        """Say an answer again: a body of JSON, or all server-sent events.

        Args:
            answer: of this protocol, and not one that lacks something.
            stream: whether the request asked for a stream.
            request: its parsed body.
            new_id: letters and digits that no answer had before. Put behind the protocol's prefix, it is
                the id; but an answer that the provider keeps, and later requests may refer to, keeps its own.
            created: the time, in Unix seconds.
        """

    @abstractmethod
    def text(self, answer: Answer) -> str:
        """Return the words of an answer, for comparing it with others: no reasoning, no calls."""

    @abstractmethod
    def error_body(self, status: int, message: str, kind: str | None = None) -> bytes:
        """Return an error as the protocol writes it.

        Args:
            status: the HTTP status.
            message: for people; no secret, no content.
            kind: the protocol's word for it; by default that of the status.
        """

    @abstractmethod
    def error_event(self, status: int, message: str, kind: str | None = None) -> bytes:
        """Return an error as the last event of a stream that began well."""
