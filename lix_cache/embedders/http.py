"""Vectors from a service that speaks OpenAI's embeddings API (extra ``http``)."""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lix_cache.checks import check_is, check_seconds, check_text, check_whole, kind_of
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.embedders.post import Post, Reply
from lix_cache.embedders.process import PerProcess
from lix_cache.embedders.protocol import checked_texts, encodable, unit_rows
from lix_cache.errors import ConfigError, EmbedderError, EmbedderUnavailable

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = ["OpenAIEmbedder"]

_KEY_VARIABLE = "OPENAI_API_KEY"
_LARGEST_BATCH = 2048
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0
_TOO_MANY, _TIMEOUT, _CONFLICT, _SERVER = 429, 408, 409, 500
_SHOWN = 300


class OpenAIEmbedder:
    """Vectors from OpenAI, or from any server with its API (vLLM, Ollama, TEI, LiteLLM, ...).

    Requests that fail for now (429, 408, 409, 5xx, no connection) are repeated after a
    growing, random pause, or after what ``Retry-After`` asks for. The key is never part of
    an error, a ``repr`` or a log line, and is sent to ``base_url`` alone: redirects are not
    followed.

    Args:
        model: name of the model.
        base_url: the API's root, to which ``/embeddings`` is added.
        api_key: by default the environment variable ``OPENAI_API_KEY``; a server that wants
            none gets none.
        dimensions: ask for so many numbers; by default the model's own number.
        batch_size: texts in one request, 1 to 2048.
        timeout_seconds: for one request.
        retries: requests after the first that failed for now.
        max_wait_seconds: give up where the pauses would add up to more, whatever
            ``Retry-After`` says.
        headers: further headers.
        clock: who waits; for tests.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = "https://api.openai.com/v1",
        api_key: str | None = None,
        dimensions: int | None = None,
        batch_size: int = 128,
        timeout_seconds: float = 30.0,
        retries: int = 3,
        max_wait_seconds: float = 60.0,
        headers: dict[str, str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._url = _checked_url(base_url)
        check_text("model", model)
        check_whole("batch_size", batch_size, 1, _LARGEST_BATCH)
        check_whole("retries", retries, 0)
        if dimensions is not None:
            check_whole("dimensions", dimensions, 1)
        check_seconds("timeout_seconds", timeout_seconds)
        check_seconds("max_wait_seconds", max_wait_seconds)
        if api_key is not None:
            check_text("api_key", api_key, may_be_empty=True)
        if headers is not None:
            check_is("headers", headers, dict)
            if not all(isinstance(word, str) for pair in headers.items() for word in pair):
                raise ConfigError("headers must be a dict of texts")
        self._model = model
        key = os.environ.get(_KEY_VARIABLE) if api_key is None else api_key
        self._key = key.strip() if key else None
        self._headers = dict(headers or {})
        # Refused here: the error of who would send them repeats them whole.
        if not all(value.isascii() and value.isprintable() for value in self._secrets):
            raise ConfigError("api_key and the values of headers must be printable ASCII")
        self._dimensions = dimensions
        self._batch_size = batch_size
        self._retries = retries
        self._max_wait = max_wait_seconds
        self._clock = clock
        self._post = PerProcess(lambda: Post(self._url + "/embeddings", timeout_seconds))
        self._dim = PerProcess(self._find_dim)

    def __repr__(self) -> str:
        return f"OpenAIEmbedder({self._model!r}, base_url={self._url!r})"

    @property
    def id(self) -> str:
        """The server, the model, and the number of dimensions asked for."""
        asked = "" if self._dimensions is None else f":{self._dimensions}"
        return f"openai:{self._url}:{self._model}{asked}"

    @property
    def dim(self) -> int:
        """Numbers in each vector; asks the server once if ``dimensions`` is not given.

        Raises:
            EmbedderError: the server's answer is of no use.
            EmbedderUnavailable: the server cannot be asked now.
        """
        return self._dimensions or self._dim()

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return the server's vectors, shape (n, dim), float32, each of length 1.

        Raises:
            InvalidInput: not a sequence of strings.
            EmbedderError: refused (a wrong key, an unknown model), or an answer of no use.
            EmbedderUnavailable: no connection, no answer in time, or too busy, also after retries.
            MissingExtra: urllib3 is not installed.
        """
        import numpy as np

        checked = checked_texts(texts)
        if not checked:
            return np.empty((0, self.dim), dtype=np.float32)
        dim = self._dimensions or (self._dim() if len(checked) > self._batch_size else None)
        parts = range(0, len(checked), self._batch_size)
        rows = [self._ask(checked[start : start + self._batch_size], dim) for start in parts]
        return np.concatenate(rows)

    def _find_dim(self) -> int:
        return int(self._ask(["dimension"], None).shape[1])

    def _ask(self, texts: list[str], dim: int | None) -> FloatArray:
        body: dict[str, Any] = {"model": self._model, "input": [encodable(text) for text in texts]}
        body["encoding_format"] = "float"
        if self._dimensions is not None:
            body["dimensions"] = self._dimensions
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._headers}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        reply = self._repeated(json.dumps(body).encode(), headers)
        return unit_rows(_vectors(reply.data, len(texts), self), len(texts), dim, repr(self))

    def _repeated(self, body: bytes, headers: dict[str, str]) -> Reply:
        """Send until it is answered or there is no use in trying again."""
        waited = 0.0
        for attempt in range(self._retries + 1):
            try:
                reply = self._post()(body, headers)
            except EmbedderUnavailable as error:
                failure, pause = error, None
            else:
                if reply.status == 200:
                    return reply
                text = f"{self!r} answered {reply.status}: {self._shown(reply.data)}"
                if reply.status not in (_TOO_MANY, _TIMEOUT, _CONFLICT) and reply.status < _SERVER:
                    raise EmbedderError(text + _advice(reply.status, keyed=bool(self._key)))
                failure, pause = EmbedderUnavailable(text), reply.retry_after
            if pause is None:
                # Random, so that clients that failed together do not come back together.
                pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            waited += pause
            if attempt == self._retries or waited > self._max_wait:
                raise failure
            self._clock.sleep(pause)
        raise AssertionError  # the last attempt returns or raises

    @property
    def _secrets(self) -> list[str]:
        return [value for value in (self._key, *self._headers.values()) if value]

    def _shown(self, data: bytes) -> str:
        """Return the beginning of a server's words. Some repeat the key they refuse."""
        text = data.decode("utf-8", "replace")
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join(text.split())[:_SHOWN]


