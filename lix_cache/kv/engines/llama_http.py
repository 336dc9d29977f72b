"""Calls of a `llama-server`, and its stream of tokens."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from lix_cache.errors import EngineError
from lix_cache.kv.engine import Made
from lix_cache.kv.halting import Halt, current_halt

__all__ = ["LlamaHttp", "Told"]

#: The system takes a connection before its server looks at it.
_CONNECT_SECONDS = 30.0


class LlamaHttp:
    """A server at a URL.

    It may hang: every call ends with the halt it is given, or with that of its context.

    Args:
        url: of it.
        api_key: of it, if it has one.
        timeout: seconds to wait for its next byte.
    """

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        self.url, self.key = url, api_key
        self._parts = urlsplit(url)
        self._timeout = timeout
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def get(self, path: str) -> Any:
        """Return what the server says at a path."""
        with self._request("GET", path, None, None) as response:
            return json.loads(response.read())

    def post(self, path: str, body: Any, halt: Halt | None = None) -> Any:
        """Return its answer to a body; halted meanwhile, it ends with an error."""
        with self._request("POST", path, body, halt) as response:
            return json.loads(response.read())

    @contextlib.contextmanager
    def stream(self, path: str, body: Any, halt: Halt | None) -> Iterator[Iterator[dict[str, Any]]]:
        """Give the events of its answer to a body."""
        with self._request("POST", path, body, halt) as response:
            yield (json.loads(line[6:]) for line in response if line.startswith(b"data: "))

    @contextlib.contextmanager
    def _request(
        self, method: str, path: str, body: Any, halt: Halt | None
    ) -> Iterator[http.client.HTTPResponse]:
        halt = halt or current_halt() or Halt()
        if halt.is_set:
            raise EngineError("the generation was halted")
        url = self._parts
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connecting = halt.within(min(self._timeout, _CONNECT_SECONDS))
        connection = kind(url.hostname or "", url.port, timeout=connecting)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.connect()
            # Its end makes the server stop, and what waits for the server go on.
            with halt.heard_by(partial(_cut_off, connection.sock)):
                connection.sock.settimeout(halt.within(self._timeout))
                connection.request(method, url.path.rstrip("/") + path, data, self._headers)
                response = connection.getresponse()
                if response.status != 200:
                    # Not its text: that may quote the prompt.
                    raise EngineError(f"the server answers {response.status} to {path.split('?')[0]}")
                yield response
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            if halt.is_set:
                raise EngineError("the generation was halted while the server did not answer") from error
            raise EngineError(f"no usable answer from the server ({type(error).__name__})") from error
        finally:
            connection.close()


def _cut_off(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


class Told:
    """The tokens of a stream, by their numbers.

    The server sends nothing while what it made ends in half a character, and then names the last token
    alone. How many there were it counts. The others are those of the text that came with it, if they are as
    many; if not, they are known when the slot is asked for them, at the end.

    Args:
        tokenize: returns the tokens of a text.
    """

    def __init__(self, tokenize: Callable[[str], list[int]]) -> None:
        self._tokenize = tokenize
        #: Up to the first that is not known.
        self.ids: list[int] = []
        self.count = 0
        self._last: int | None = None

    def take(self, event: Mapping[str, Any]) -> Made:
        """Take an event; return what was made with it, its tokens if they are known."""
        own = [int(one) for one in event["tokens"]]
        text, count = str(event["content"]), int(event["tokens_predicted"])
        is_whole = len(self.ids) == self.count
        if count > self.count + len(own):
            found = self._tokenize(text)
            is_whole &= len(found) == count - self.count and found[len(found) - len(own) :] == own
            own = found if is_whole else own
        self.count = count
        self._last = own[-1] if own else None
        if not is_whole:
            return Made((), text)
        self.ids += own
        return Made(own, text)

    def end(self, event: Mapping[str, Any], held: Callable[[], Sequence[int]]) -> Made:
        """Take the last event; return the tokens that were not named before.

        Args:
            event: the last one.
            held: asks the slot for the tokens that were made and are in it: all but the last.
        """
        is_half = int(event["tokens_predicted"]) > self.count
        self.count = int(event["tokens_predicted"])
        known = len(self.ids)
        if known < self.count:
            with contextlib.suppress(EngineError):
                found = [*held()]
                if not is_half and self._last is not None:
                    found.append(self._last)
                if found[:known] == self.ids and len(found) <= self.count:
                    self.ids = found
        is_end = event.get("stop_type") == "eos"
        return Made(self.ids[known:], str(event["content"]), is_end, self.count - len(self.ids))
