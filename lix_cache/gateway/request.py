"""From a request's bytes to its key: equal keys may share an answer, so every doubt makes another key. Pure.

Everything in the body belongs to the key but for the fields listed here, which change no answer. What is
left out of the key is never left out of what is forwarded: the provider gets the client's own bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from lix_cache.gateway.accounts import may_answer
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.plain_json import canonical

__all__ = [
    "EXCLUDED",
    "KEY_VERSION",
    "Asked",
    "Body",
    "Unkeyable",
    "account_of",
    "answering_headers",
    "answering_query",
    "betas_of",
    "key_of",
    "parse",
    "stripped",
]

#: Raised when the form of the key changes: old entries are then no longer found.
KEY_VERSION = 1
#: Fields of the body that change no answer.
EXCLUDED = frozenset(
    {
        "stream",
        "stream_options",
        "user",
        "metadata",
        "client_metadata",
        "prompt_cache_key",
        "safety_identifier",
        "cache_control",
    }
)
#: Headers of the protocols that change an answer, beside ``anthropic-beta``.
_KEY_HEADERS = ("anthropic-version", "openai-beta", "openai-version")
_ACCOUNT_HEADERS = (
    "authorization",
    "x-api-key",
    "api-key",
    "openai-organization",
    "openai-project",
)
#: Endings of the names under which other providers and proxies take a key.
_CREDENTIALS = ("api-key", "-authorization", "-auth", "-auth-token", "-access-token", "-subscription-key")
#: Claude Code's own header in a system block of its own, with a version and, in older ones, a nonce.
_BILLING = re.compile(
    r"x-anthropic-billing-header: cc_version=[0-9][0-9A-Za-z.]{0,40}"
    r"(?:; ?(?:cc_(?:entrypoint|workload)=[a-z0-9_-]{1,30}|cch=[0-9a-f]{1,32})){0,4};?\s*\Z"
)
#: What an item of ``input`` has if its id only names it.
_SPEAKING = ("content", "call_id", "encrypted_content")
_LONG = 1 << 20
_MOST_DIGITS = 4_000
_MOST_LISTS = 500_000
_MOST_VALUES = 4_000_000
_TOO_DEEP = "the request's body is nested too deep"
#: Queries that change nothing: how the SDKs say that they use a beta, which the header names.
_PLAIN_QUERIES = frozenset({"", "beta=true"})


class Unkeyable(Exception):
    """The body is JSON that has no canonical form here; it is forwarded and not cached."""


@dataclass(frozen=True)
class Body:
    """A request's body.

    Attributes:
        data: as it came.
        value: what it says.
        flaw: why it has no key; "" if it has one.
    """

    data: bytes
    value: dict[str, Any]
    flaw: str = ""


@dataclass(frozen=True)
class Asked:
    """What a key is made of, beside the body.

    Attributes:
        tenant: who asks.
        namespace: a part of the tenant's cache, named by the client.
        protocol: such as ``chat``.
        provider: name of the upstream.
        account: digest of the provider's credentials; see :func:`account_of`.
        headers: those of the request that may change the answer.
        query: of the URL.
        rules: names of the rules that the volatile parts were normalised by.
    """

    tenant: str
    namespace: str
    protocol: str
    provider: str
    account: str
    headers: tuple[str, ...] = ()
    query: str = ""
    rules: tuple[str, ...] = ()


def parse(data: bytes) -> Body:
    """Read a body of at most the size that the server let through.

    Raises:
        Refused: no JSON object, invalid UTF-8, a name twice in one object, or nested too deep.
    """
    if len(data) > _LONG and not _fits(data):
        raise Refused(413, "body_too_large", "the request's body has too many values in it")
    value = _quickly(data)
    return _slowly(data) if value is None else Body(data, value)


def _fits(data: bytes) -> bool:
    """Whether its values fit into memory: an empty list of two bytes takes thirty times as much there."""
    return data.count(b"{") + data.count(b"[") <= _MOST_LISTS and data.count(b",") <= _MOST_VALUES


def _quickly(data: bytes) -> dict[str, Any] | None:
    """Read what is written as most clients write it; None: it takes a closer look."""
    try:
        value = orjson.loads(data)
        # Equal bytes prove that nothing got lost: no name twice, no number rounded, no escape misread.
        return value if isinstance(value, dict) and orjson.dumps(value) == data else None
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None


def _slowly(data: bytes) -> Body:
    numbers = _Numbers()
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_distinct,
            parse_constant=_no_constant,
            parse_int=numbers.whole,
            parse_float=numbers,
        )
    except UnicodeDecodeError:
        problem = "the request's body is not valid UTF-8"
    except RecursionError:
        problem = _TOO_DEEP
    except _Twice:
        problem = "the request's body has a name twice in one object"
    except ValueError:
        problem = "the request's body is not valid JSON"
    else:
        if not isinstance(value, dict):
            raise Refused(400, "invalid_body", "the request's body must be a JSON object")
        flaw = _flaw_of(value) or ("a number too large" if numbers.is_beyond else "")
        if flaw != _TOO_DEEP:
            return Body(data, value, flaw)
        problem = _TOO_DEEP
    # Raised out here: Python's own errors quote the body.
    raise Refused(400, "invalid_body", problem)


def _flaw_of(value: Any) -> str:
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        return _TOO_DEEP if "recursion" in str(error).lower() else "a surrogate or a number too large"
    return ""


class _Twice(ValueError):
    pass


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


def _no_constant(_: str) -> NoReturn:
    raise ValueError


class _Numbers:
    """Reads numbers, and remembers one that is beyond all: as JSON it would be ``null``."""

    is_beyond = False

    def __call__(self, text: str) -> float:
        value = float(text)
        self.is_beyond = self.is_beyond or math.isinf(value)
        return value

    def whole(self, text: str) -> int | float:
        """Read an integer; of more digits than Python reads it is beyond all as well."""
        return int(text) if len(text) <= _MOST_DIGITS else self(text)


def account_of(headers: Mapping[str, str]) -> str:
    """Return a digest of the provider's credentials and account: answers of two accounts never mix."""
    parts = [headers.get(name, "") for name in _ACCOUNT_HEADERS]
    parts += [f"{name}:{value}" for name, value in sorted(headers.items()) if name.endswith(_CREDENTIALS)]
    return hashlib.sha256(b"account\0" + orjson.dumps(parts)).hexdigest()[:32]


