"""What every protocol of a provider can do for the gateway."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

from lix_cache.dialects.responses import error_in, flaw_of
from lix_cache.errors import CodecError
from lix_cache.gateway.answer import LARGEST_ANSWER, Answer, Incomplete
from lix_cache.gateway.plain_json import dump, parse_object, parser_of
from lix_cache.gateway.sse import Event, Events, read_events

__all__ = [
    "EventReader",
    "Parse",
    "Protocol",
    "Unfit",
    "check_error",
    "check_name",
    "check_whole",
    "checked_object",
    "checked_text",
    "count",
    "cut_off",
    "is_length",
    "judged",
    "members",
    "openai_error",
    "openai_kind",
    "slotted",
    "told_name",
    "word",
]

_LONGEST_WORD = 4_096
#: How the protocols, and some servers that speak them, say that a limit of length ended an answer.
_LENGTHS = frozenset(
    {"length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"}
)
#: Reads an event's data.
Parse: TypeAlias = Callable[[bytes], dict[str, Any]]


class Unfit(Exception):
    """What a provider sent is not an answer to keep."""

    def __init__(self, rule: str, detail: str, cut: Answer | None = None) -> None:
        self.incomplete = Incomplete(rule, detail, cut)
        super().__init__(rule, detail)


class EventReader:
    """Records a stream while its bytes are passed on; nothing is parsed before :meth:`finish`.

    Args:
        assemble: makes the answer of all the bytes. A stream that is too large goes on, and is not kept.
    """

    def __init__(self, assemble: Callable[[bytes], Answer | Incomplete]) -> None:
        self._assemble = assemble
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes, cut anywhere."""
        self._size += len(chunk)
        if self._size > LARGEST_ANSWER:
            self._chunks.clear()
        else:
            self._chunks.append(chunk)

    def finish(self) -> Answer | Incomplete:
        """Return the answer, after the last byte; or why it is not to be kept. Only once.

        It takes time: about 5 ms for a thousand events.
        """
        if self._size > LARGEST_ANSWER:
            return Incomplete("too_large", f"a stream of {self._size} bytes; {LARGEST_ANSWER} is the most")
        chunks, self._chunks = self._chunks, []
        return self._assemble(b"".join(chunks))


class Protocol(ABC):
    """One protocol: reads what the provider says, and says it again.

    Attributes:
        name: of the protocol, for keys, logs and answers.
        path: where it is spoken.
        last: the data of the event that ends its streams, if it is no JSON.
    """

    name: ClassVar[str]
    path: ClassVar[str]
    last: ClassVar[bytes] = b""

    def read_body(self, body: bytes, request: Mapping[str, Any]) -> Answer | Incomplete:
        """Read the body of an unstreamed response with status 200, its content encoding undone.

        Args:
            body: all of it.
            request: the parsed body of the request that it answers.
        """
        if len(body) > LARGEST_ANSWER:
            return Incomplete("too_large", f"a body of {len(body)} bytes; {LARGEST_ANSWER} is the most")
        return _only(judged(lambda: [self._of_body(parse_object(body), request)]))

    def reader(self, request: Mapping[str, Any]) -> EventReader:
        """Return what records a streamed response with status 200.

        Args:
            request: the parsed body of the request that it answers.
        """

        def assemble(data: bytes) -> Answer | Incomplete:
            events = read_events(data, last=self.last)
            return _only(judged(lambda: [self._of_events(events, parser_of(data), request)]))

        return EventReader(assemble)

    def lacks(self, answer: Answer, *, stream: bool, request: Mapping[str, Any]) -> str | None:  # noqa: ARG002
        """Return what the answer lacks for this request: then it is a miss. None if it can be served.

        What a request may leave out of its key may still need more than another recorded: the usage.
        """
        return None

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

    def error_body(self, status: int, message: str, kind: str | None = None) -> bytes:
        """Return an error as the protocol writes it.

        Args:
            status: the HTTP status.
            message: for people; no secret, no content.
            kind: the protocol's word for it; by default that of the status.
        """
        return openai_error(status, message, kind)

    @abstractmethod
    def _of_body(self, body: dict[str, Any], request: Mapping[str, Any]) -> Answer: ...

    @abstractmethod
    def _of_events(self, events: Events, parse: Parse, request: Mapping[str, Any]) -> Answer: ...


