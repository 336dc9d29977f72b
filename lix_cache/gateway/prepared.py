"""What is known of a request before any tier is asked: its key, its form, who may answer it. Pure.

A body that comes again byte for byte, from the same account and with the same headers, is not parsed
again: what was found out about it is remembered under a digest of all that.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from lix_cache._cached_property import cached_property
from lix_cache.gateway.eligibility import bypass_reason, is_kept
from lix_cache.gateway.headers import NOTHING_ASKED, Control
from lix_cache.gateway.request import Asked, Body, Unkeyable, account_of, answering_headers, key_of, parse

__all__ = ["Prepared", "Preparer", "Source", "source_of"]

#: Fields of a body that may be long; saying an answer again needs none of them.
_LONG = frozenset(
    {
        *("messages", "input", "system", "tools", "functions", "response_format", "text"),
        *("client_metadata", "prediction", "thinking", "logit_bias", "stop"),
    }
)
#: What the provider repeats of a request in its answer, though it is no part of the key, or not all of it.
_REPEATED = ("metadata", "user", "prompt_cache_key", "safety_identifier", "instructions")
_MOST_REMEMBERED = 4096
_LONGEST_SLIM = 2_000


@dataclass(frozen=True)
class Source:
    """Where a request comes from, as far as its key is concerned.

    Attributes:
        tenant: who asks.
        protocol: such as ``chat``.
        namespace: of the tenant's cache.
        account: digest of the credentials that the client sent.
        headers: those that may change the answer.
        query: of the URL.
    """

    tenant: str
    protocol: str
    namespace: str
    account: str
    headers: tuple[str, ...]
    query: str

    @cached_property
    def digest(self) -> bytes:
        """32 bytes of all of it."""
        parts = (self.tenant, self.protocol, self.namespace, self.account, self.headers, self.query)
        return hashlib.sha256(orjson.dumps(parts)).digest()


@dataclass(slots=True, eq=False)
class Prepared:
    """A request, understood.

    Attributes:
        key: of its answer; b"" if it has none.
        bypass: why it is not for the cache, a word; "" if it is.
        is_stream: whether a stream is asked for.
        slim: its body without what may be long: all that rendering needs.
        model: that is asked for.
        account: digest of the credentials that the provider gets.
        is_kept: its answer is kept by the provider under its id, until that is deleted.
        body: the whole body; None if it came out of memory.
    """

    key: bytes
    bypass: str
    is_stream: bool
    slim: Mapping[str, Any] = field(repr=False)
    model: str
    account: str
    is_kept: bool = False
    body: Body | None = field(default=None, repr=False)

    def shared_key(self, control: Control) -> bytes:
        """Return what requests have in common of which one may answer the others."""
        return self.key if control is NOTHING_ASKED else self.key + repr(control).encode()

    @property
    def form(self) -> tuple[Any, ...]:
        """What makes two streams of one answer different, beside their ids."""
        options = self.slim.get("stream_options")
        asks = bool(isinstance(options, Mapping) and options.get("include_usage"))
        return self.is_stream, asks, *(self.slim.get(name) for name in _REPEATED)


class Preparer:
    """Prepares requests, and remembers the last ones.

    Args:
        provider: maps tenant, protocol and model to the provider's name and the account there, or an empty
            account for the client's own.
        normalise: see :func:`lix_cache.gateway.volatile.normaliser`.
        rules: the names of the rules behind it.
    """

    def __init__(
        self,
        provider: Callable[[str, Any], tuple[str, str]],
        normalise: Callable[[str, dict[str, Any]], Any] | None = None,
        rules: tuple[str, ...] = (),
    ) -> None:
        self._provider = provider
        self._normalise = normalise
        self._rules = tuple(sorted(rules))
        self._known: OrderedDict[bytes, Prepared] = OrderedDict()

    def forget(self) -> None:
        """Forget all that is remembered: a provider is another one than it was."""
        self._known.clear()

    def prepare(self, source: Source, data: bytes) -> Prepared:
        """Understand a request.

        Raises:
            Refused: its body makes no sense.
        """
        # Digests alone: what a client says in a header may be long.
        place = hashlib.sha256(data).digest() + source.digest
        known = self._known.get(place)
        if known is not None:
            self._known.move_to_end(place)
            return known
        body = parse(data)
        slim = {name: value for name, value in body.value.items() if name not in _LONG}
        provider, account = self._provider(source.tenant, body.value.get("model"))
        account = account or source.account
        bypass = bypass_reason(source.protocol, body.value)
        key = b""
        if not bypass:
            asked = Asked(
                source.tenant,
                source.namespace,
                source.protocol,
                provider,
                account,
                source.headers,
                source.query,
                self._rules,
            )
            try:
                key = key_of(asked, body, self._normalise)
            except Unkeyable:
                bypass = "unkeyable"
        model = body.value.get("model")
        found = Prepared(
            key,
            bypass,
            body.value.get("stream") is True,
            slim,
            model if isinstance(model, str) else "",
            account,
            is_kept(source.protocol, body.value),
            body,
        )
        if key and len(repr(slim)) <= _LONGEST_SLIM:
            self._known[place] = replace(found, body=None)
            if len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)
        return found


def source_of(tenant: str, protocol: str, namespace: str, headers: Mapping[str, str], query: str) -> Source:
    """Return where a request comes from."""
    return Source(tenant, protocol, namespace, account_of(headers), answering_headers(headers), query)