def betas_of(value: str) -> str:
    """Return the betas of an ``anthropic-beta`` header in one order."""
    return ",".join(sorted({part.strip() for part in value.split(",")} - {""}))


def answering_headers(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return what of a request's headers may change the answer."""
    named = [headers.get(name, "") for name in _KEY_HEADERS]
    return (betas_of(headers.get("anthropic-beta", "")), *named, may_answer(headers))


def answering_query(query: str) -> str:
    """Return what of a URL's query may change the answer."""
    return "" if query in _PLAIN_QUERIES else query


def key_of(asked: Asked, body: Body, normalise: Callable[[str, dict[str, Any]], Any] | None = None) -> bytes:
    """Return the key of a request, 32 bytes.

    Args:
        asked: what it depends on beside the body.
        body: the request's.
        normalise: maps protocol and body to a body without its volatile parts; the argument stays as it is.

    Raises:
        Unkeyable: the body has no canonical form.
    """
    if body.flaw:
        raise Unkeyable(body.flaw)
    value = stripped(asked.protocol, body.value)
    if normalise is not None:
        value = normalise(asked.protocol, value)
    query = answering_query(asked.query)
    parts = (
        *(KEY_VERSION, asked.tenant, asked.namespace, asked.protocol, asked.provider, asked.account),
        *(asked.headers, query, asked.rules, canonical(value)),
    )
    try:
        return hashlib.sha256(orjson.dumps(parts)).digest()
    except orjson.JSONEncodeError:
        # One level deeper than the body by itself.
        raise Unkeyable(_TOO_DEEP) from None


def stripped(protocol: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body without what changes no answer. Copies what it changes."""
    kept = {name: item for name, item in value.items() if name not in EXCLUDED}
    if protocol == "responses":
        if value.get("store") is False and isinstance(value.get("input"), list):
            kept["input"] = [_unnamed(item) for item in value["input"]]
        return kept
    for name in ("messages", "system", "tools"):
        if isinstance(kept.get(name), list):
            kept[name] = [_unmarked(item) for item in kept[name]]
    if isinstance(kept.get("system"), list):
        kept["system"] = [block for block in kept["system"] if not _is_billing(block)]
    return kept


def _unnamed(item: Any) -> Any:
    """Take the id off an item that says by itself what it is; one that only refers to another keeps it."""
    if not isinstance(item, dict) or item.get("type") == "item_reference":
        return item
    # Values, not names: an SDK writes ``null`` for what it does not have.
    return _without(item, "id") if any(map(item.get, _SPEAKING)) else item


def _without(item: Any, name: str) -> Any:
    if not isinstance(item, dict) or name not in item:
        return item
    return {key: part for key, part in item.items() if key != name}


def _unmarked(item: Any) -> Any:
    """Take ``cache_control`` off a message, a tool or a block, and off its blocks."""
    if not isinstance(item, dict):
        return item
    content = item.get("content")
    if isinstance(content, list):
        clean = [_unmarked(part) for part in content]
        if any(new is not old for new, old in zip(clean, content, strict=True)):
            item = {**item, "content": clean}
    return _without(item, "cache_control")


def _is_billing(block: Any) -> bool:
    if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
        return False
    return _BILLING.match(block["text"]) is not None