def _only(found: list[Answer] | Incomplete) -> Answer | Incomplete:
    return found if isinstance(found, Incomplete) else found[0]


def openai_kind(status: int) -> str:
    """Return OpenAI's word for an error."""
    if status >= 500:
        return "server_error"
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return kinds.get(status, "invalid_request_error")


def openai_error(status: int, message: str, kind: str | None = None) -> bytes:
    """Return an error as OpenAI writes it."""
    error = {"message": message, "type": kind or openai_kind(status), "param": None, "code": None}
    return dump({"error": error})


def judged(read: Callable[[], list[Answer]]) -> list[Answer] | Incomplete:
    """Return what was read, or why it is not to be kept."""
    try:
        found = read()
    except Unfit as unfit:
        return unfit.incomplete
    except CodecError as error:
        return Incomplete("malformed", str(error))
    for answer in found:
        if max(map(len, (answer.id, answer.model, *answer.finish))) > _LONGEST_WORD:
            return Incomplete("malformed", f"a name of more than {_LONGEST_WORD} characters")
        if answer.size > LARGEST_ANSWER:
            return Incomplete("too_large", f"an answer of {answer.size} bytes; {LARGEST_ANSWER} is the most")
    return found


# -- what the protocols share --------------------------------------------------------------


def check_error(part: Mapping[str, Any]) -> None:
    """Refuse what is an error."""
    error = error_in(part)
    if error is not None:
        raise Unfit("error", error)


def check_whole(body: Mapping[str, Any]) -> None:
    """Refuse an answer that is an error, was cut, or says nothing."""
    flaw = flaw_of(body, steps=True)
    if flaw is not None:
        raise Unfit(flaw[0], flaw[1][:200])


def is_length(reason: Any) -> bool:
    """Whether a word says that a limit of length ended an answer."""
    return isinstance(reason, str) and reason.lower() in _LENGTHS


def cut_off(answer: Answer) -> Unfit:
    """Return why an answer is not to be kept that was whole, had a limit of length not ended it."""
    return Unfit("truncated", "a limit of length ended it", answer)


def members(value: Any, what: str) -> list[dict[str, Any]]:
    """Return a list of objects.

    Raises:
        Unfit: it is none.
    """
    if not isinstance(value, list):
        raise Unfit("malformed", f"{what} is not a list of objects")
    for one in value:
        if not isinstance(one, dict):
            raise Unfit("malformed", f"{what} is not a list of objects")
    return value


def checked_object(value: Any, what: str) -> dict[str, Any]:
    """Return an object, an empty one for null.

    Raises:
        Unfit: it is none.
    """
    if value is not None and not isinstance(value, dict):
        raise Unfit("malformed", f"{what} is no object")
    return value or {}


def checked_text(value: Any, what: str) -> str:
    """Return a text, an empty one for null.

    Raises:
        Unfit: it is none.
    """
    if value is not None and not isinstance(value, str):
        raise Unfit("malformed", f"{what} is no text")
    return value or ""


def count(number: Any) -> int:
    """Return a number of tokens; 0 for what is none."""
    return number if type(number) is int and number > 0 else 0


def slotted(part: Mapping[str, Any]) -> bytes:
    """Return the members of a JSON object, with slots for id and time."""
    # Those that say nothing (Azure begins with such a chunk) stay as they are.
    slots = b',"id":\0i' if part.get("id") else b""
    slots += b',"created":\0t' if part.get("created") else b""
    rest = {key: value for key, value in part.items() if key not in ("id", "created") or not value}
    return b",".join(filter(None, (slots[1:], dump(rest)[1:-1])))


def check_name(event: Event, kind: str) -> None:
    """Refuse an event whose name is not its type: it may be any bytes, and would be said again."""
    if event.name and event.name != kind.encode():
        raise Unfit("malformed", "an event whose name is not its type")


def word(value: Any) -> str:
    """Return a word that a provider chose; empty if it is none."""
    return value if isinstance(value, str) else ""


def told_name(name: Any) -> str:
    """Return a field's or an event's name as it may be told: it comes from a stranger."""
    text = str(name)
    return text if len(text) <= 60 and text.replace("_", "").replace(".", "").isalnum() else "…"
