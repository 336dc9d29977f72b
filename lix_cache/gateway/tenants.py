"""Who asks: keys, what they may do, and how much of it.

Keys are random and long, so a plain digest of them is what is kept: it is looked up, never compared
letter by letter, and cannot be turned back.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lix_cache.clock import Clock
from lix_cache.gateway.accounts import OWN_KEY, is_harmless
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.references import LOCAL, provider_keys_of
from lix_cache.gateway.settings import GatewaySettings, TenantSettings

__all__ = ["LOCAL", "Tenant", "TenantBook", "digest_of_key", "patterns", "presented"]

#: Under which routers take models to ask where the first one fails.
_OTHER_MODELS = ("models", "fallbacks", "fallback_models")


def digest_of_key(key: str) -> str:
    """Return what is kept of a key."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass
class Tenant:
    """One tenant and what it has used in this process.

    Attributes:
        name: of the tenant.
        scopes: what it may do.
        provider_keys: upstream -> the provider's key.
        keeps_sessions: whether ``X-Session-ID`` means anything.
        is_local: the one without a key.
    """

    name: str
    scopes: frozenset[str] = frozenset({"generate", "passthrough", "sessions"})
    provider_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    keeps_sessions: bool = False
    is_local: bool = False
    requests_per_minute: int = 0
    tokens_per_day: int = 0
    models: re.Pattern[str] | None = None
    #: Requests that may still come; filled up as time passes.
    _room: float = 0.0
    _filled: float = 0.0
    _day: int = -1
    _tokens: int = 0

    def check(self, scope: str) -> None:
        """Refuse what the tenant may not do.

        Raises:
            Refused: 403.
        """
        if scope not in self.scopes:
            raise Refused(
                403,
                "permission_denied",
                f"this key may not use this path: its tenant needs {scope!r} in the setting scopes",
            )

    def take(self, now: float) -> int:
        """Take one of the requests that this process may answer in a minute.

        Args:
            now: seconds of a clock that never goes back.

        Returns:
            For how many seconds there is none; 0 if there was one.
        """
        rate = self.requests_per_minute / 60
        # At first as many at once as there may be in a minute.
        room = self._room + (now - self._filled) * rate if self._filled else float(self.requests_per_minute)
        self._room, self._filled = min(room, float(self.requests_per_minute)), now
        if self._room < 1:
            return max(1, round((1 - self._room) / rate))
        self._room -= 1
        return 0

    def check_model(self, model: object) -> None:
        """Refuse a model that the tenant may not use."""
        if self.models is not None and not (isinstance(model, str) and self.models.match(model)):
            raise Refused(403, "model_denied", "this key may not use this model")

    @property
    def is_limited(self) -> bool:
        """Whether it must be known what a request asks for."""
        return self.models is not None or self.tokens_per_day > 0

    def check_models(self, body: Mapping[str, Any]) -> None:
        """Refuse a request that names a model which the tenant may not use, also for want of another."""
        if self.models is None:
            return
        self.check_model(body.get("model"))
        for name in _OTHER_MODELS:
            others = body.get(name)
            for other in others if isinstance(others, list) else [others] if others else ():
                self.check_model(other.get("model") if isinstance(other, Mapping) else other)

    def spent(self, day: int) -> int:
        """Return the tokens of a day, as far as this process knows."""
        return self._tokens if day == self._day else 0

    def spend(self, tokens: int, day: int) -> None:
        """Count tokens that a call of the provider cost."""
        self._tokens = self.spent(day) + tokens
        self._day = day

    def take_over(self, before: Tenant) -> None:
        """Count on where one before did."""
        self._room, self._filled = before._room, before._filled
        self._day, self._tokens = before._day, before._tokens


def patterns(models: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return what matches the names of models; None for any."""
    if "*" in models:
        return None
    return re.compile("|".join(f"(?:{fnmatch.translate(pattern)})" for pattern in models))


class TenantBook:
    """All tenants by the digests of their keys."""

    def __init__(
        self, settings: GatewaySettings, clock: Clock, environ: Mapping[str, str] | None = None
    ) -> None:
        env = os.environ if environ is None else environ
        self._clock = clock
        self.local = (
            None if settings.tenants else Tenant(LOCAL, keeps_sessions=settings.sessions, is_local=True)
        )
        self.tenants = {one.name: _tenant(one, env) for one in settings.tenants}
        self._by_key = {key: self.tenants[one.name] for one in settings.tenants for key in one.keys}

    @property
    def names(self) -> list[str]:
        """All of them, in order."""
        return [self.local.name] if self.local is not None else sorted(self.tenants)

    def take_over(self, before: TenantBook) -> None:
        """Count on where those before did."""
        for name, tenant in self.tenants.items():
            if name in before.tenants:
                tenant.take_over(before.tenants[name])

    def knows(self, credentials: str) -> bool:
        """Whether a header holds a key of this gateway, which is for no provider."""
        return bool(self._by_key) and digest_of_key(_bare(credentials)) in self._by_key

    def for_providers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return headers without this gateway's keys, which are no account at a provider, for none gets them.

        Only what is such a key and nothing else is left out: of two credentials in one header the other may
        be a provider's.

        Args:
            headers: names in lower case.
        """
        shown = presented(headers)
        if not self.knows(shown):
            return headers
        return {
            name: value
            for name, value in headers.items()
            if is_harmless(name) or not (_bare(value) == shown or (name in OWN_KEY and self.knows(value)))
        }

    def find(self, headers: Mapping[str, str]) -> Tenant:
        """Return who asks.

        Args:
            headers: names in lower case. ``X-Lix-Key`` has the key; without it the header of the protocol.

        Raises:
            Refused: 401.
        """
        if self.local is not None:
            return self.local
        key = presented(headers)
        tenant = self._by_key.get(digest_of_key(key)) if key else None
        if tenant is None:
            raise Refused(401, "invalid_key", "this gateway does not know the key; give one of its own")
        return tenant


def presented(headers: Mapping[str, str]) -> str:
    """Return the key that a request shows to the gateway, "" if there is none."""
    return _bare(headers.get("x-lix-key") or headers.get("x-api-key") or headers.get("authorization", ""))


def _bare(key: str) -> str:
    return (key[7:] if key[:7].lower() == "bearer " else key).strip()


def _tenant(one: TenantSettings, env: Mapping[str, str]) -> Tenant:
    return Tenant(
        one.name,
        frozenset(one.scopes) | ({"sessions"} if one.sessions else frozenset()),
        provider_keys_of(one, env),
        one.sessions,
        requests_per_minute=one.requests_per_minute,
        tokens_per_day=one.tokens_per_day,
        models=patterns(one.models),
    )