def _checked_url(base_url: object) -> str:
    if not isinstance(base_url, str):
        raise ConfigError(f"base_url must be a str, got {kind_of(base_url)}")
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError:
        # Its words repeat a part of the URL, which may be one of a password.
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("base_url must begin with http:// or https:// and name a host")
    if port == 0 or "@" in base_url or parts.query or parts.fragment:
        # It is part of the id, of errors and of the log.
        raise ConfigError("base_url must hold no user, password or query; give a key as api_key=")
    return base_url.rstrip("/")


def _advice(status: int, *, keyed: bool) -> str:
    if status in (401, 403):
        return "; check the key" if keyed else f"; give a key as api_key= or in {_KEY_VARIABLE}"
    if status == 404:
        return "; check base_url and the model's name"
    return ""


def _vectors(data: bytes, count: int, who: OpenAIEmbedder) -> list[Any]:
    """Return the vectors of an answer in the order of the texts.

    Raises:
        EmbedderError: not an answer of the embeddings API, or not one for so many texts.
    """
    try:
        items = json.loads(data)["data"]
        rows: list[Any] = [None] * count
        for position, item in enumerate(items):
            rows[item.get("index", position)] = _numbers(item["embedding"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise EmbedderError(
            f"{who!r} did not answer as the embeddings API does ({type(error).__name__})"
        ) from None
    if len(items) != count or any(row is None for row in rows):
        raise EmbedderError(f"{who!r} answered {len(items)} vectors for {count} texts")
    if len({len(row) for row in rows}) > 1:
        raise EmbedderError(f"{who!r} answered with vectors of different lengths")
    return rows


def _numbers(embedding: Any) -> Any:
    """Return a vector as numbers; some servers send base64 whatever was asked for."""
    if isinstance(embedding, list):
        return embedding
    import numpy as np

    return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
