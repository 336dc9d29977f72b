"""The few words of ASGI that the gateway speaks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, Protocol

from lix_cache.gateway.errors import Refused
from lix_cache.gateway.headers import Pairs

__all__ = [
    "CONNECTION",
    "Gone",
    "Receive",
    "Scope",
    "Send",
    "Watch",
    "cutting",
    "goes_upwards",
    "headers_of",
    "plain_path",
    "read_body",
    "respond",
    "target_of",
    "watch",
]

Scope = MutableMapping[str, Any]
#: Where a scope holds the server's connection, if that tells when its client leaves.
CONNECTION: Final = "lix_cache.connection"
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Headers that must not repeat: servers disagree about which one counts.
_ONCE = frozenset(
    {"authorization", "x-api-key", "api-key", "x-lix-key", "content-length", "host", "x-session-id"}
)
_MOST_HEADERS = 200
#: As servers read it that take a backslash for a slash, or leave out what is behind a semicolon.
_UPWARDS = re.compile(r"(?:^|[/\\])\.\.(?:[/\\;]|$)")
#: How many times the most that is read before an answer.
_DRAINED = 4


class Gone(Exception):
    """The client left before its request was whole."""


def headers_of(scope: Scope) -> dict[str, str]:
    """Return a request's headers, names in lower case.

    Raises:
        Refused: too many, or one twice that must be there once.
    """
    pairs = scope["headers"]
    if len(pairs) > _MOST_HEADERS:
        raise Refused(431, "too_many_headers", f"a request may have {_MOST_HEADERS} headers")
    found = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
    if len(found) != len(pairs):
        names = [name.decode("latin-1") for name, _ in pairs]
        twice = next((name for name in names if name in _ONCE and names.count(name) > 1), None)
        if twice is not None:
            raise Refused(400, "invalid_header", f"the header {twice} is there more than once")
        for name, value in pairs:  # a list in several lines
            text = name.decode("latin-1")
            if names.count(text) > 1 and found[text] != value.decode("latin-1"):
                between = "; " if text == "cookie" else ","
                found[text] = between.join(v.decode("latin-1") for n, v in pairs if n == name)
    if "transfer-encoding" in found:
        _check_framing(scope, found["transfer-encoding"])
    if "host" not in found and scope["http_version"] != "1.0":
        raise Refused(400, "invalid_framing", "the request has no header host")
    return found


def _check_framing(scope: Scope, coding: str) -> None:
    """Refuse a body of which two servers would not agree where it ends (RFC 9112, 6.1)."""
    if coding.strip().lower() != "chunked" or scope["http_version"] != "1.1":
        raise Refused(
            400, "invalid_framing", "the transfer-encoding may be chunked, in HTTP/1.1, and no other"
        )


def plain_path(path: str) -> str:
    """Return a path without what makes no difference: providers take these spellings for one place."""
    if "//" in path or "/./" in path or path.endswith(("/", "/.")):
        return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    return path


def target_of(scope: Scope) -> str:
    """Return path and query as they came.

    Raises:
        Refused: the path has segments that mean another place.
    """
    path: str = scope["path"]
    if not path.startswith("/"):
        # Put behind a provider's address it would name another machine.
        raise Refused(400, "invalid_path", "the path must begin with a slash")
    if goes_upwards(path):
        raise Refused(400, "invalid_path", "the path must not hold '..'")
    raw = scope.get("raw_path") or path.encode()
    query = scope["query_string"]
    return (raw + b"?" + query if query else raw).decode("latin-1")


def goes_upwards(path: str) -> bool:
    """Whether a path has segments that mean another place."""
    return ".." in path and _UPWARDS.search(path) is not None


async def read_body(receive: Receive, headers: Mapping[str, str], most: int) -> bytes:
    """Read a request's body.

    Raises:
        Refused: it is larger than ``most``. What is a little too large is read all the same, and dropped:
            many clients look for an answer only when they have sent all.
        Gone: the client left.
    """
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 15 or int(length) > _DRAINED * most):
        raise _too_large(most)
    parts: list[bytes] = []
    size, is_more = 0, True
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        is_more = message.get("more_body", False)
        size += len(part)
        if size > _DRAINED * most:
            break
        if size <= most:
            parts.append(part)
        else:
            parts.clear()
    if size > most:
        raise _too_large(most)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(most: int) -> Refused:
    return Refused(413, "body_too_large", f"the request's body is larger than {most} bytes")


async def respond(send: Send, status: int, headers: Pairs, body: bytes) -> None:
    """Send a whole answer."""
    headers.append((b"content-length", b"%d" % len(body)))
    whole = getattr(getattr(send, "__self__", None), "whole", None)
    if whole is not None and whole(status, headers, body):
        return  # the server's own way costs as much as finding the answer
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Watch(Protocol):
    """Looks whether the client is there."""

    def cancel(self) -> object:
        """Look no longer."""
        ...


def cutting(scope: Scope) -> Callable[[], object]:
    """Return what closes a request's connection at once, if its server can do that."""
    connection = scope.get(CONNECTION)
    found: Callable[[], object] = (lambda: None) if connection is None else connection.cut
    return found


def watch(scope: Scope, receive: Receive, gone: Callable[[object], None]) -> Watch:
    """Call a function when the client has left. Cancel what is returned when all is sent."""
    connection = scope.get(CONNECTION)
    if connection is not None:
        # The server's own connection tells it: a task that waits costs more than the rest of a small request.
        found: Watch = connection.watched(gone)
        return found

    async def until() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task = asyncio.get_running_loop().create_task(until())
    task.add_done_callback(gone)
    return task
