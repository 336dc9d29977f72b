"""Calling providers: several by the model's name, retries, failover, breakers, deadlines.

Nothing is sent again after the first byte of an answer: what a client has seen cannot be taken back, and
what was made was paid for.
"""

from __future__ import annotations

import asyncio
import email.utils
import errno
import math
import re
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lix_cache.clock import Clock
from lix_cache.errors import LixCacheError
from lix_cache.gateway.local.settings import LOCAL_SCHEME
from lix_cache.gateway.references import key_of
from lix_cache.gateway.salts import Salted
from lix_cache.gateway.settings import GatewaySettings, UpstreamSettings
from lix_cache.gateway.tenants import patterns
from lix_cache.hot.breaker import PlainBreaker

__all__ = ["Incoming", "Outgoing", "Route", "Routes", "Upstream", "UpstreamFailed", "unreachable"]

#: Statuses after which the same request may do better, here or elsewhere.
_PASSING = frozenset({408, 429, 502, 503, 504, 529})
#: Failures in a row after which a provider is not asked first, where there is another one.
_MOST_FAILURES = 5
_OPEN_SECONDS = 10.0
_FIRST_PAUSE = 0.2


class UpstreamFailed(LixCacheError):
    """A provider could not be reached, or its answer broke off.

    Attributes:
        was_late: it took longer than a deadline.
        was_sent: the request was sent, and the provider may work on it still.
        was_stale: a connection that had been idle was closed with it. That tells nothing of the provider.
    """

    def __init__(
        self, message: str, *, was_late: bool = False, was_sent: bool = False, was_stale: bool = False
    ) -> None:
        self.was_late = was_late
        self.was_sent = was_sent
        self.was_stale = was_stale
        super().__init__(message)


def unreachable(error: Exception) -> UpstreamFailed:
    """Return what says that a provider cannot be reached.

    The error's text may quote the address: its kind and the name of its number say what happened.
    """
    # Names and TLS have numbers of their own.
    number = getattr(error, "errno", None) if not isinstance(error, (socket.gaierror, ssl.SSLError)) else None
    name = errno.errorcode.get(number, "") if isinstance(number, int) else ""
    return UpstreamFailed(
        f"the provider cannot be reached ({', '.join(filter(None, (type(error).__name__, name)))})"
    )


@dataclass(slots=True, eq=False)
class Outgoing:
    """A request as it goes to a provider.

    Attributes:
        method: of HTTP.
        target: path and query, encoded.
        headers: in order.
        body: bytes, or a source of them that can be read once.
        tenant: whose it is; a model of this machine keeps their states apart.
    """

    method: str
    target: str
    headers: list[tuple[str, str]] = field(repr=False)
    body: bytes | AsyncIterator[bytes] | None = field(default=None, repr=False)
    tenant: str = ""

    @property
    def is_repeatable(self) -> bool:
        """Whether it can be sent again."""
        return self.body is None or isinstance(self.body, bytes)


class Incoming(Protocol):
    """An answer whose head has come.

    Attributes:
        identity: of the upstream when it was made.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    identity: str

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the body as it comes, undecoded.

        Raises:
            UpstreamFailed: it broke off.
        """
        ...

    def close(self) -> None:
        """Let go of it; what has not come is not waited for."""
        ...


class Upstream(Protocol):
    """One provider.

    Attributes:
        identity: what its answers depend on beside the request, such as a model's weights; a part of the key.
    """

    @property
    def identity(self) -> str: ...

    async def send(self, request: Outgoing) -> Incoming:
        """Send a request and wait for the head of the answer.

        Raises:
            UpstreamFailed: there is none.
        """
        ...

    async def close(self) -> None:
        """Close its connections."""
        ...


def address_of(base: str, target: str) -> str:
    """Return the address of a path; ``/v1`` may stand in the base as well."""
    if base.endswith("/v1") and (target == "/v1" or target.startswith(("/v1/", "/v1?"))):
        target = target[3:]
    return base + target


def _upstream_for(url: str, settings: GatewaySettings) -> Upstream:
    if not url.startswith(LOCAL_SCHEME):
        from lix_cache.gateway.provider_http import HttpUpstream

        return HttpUpstream(url, settings)
    from lix_cache.gateway.local.upstream import LocalUpstream

    return LocalUpstream(url[len(LOCAL_SCHEME) :], settings.local)


@dataclass
class Route:
    """A provider, and how it has done of late."""

    settings: UpstreamSettings
    upstream: Upstream
    breaker: PlainBreaker
    models: re.Pattern[str] | None
    api_key: str = field(default="", repr=False)
    failures: int = 0

    @property
    def name(self) -> str:
        """The provider's name."""
        return self.settings.name

    def salted_with(self, settings: GatewaySettings) -> tuple[str, int] | None:
        """Return what its upstream makes salts with, if it does."""
        return (self.api_key, settings.largest_body_bytes) if self.settings.cache_salt else None

    def serves(self, model: str) -> bool:
        """Whether it serves a model."""
        return self.models is None or self.models.match(model) is not None

    def did(self, well: bool) -> None:
        """Note how a call went."""
        self.failures = 0 if well else self.failures + 1
        if self.failures >= _MOST_FAILURES:
            self.breaker.trip()


