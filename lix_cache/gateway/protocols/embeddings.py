"""OpenAI's embeddings, kept for each text by itself. Pure.

One vector serves both encodings, so ``encoding_format`` is no part of a text's key. A vector of 32-bit
numbers is kept in base64, as most clients ask for it. One that came as numbers which 32 bits do not hold
is kept as these numbers: who asks for floats gets what the provider said.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from lix_cache.gateway.answer import LARGEST_ANSWER, Answer, Incomplete, Usage, fill
from lix_cache.gateway.plain_json import dump, parse, parse_object
from lix_cache.gateway.protocols.protocol import (
    Unfit,
    check_error,
    count,
    judged,
    members,
    openai_error,
    slotted,
    word,
)

__all__ = ["LARGEST_BODY", "Embeddings"]

#: Bytes of a response that is read: each of its vectors is kept by itself, and is far smaller.
LARGEST_BODY: Final = 8 * LARGEST_ANSWER
_ENCODINGS: Final = (None, "float", "base64")
_MOST_DIMENSIONS = 1 << 20
_FLOAT32 = np.dtype("<f4")


class Embeddings:
    """OpenAI's embeddings: an :class:`~lix_cache.gateway.answer.Answer` for each text."""

    name = "embeddings"
    path = "/v1/embeddings"

    def inputs(self, request: Mapping[str, Any]) -> list[Any] | None:
        """Return the texts of a request, each a str or a list of tokens; None if there are none."""
        given = request.get("input")
        if request.get("encoding_format") not in _ENCODINGS:
            return None
        if isinstance(given, str) or _are_tokens(given):
            return [given]
        if not isinstance(given, list) or not given:
            return None
        are_texts = all(isinstance(one, str) for one in given)
        return list(given) if are_texts or all(map(_are_tokens, given)) else None

    def request_for(self, request: Mapping[str, Any], inputs: Sequence[Any]) -> dict[str, Any]:
        """Return the request for some of the texts, to be sent."""
        return {**request, "input": list(inputs)}

    def around(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the vector of each text depends on beside it: all but the texts and the encoding."""
        return {key: value for key, value in request.items() if key not in ("input", "encoding_format")}

    def read_body(self, body: bytes, request: Mapping[str, Any]) -> list[Answer] | Incomplete:
        """Read a response with status 200.

        Args:
            body: all of it, its content encoding undone.
            request: the parsed body of the request that it answers.

        Returns:
            An answer for each text, in their order.
        """
        if len(body) > LARGEST_BODY:
            return Incomplete("too_large", f"a body of {len(body)} bytes")
        return judged(lambda: _answers_of(parse_object(body), self.inputs(request) or []))

    def render(
        self, answers: Sequence[Answer], *, request: Mapping[str, Any], new_id: str, created: int
    ) -> bytes:
        """Say the vectors again, in the encoding that the request wants.

        Args:
            answers: one for each text, in their order.
            request: the parsed body.
            new_id: letters and digits that no answer had before.
            created: the time, in Unix seconds.
        """
        write = _as_base64 if request.get("encoding_format") == "base64" else _as_floats
        data = b",".join(
            b'{"object":"embedding","index":%d,"embedding":%b}' % (index, write(answer.body))
            for index, answer in enumerate(answers)
        )
        begun = fill(answers[0].envelope, {b"i": dump(f"embd-{new_id}"), b"t": b"%d" % created})
        told = [answer.usage.input for answer in answers if answer.usage is not None]
        usage = b',"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (sum(told), sum(told))
        return (
            b"{%b%b" % (begun, b"," if begun else b"")
            + b'"data":['
            + data
            + b"]"
            + (usage if len(told) == len(answers) else b"")
            + b"}"
        )

    def error_body(self, status: int, message: str, kind: str | None = None) -> bytes:
        """See :meth:`Protocol.error_body`."""
        return openai_error(status, message, kind)


def _are_tokens(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(type(one) is int for one in given)


def _answers_of(body: dict[str, Any], inputs: Sequence[Any]) -> list[Answer]:
    check_error(body)
    data = members(body.get("data"), "data")
    if not inputs or len(data) != len(inputs):
        raise Unfit("inconsistent", f"{len(data)} vectors for {len(inputs)} texts")
    vectors: dict[int, bytes] = {}
    for place, one in enumerate(data):
        if not one.keys() <= {"object", "index", "embedding"}:
            raise Unfit("unknown", "a vector with other fields beside it")
        index = one.get("index", place)
        if type(index) is not int or not 0 <= index < len(data) or index in vectors:
            raise Unfit("inconsistent", "vectors whose places are not those of the texts")
        vectors[index] = _kept(one.get("embedding"))
    begun = slotted({key: value for key, value in body.items() if key not in ("data", "usage")})
    usage = body.get("usage")
    total = count(usage.get("prompt_tokens")) if isinstance(usage, dict) else None
    shares = [None] * len(inputs) if total is None else _shares(total, [max(1, len(one)) for one in inputs])
    return [
        Answer(
            protocol=Embeddings.name,
            id=word(body.get("id")),
            model=word(body.get("model")),
            finish=(),
            usage=None if share is None else Usage(input=share),
            has_tool_calls=False,
            lacks_usage=False,
            body=vectors[index],
            envelope=begun,
        )
        for index, share in enumerate(shares)
    ]


def _shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Share out the tokens of a request by the lengths of its texts. Their sum is exact."""
    whole, before, shares = sum(sizes), 0, []
    done = 0
    for size in sizes:
        before += size
        upto = total * before // whole
        shares.append(upto - done)
        done = upto
    return shares


def _kept(embedding: Any) -> bytes:
    """Return a vector as it is kept: base64 of 32-bit numbers, or a list of numbers; both as JSON."""
    if isinstance(embedding, str):
        try:
            raw = base64.b64decode(embedding, validate=True)
        except (binascii.Error, ValueError):
            raise Unfit("malformed", "a vector that is not base64") from None
        if not raw or len(raw) % 4 or not np.isfinite(np.frombuffer(raw, _FLOAT32)).all():
            raise Unfit("malformed", "a vector that is not one of 32-bit numbers")
        return b'"' + base64.b64encode(raw) + b'"'
    if not isinstance(embedding, list) or not 0 < len(embedding) <= _MOST_DIMENSIONS:
        raise Unfit("malformed", "a vector that is no list of numbers")
    if not all(type(one) is float or type(one) is int for one in embedding):
        raise Unfit("malformed", "a vector that is no list of numbers")
    try:
        exact = np.array(embedding, dtype=np.float64)
    except OverflowError:
        exact = np.array(np.inf)
    with np.errstate(over="ignore"):
        short = exact.astype(_FLOAT32)
    if not np.isfinite(short).all():
        raise Unfit("malformed", "a vector that is not one of 32-bit numbers")
    if (short == exact).all():
        return b'"' + base64.b64encode(short.tobytes()) + b'"'
    return dump(embedding)


def _as_base64(body: bytes) -> bytes:
    if body.startswith(b'"'):
        return body
    return b'"' + base64.b64encode(np.array(parse(body), dtype=_FLOAT32).tobytes()) + b'"'


def _as_floats(body: bytes) -> bytes:
    if not body.startswith(b'"'):
        return body
    return dump(np.frombuffer(base64.b64decode(body[1:-1]), _FLOAT32).tolist())
