"""Every setting of the gateway: one file, and variables that win over it.

A file is YAML or TOML, by its suffix. Each field has a variable, ``LIX_CACHE_GATEWAY_PORT`` for
``port``; lists and tables are JSON there. The Redis is that of :class:`~lix_cache.CacheConfig`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints
from urllib.parse import urlsplit

from lix_cache._spelling import did_you_mean
from lix_cache.errors import ConfigError
from lix_cache.gateway.encoders import check_encoders
from lix_cache.gateway.local.settings import LOCAL_SCHEME, LocalSettings
from lix_cache.gateway.prices import PriceSettings, check_prices
from lix_cache.gateway.settings_file import (
    SettingsError,
    TogetherError,
    check_fields,
    from_file,
    from_text,
    given_number,
    made,
)
from lix_cache.gateway.volatile import normaliser

__all__ = [
    "ENV_PREFIX",
    "FIXED",
    "GatewaySettings",
    "TenantSettings",
    "UpstreamSettings",
    "read_settings",
]

ENV_PREFIX = "LIX_CACHE_GATEWAY_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_DEFAULT_SCOPES = ("generate", "passthrough")
_SCOPES = frozenset({"generate", "passthrough", "sessions"})


@dataclass(frozen=True)
class UpstreamSettings:
    """One provider.

    Attributes:
        name: for keys, logs and settings of tenants.
        url: where it is, with or without ``/v1``; or ``local:`` and a local model's folder, GGUF file or
            llama-server.
        models: patterns of the models that it serves, ``*`` for any characters.
        api_key: the provider's key, if requests do not bring it.
        api_key_env: the variable that it is in.
        client_keys: it gets the client's own credentials also where another provider is first for the model.
        cache_salt: each request gets the ``cache_salt`` of its tenant: vLLM and SGLang share their prefix
            cache among equal salts alone.
    """

    name: str = ""
    url: str = ""
    models: tuple[str, ...] = ("*",)
    api_key: str = field(default="", repr=False)
    api_key_env: str = ""
    client_keys: bool = False
    cache_salt: bool = False

    def __post_init__(self) -> None:
        check_fields(
            (
                "name",
                _NAME.match(self.name) is not None,
                "the name of an upstream must be 1 to 64 letters, digits, dots, hyphens",
            ),
            ("url", not (flaw := self._flaw_of_url()), flaw),
            (
                "cache_salt",
                not (self.cache_salt and self.is_local),
                f"upstream {self.name!r} needs no cache_salt: its states know their tenants",
            ),
            (
                "cache_salt",
                not self.cache_salt or self.is_local or bool(self.api_key or self.api_key_env),
                f"cache_salt of upstream {self.name!r} is made with its api_key or api_key_env: give it one",
            ),
        )

    def _flaw_of_url(self) -> str:
        if not self.url:
            return f"the url of upstream {self.name[:64]!r} is missing"
        where = f"the url of upstream {self.name!r} must"
        if self.is_local:
            return f"{where} name a model behind {LOCAL_SCHEME}" if self.url == LOCAL_SCHEME else ""
        try:
            parts = urlsplit(self.url)
            _ = parts.port  # raises where it is none
        except ValueError:
            return f"{where} be an address"
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return f"{where} begin with http:// or https://"
        if parts.query or parts.fragment or parts.username or parts.password:
            return f"{where} have no user, query or fragment"
        return ""

    @property
    def is_local(self) -> bool:
        """Whether it is a model of this machine."""
        return self.url.startswith(LOCAL_SCHEME)


@dataclass(frozen=True)
class TenantSettings:
    """One tenant.

    Attributes:
        name: for keys, logs and metrics.
        keys: digests of its keys, ``sha256:`` and 64 digits; ``lix-cache serve --hash-key`` makes one.
        scopes: what it may do: ``generate``, ``passthrough`` (paths that are not cached; with ``models`` or
            ``tokens_per_day`` only if it is named), ``sessions``.
        models: patterns of the models that it may use.
        requests_per_minute: 0 for no limit.
        tokens_per_day: of the prompts and answers that its misses cost; 0 for no limit.
        sessions: keep conversations that are named by ``X-Session-ID``.
        provider_keys: name of an upstream -> variable with this tenant's key for it.
    """

    name: str = ""
    keys: tuple[str, ...] = field(default=(), repr=False)
    scopes: tuple[str, ...] = _DEFAULT_SCOPES
    models: tuple[str, ...] = ("*",)
    requests_per_minute: int = 0
    tokens_per_day: int = 0
    sessions: bool = False
    provider_keys: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        who = f"tenant {self.name[:64]!r}"
        check_fields(
            (
                "name",
                _NAME.match(self.name) is not None,
                "the name of a tenant must be 1 to 64 letters, digits, dots, hyphens and underscores",
            ),
            (
                "keys",
                bool(self.keys) and all(_DIGEST.match(key) for key in self.keys),
                f"{who} needs keys, each as sha256: and 64 digits; 'lix-cache serve --hash-key' makes them",
            ),
            (
                "scopes",
                _SCOPES.issuperset(self.scopes),
                f"the scopes of {who} must be of {', '.join(sorted(_SCOPES))}{self._meant_scope()}",
            ),
            (
                "requests_per_minute",
                self.requests_per_minute >= 0,
                f"requests_per_minute of {who} must not be negative, got {self.requests_per_minute}",
            ),
            (
                "tokens_per_day",
                self.tokens_per_day >= 0,
                f"tokens_per_day of {who} must not be negative, got {self.tokens_per_day}",
            ),
        )
        if self.scopes is _DEFAULT_SCOPES and (self.tokens_per_day or "*" not in self.models):
            # What the gateway does not understand it cannot hold to these limits.
            object.__setattr__(self, "scopes", ("generate",))

    def _meant_scope(self) -> str:
        unknown = next((one for one in self.scopes if one not in _SCOPES), "")
        return did_you_mean(unknown, sorted(_SCOPES), "scopes").partition("; known")[0]


@dataclass(frozen=True)
class GatewaySettings:
    """All settings; see docs/gateway.md.

    Attributes:
        host: address to listen at. Without tenants only this machine's own.
        port: TCP port.
        upstreams: providers; of several that serve a model the first is asked first.
        tenants: those who may use the gateway; none for one local tenant without a key.
        admin_key: digest of the key for ``/admin`` and ``/metrics``; "" for none of ``/admin``.
        redis: keep answers in Redis.
        redis_seconds: how long a request waits for Redis.
        memory_bytes: of answers in this process.
        largest_body_bytes: of a request.
        largest_answer_bytes: that is stored.
        ttl_seconds: time to live of an answer.
        semantic: answer by meaning too, where an embedder is configured.
        embedder: a folder or hub name of an ONNX model, or ``lexical``; "" for none.
        embedder_seconds: how long a request waits for the embedder, and then for the verifier.
        threshold: least similarity of a semantic hit; 0 for the library's own.
        verifier: a folder or hub name of an ONNX cross-encoder that each semantic hit must pass; "" for none.
        verifier_threshold: least score that the verifier must give.
        zero_temperature_only: store only what was asked with temperature 0.
        finish_abandoned: let the provider finish, and store, when all clients have left.
        volatile: names of the rules for volatile parts of prompts.
        encoders: ``columns``, ``toon``: send records in tool results in fewer tokens; none by default.
        sessions: keep conversations named by ``X-Session-ID``, of the local tenant.
        prices: what models cost, for the money that the page shows; none is assumed.
        snapshot: folder, or URL such as ``s3://bucket/path``, that exact answers are read from at the start
            and written to at the end; "" for none.
        retries: how often a failed request is sent again before its first byte.
        retry_after_seconds: longest wait that a provider may ask for before a retry.
        connect_seconds: how long a connection to a provider may take.
        read_seconds: how long a provider may be silent.
        drain_seconds: how long requests may go on after the signal to stop.
        idle_seconds: end after so long without a request; 0 for never.
        workers: processes that serve the port.
        access_log: write a line of JSON for each request to the standard output.
        traces: record a span of OpenTelemetry for each generation.
        local: how models of this machine run.
    """

    host: str = "127.0.0.1"
    port: int = 8640
    upstreams: tuple[UpstreamSettings, ...] = ()
    tenants: tuple[TenantSettings, ...] = ()
    admin_key: str = field(default="", repr=False)
    redis: bool = True
    redis_seconds: float = 0.25
    memory_bytes: int = 64 << 20
    largest_body_bytes: int = 32 << 20
    largest_answer_bytes: int = 4 << 20
    ttl_seconds: float = 3600.0
    semantic: bool = True
    embedder: str = ""
    embedder_seconds: float = 0.5
    threshold: float = 0.0
    verifier: str = ""
    verifier_threshold: float = 0.7
    zero_temperature_only: bool = False
    finish_abandoned: bool = False
    volatile: tuple[str, ...] = ()
    encoders: tuple[str, ...] = ()
    sessions: bool = False
    prices: tuple[PriceSettings, ...] = ()
    snapshot: str = ""
    retries: int = 1
    retry_after_seconds: float = 2.0
    connect_seconds: float = 10.0
    read_seconds: float = 600.0
    drain_seconds: float = 30.0
    idle_seconds: float = 0.0
    workers: int = 1
    access_log: bool = True
    traces: bool = False
    local: LocalSettings = field(default_factory=LocalSettings)

    @property
    def local_models(self) -> tuple[Any, ...]:
        """What a reload cannot change of the models of this machine."""
        return self.local, *(one for one in self.upstreams if one.is_local)

    def __post_init__(self) -> None:
        _check_numbers(self)
        normaliser(self.volatile)
        check_encoders(self.encoders)
        check_prices(self.prices)
        if self.admin_key and not _DIGEST.match(self.admin_key):
            raise ConfigError(
                "admin_key must be sha256: and 64 digits; 'lix-cache serve --hash-key' makes it"
            )
        _check_twice(self)
        if not self.tenants and not _is_loopback(self.host):
            raise TogetherError(
                f"without tenants the gateway listens on this machine alone (127.0.0.1), got {self.host!r}; "
                "configure tenants with keys, or leave host out"
            )


#: Fields that a reload cannot change.
FIXED = (
    *("host", "port", "workers", "redis", "redis_seconds", "memory_bytes", "embedder", "verifier"),
    *("snapshot", "idle_seconds", "drain_seconds", "access_log"),
)
#: Fields that may be 0.
_MAY_BE_ZERO = frozenset(
    {"memory_bytes", "threshold", "retries", "retry_after_seconds", "idle_seconds", "port"}
)
_MOST = {
    "port": 65535,
    "threshold": 1.0,
    "verifier_threshold": 1.0,
    "retries": 10,
    "workers": 64,
    "largest_answer_bytes": 8_000_000,
}


def _check_numbers(settings: GatewaySettings) -> None:
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        least = 0 if one.name in _MAY_BE_ZERO else None
        if value != value or value in (float("inf"), float("-inf")):
            raise ConfigError(f"{one.name} must be finite")
        if value < 0 or (least is None and value == 0):
            raise ConfigError(f"{one.name} must be larger than 0, {given_number(value)}")
        if value > _MOST.get(one.name, value):
            raise ConfigError(f"{one.name} must be at most {_MOST[one.name]}, {given_number(value)}")


def _check_twice(settings: GatewaySettings) -> None:
    """Refuse names and keys that are there twice; of a key only whose it is is said."""
    problems = []
    for what, items in (("upstreams", settings.upstreams), ("tenants", settings.tenants)):
        names = Counter(item.name for item in items)
        problems += [f"two {what} have the same name, {name!r}" for name, n in names.items() if n > 1]
    owners: dict[str, list[str]] = {}
    for tenant in settings.tenants:
        for key in tenant.keys:
            owners.setdefault(key, []).append(repr(tenant.name))
    for found in owners.values():
        if len(found) > 1:
            one_of_two = f"two tenants have the same key: {' and '.join(dict.fromkeys(found))}"
            problems.append(one_of_two if len(set(found)) > 1 else f"tenant {found[0]} has a key twice")
    if problems:
        raise SettingsError(problems)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_settings(
    path: str | None = None, environ: Mapping[str, str] | None = None, **changes: Any
) -> GatewaySettings:
    """Read the file, then the variables, then what the command line says; the last one wins.

    Raises:
        ConfigError: a name or a value makes no sense; says where it stands.
    """
    env = os.environ if environ is None else environ
    values: dict[str, Any] = {} if path is None else from_file(path)
    names = {one.name: ENV_PREFIX + one.name.upper() for one in dataclasses.fields(GatewaySettings)}
    for variable in env:
        if variable.startswith(ENV_PREFIX) and variable not in names.values():
            hint = did_you_mean(variable[len(ENV_PREFIX) :].lower(), list(names))
            raise ConfigError(f"environment variable {variable} is not a setting{hint}")
    hints = get_type_hints(GatewaySettings)
    for name, variable in names.items():
        if variable in env:
            values[name] = from_text(variable, env[variable], hints[name])
    values.update({name: value for name, value in changes.items() if value is not None})
    return made(GatewaySettings, values, "")