class Routes:
    """All providers."""

    def __init__(
        self,
        settings: GatewaySettings,
        clock: Clock,
        env: Mapping[str, str],
        make: Callable[[str, GatewaySettings], Upstream] = _upstream_for,
    ) -> None:
        self._settings = settings
        self._sleep = asyncio.sleep
        self._wall = clock.time
        self._monotonic = clock.monotonic
        self.routes = []
        for one in settings.upstreams:
            key = key_of(one, env)
            upstream = make(one.url, settings)
            if one.cache_salt:
                upstream = Salted(upstream, key, settings.largest_body_bytes)
            breaker = PlainBreaker(_OPEN_SECONDS, clock)
            self.routes.append(Route(one, upstream, breaker, patterns(one.models), key))
        self.retries = 0
        self._handed_on: set[str] = set()

    def first(self, model: object) -> Route | None:
        """Return whose answers a key is for, whatever breakers say: the key must not depend on them."""
        if not isinstance(model, str):
            return self.routes[0] if self.routes else None
        return next((route for route in self.routes if route.serves(model)), None)

    def choose(self, model: object) -> list[Route]:
        """Return who may be asked for a model, the first one first; one whose breaker is open last."""
        if not isinstance(model, str):
            return self.routes[:1]
        found = [route for route in self.routes if route.serves(model)]
        return sorted(found, key=lambda route: route.breaker.is_open)

    async def send(
        self, routes: Sequence[Route], request: Callable[[Route], Outgoing]
    ) -> tuple[Incoming, Route]:
        """Send a request to the first that answers well.

        Returns:
            The answer and who gave it. If none did well, the last answer that there was.

        Raises:
            UpstreamFailed: there was none at all.
        """
        left = deque((route, 0.0) for route in routes)
        last: tuple[Incoming, Route] | None = None
        error: UpstreamFailed | None = None
        number, most = 0, max(self._settings.retries + 1, len(routes))
        stale: set[str] = set()
        try:
            while left and number < most:
                route, earliest = left.popleft()
                if number:
                    self.retries += 1
                    await self._until_then(earliest)
                outgoing = request(route)
                pause: float | None = _FIRST_PAUSE * 2 ** min(number // len(routes), 5)
                try:
                    incoming = await route.upstream.send(outgoing)
                except UpstreamFailed as failed:
                    if failed.was_stale and outgoing.is_repeatable and route.name not in stale:
                        # It never came to the provider, so it was no try. Once: the next connection is new.
                        stale.add(route.name)
                        left.appendleft((route, 0.0))
                        continue
                    error, pause = failed, self._pause_after_failure(route, failed, pause)
                else:
                    if last is not None:
                        last[0].close()
                    last = incoming, route
                    if self._did_well(route, incoming):
                        return last
                    pause = self._pause_after(incoming, pause)
                if pause is not None and outgoing.is_repeatable:
                    # Behind those who were not asked yet: they need not wait for what this one wants.
                    left.append((route, self._monotonic() + pause))
                number += 1
        except BaseException:
            if last is not None:
                last[0].close()
            raise
        if last is not None:
            return last
        raise error or UpstreamFailed("no provider serves this model")

    @staticmethod
    def _pause_after_failure(route: Route, failed: UpstreamFailed, otherwise: float | None) -> float | None:
        """Note how a call went; return after how many seconds the same may be asked again, None for never."""
        if failed.was_stale:
            return 0.0
        route.did(well=False)
        # It may work on it still: another one may be asked, not this one again.
        return None if failed.was_sent else otherwise

    @staticmethod
    def _did_well(route: Route, incoming: Incoming) -> bool:
        """Note how a call went; say whether its answer is one to pass on."""
        is_passing = incoming.status in _PASSING
        route.did(well=not is_passing or incoming.status == 429)
        return not is_passing

    def _pause_after(self, incoming: Incoming, otherwise: float | None) -> float | None:
        """Return after how many seconds the same may be asked again; None for too many."""
        wait = self._asked_wait(incoming)
        if wait is None:
            return otherwise
        return wait if wait <= self._settings.retry_after_seconds else None

    async def _until_then(self, earliest: float) -> None:
        seconds = earliest - self._monotonic()
        if seconds > 0:
            await self._sleep(seconds)

    def _asked_wait(self, incoming: Incoming) -> float | None:
        for name, value in incoming.headers:
            if name.lower() == b"retry-after-ms":
                milliseconds = _seconds(value.decode("latin-1"), 1000)
                if milliseconds is not None:
                    return milliseconds
        for name, value in incoming.headers:
            if name.lower() == b"retry-after":
                text = value.decode("latin-1")
                seconds = _seconds(text, 1)
                return self._until(text) if seconds is None else seconds
        return None

    def _until(self, text: str) -> float | None:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - self._wall())
        except OverflowError:
            return math.inf
        except (ValueError, TypeError):
            return None

    def take_over(self, before: Routes) -> None:
        """Go on with connections, and what is known of the providers, where their settings are as before."""
        self.retries = before.retries
        limits = ("connect_seconds", "read_seconds")
        as_before = all(getattr(self._settings, one) == getattr(before._settings, one) for one in limits)
        known = {(route.name, route.settings.url): route for route in before.routes}
        for route in self.routes:
            old = known.get((route.name, route.settings.url))
            if old is None or route.salted_with(self._settings) != old.salted_with(before._settings):
                continue
            if as_before or route.settings.is_local:
                route.upstream, route.breaker, route.failures = old.upstream, old.breaker, old.failures
                before._handed_on.add(old.name)

    async def close(self) -> None:
        """Close all connections that were not handed on."""
        for route in self.routes:
            if route.name not in self._handed_on:
                await route.upstream.close()


def _seconds(text: str, parts: int) -> float | None:
    try:
        value = float(text) / parts
    except ValueError:
        return None
    return value if value >= 0 else None  # neither a negative number nor NaN; infinity is too long
