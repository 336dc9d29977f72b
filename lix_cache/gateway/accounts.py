"""Which headers of a request may speak for an account, and which provider gets them. Pure.

No list has all names under which providers and proxies take a key, a project or a route. So each header
that is passed on belongs to the key of an answer, but for those listed here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["OWN_KEY", "Recipient", "is_harmless", "may_answer"]

#: In what the protocols themselves take a key: a provider's own key stands in their place.
OWN_KEY = frozenset({"authorization", "x-api-key", "api-key"})
#: What a request is to mean, for any account.
_MEANING = frozenset({"anthropic-version", "anthropic-beta", "openai-beta", "openai-version"})
#: They say who asks, by what program, over which hops and in which conversation; no provider answers by them.
_HARMLESS = frozenset(
    (
        # Of HTTP, of a connection, of a body.
        *("host", "connection", "keep-alive", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade", "expect", "http2-settings", "accept", "user-agent", "date"),
        *("dnt", "origin", "referer", "priority", "pragma", "cache-control", "via", "forwarded"),
        *("from", "upgrade-insecure-requests", "idempotency-key", "x-idempotency-key"),
        # Where it came through.
        *("x-real-ip", "true-client-ip", "cf-ray", "cf-connecting-ip", "cf-ipcountry", "cf-visitor"),
        *("cdn-loop", "x-request-start", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"),
        *("x-forwarded-port", "x-forwarded-prefix", "x-forwarded-server", "x-envoy-attempt-count"),
        *("x-envoy-external-address", "x-envoy-original-path", "x-envoy-expected-rq-timeout-ms"),
        *("x-cloud-trace-context", "x-amzn-trace-id", "x-request-id", "request-id"),
        *("x-client-request-id", "x-correlation-id", "x-trace-id", "traceparent", "tracestate"),
        *("baggage", "b3", "sentry-trace"),
        # Of SDKs and agents: Claude Code, Codex, opencode; what OpenRouter counts applications by.
        *("x-app", "x-title", "http-referer", "x-goog-api-client", "x-claude-code-session-id"),
        *("originator", "version", "session-id", "session_id", "x-session-id", "thread-id"),
        *("thread_id", "x-session-affinity", "x-parent-session-id"),
        *("anthropic-dangerous-direct-browser-access", "x-retry-count", "x-lix-key"),
    )
)
_HARMLESS_STARTS = (
    *("accept-", "content-", "sec-fetch-", "sec-ch-", "x-stainless-", "x-b3-", "x-datadog-"),
    *("x-codex-", "x-opencode-", "x-lix-cache"),
)
#: Cookies of load balancers: SDKs bring back what Cloudflare and Amazon set, and they change all the time.
_BALANCERS = ("__cf_bm", "_cfuvid", "__cfruid", "__cflb", "__cfseq", "cf_clearance", "AWSALB", "AWSELB")
_PLAIN_CONNECTION = frozenset({"", "keep-alive", "close", "te", "upgrade", "http2-settings"})


@functools.lru_cache(maxsize=1024)
def is_harmless(name: str) -> bool:
    """Whether a header speaks for no account. The name is in lower case."""
    return name in _HARMLESS or name.startswith(_HARMLESS_STARTS)


@functools.lru_cache(maxsize=1024)
def _is_counted(name: str) -> bool:
    return not (name in OWN_KEY or name in _MEANING or is_harmless(name))


def _names_account(cookies: str) -> bool:
    # Some servers take a comma for a semicolon.
    names = {pair.partition("=")[0].strip() for pair in re.split("[;,]", cookies)}
    return not all(name.startswith(_BALANCERS) or not name for name in names)


def may_answer(headers: Mapping[str, str]) -> str:
    """Return a digest of the headers that may change an answer, beside the protocols' own and the account.

    A digest, because it stands beside stored questions, and a cookie must not.
    """
    found = [f"{name}:{headers[name]}" for name in headers if _is_counted(name)]
    if "cookie" in headers and not _names_account(headers["cookie"]):
        found.remove(f"cookie:{headers['cookie']}")
    connection = headers.get("connection", "")
    if connection:
        # What it names is not passed on.
        named = {word.strip().lower() for word in connection.split(",")} - _PLAIN_CONNECTION
        found += [f"without:{name}" for name in named if not is_harmless(name)]
    if not found:
        return ""
    data = json.dumps(sorted(found)).encode()
    return hashlib.sha256(b"headers\0" + data).hexdigest()[:32]


@dataclass(frozen=True)
class Recipient:
    """Who is to get a request, as far as keys are concerned.

    Attributes:
        own: the gateway's own key there; "" for none.
        key: the gateway's key that the request shows, which is for no provider; "" for none.
        is_apart: that key stands in a header of its own, so another one may hold the client's key.
        takes_clients: it is the one that the client's own credentials are for.
        is_local: it is a model of this machine, which asks for no key.
        is_anthropic: it takes its key in Anthropic's header.
    """

    own: str = field(repr=False)
    key: str = field(repr=False)
    is_apart: bool
    takes_clients: bool
    is_local: bool
    is_anthropic: bool

    def gets(
        self, pairs: list[tuple[str, str]], is_gateways: Callable[[str], bool]
    ) -> list[tuple[str, str]] | None:
        """Return the headers that it gets; None if it is not to be asked: it would get no key.

        Args:
            pairs: the client's headers.
            is_gateways: says whether a header's value is a key of this gateway.
        """
        if self.own or (self.key and not self.is_apart):
            pairs = [pair for pair in pairs if pair[0] not in OWN_KEY]
        if self.key:
            # It is for no provider, whatever header repeats it; nor is another one of this gateway.
            pairs = [pair for pair in pairs if self.key not in pair[1]]
            pairs = [pair for pair in pairs if pair[0] not in OWN_KEY or not is_gateways(pair[1])]
        if not self.takes_clients:
            kept = [pair for pair in pairs if pair[0] in _MEANING or is_harmless(pair[0])]
            if len(kept) < len(pairs) and not (self.own or self.is_local):
                return None
            pairs = kept
        if self.own:
            mine = ("x-api-key", self.own) if self.is_anthropic else ("authorization", f"Bearer {self.own}")
            pairs.append(mine)
        return pairs
