"""What settings name beside themselves: upstreams and tenants by their names, and variables with keys.

A name that means nothing is never left out in silence: a provider would get the client's key instead, or
the wrong account would be billed. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from lix_cache._spelling import did_you_mean
from lix_cache.gateway.settings import GatewaySettings, TenantSettings, UpstreamSettings
from lix_cache.gateway.settings_file import SettingsError

__all__ = ["LOCAL", "check_references", "key_of", "provider_keys_of"]

#: The tenant of a gateway without tenants.
LOCAL = "local"
#: What is hardly a key at the place of a variable's name: keys mix digits into letters of both cases.
_VARIABLE = re.compile(r"(?:[A-Z_][A-Z0-9_]*|[A-Za-z_]+[0-9]?)\Z")


def check_references(settings: GatewaySettings, env: Mapping[str, str], *, is_start: bool = False) -> None:
    """Refuse settings that name what is not there, with all such names at once.

    Args:
        settings: of the gateway.
        env: variables.
        is_start: look at what a reload cannot change, too: with it, a tenant could never be taken out.

    Raises:
        SettingsError: with each problem.
    """
    checks: list[Callable[[], object]] = [partial(key_of, one, env) for one in settings.upstreams]
    checks += [partial(provider_keys_of, one, env) for one in settings.tenants]
    checks += [
        partial(_key_in, env, one.key_env, f"local.servers {one.url!r}") for one in settings.local.servers
    ]
    problems = [*_unknown_upstreams(settings), *(_unknown_quotas(settings) if is_start else ())]
    for check in checks:
        try:
            check()
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)


def key_of(upstream: UpstreamSettings, env: Mapping[str, str]) -> str:
    """Return a provider's own key; "" if the settings name none.

    Raises:
        SettingsError: the variable that has it is not set.
    """
    return upstream.api_key or _key_in(env, upstream.api_key_env, f"upstream {upstream.name!r}")


def provider_keys_of(tenant: TenantSettings, env: Mapping[str, str]) -> dict[str, str]:
    """Return a tenant's keys for providers, by their names.

    Raises:
        SettingsError: a variable is not set.
    """
    keys, problems = {}, []
    for upstream, variable in tenant.provider_keys.items():
        where = f"tenant {tenant.name!r}"
        try:
            keys[upstream] = _key_in(env, variable, where)
        except SettingsError as error:
            problems += error.problems
        else:
            if not keys[upstream]:
                problems.append(f"{where}: provider_keys names no variable for {upstream[:64]!r}")
    if problems:
        raise SettingsError(problems)
    return keys


def _key_in(env: Mapping[str, str], variable: str, where: str) -> str:
    if not variable:
        return ""
    key = env.get(variable, "").strip()
    if not key:
        # The key itself at this place is a common slip, and an error is read by many.
        name = f" {variable[:100]!r}" if _VARIABLE.match(variable) else ""
        hint = "" if name else "; what is wanted is the variable's name, not the key"
        raise SettingsError([f"{where}: the variable{name} with a provider's key is not set{hint}"])
    return key


def _unknown_upstreams(settings: GatewaySettings) -> Iterator[str]:
    known = [one.name for one in settings.upstreams]
    for tenant in settings.tenants:
        for name in tenant.provider_keys:
            if name not in known:
                hint = did_you_mean(name, known, "upstreams")
                yield f"tenant {tenant.name!r}: provider_keys: there is no upstream {name[:64]!r}{hint}"


def _unknown_quotas(settings: GatewaySettings) -> Iterator[str]:
    known = [one.name for one in settings.tenants] or [LOCAL]
    for name in settings.local.quotas:
        if name not in ("*", *known):
            hint = did_you_mean(name, known, "tenants")
            yield f"local.quotas: there is no tenant {name[:64]!r}{hint}"
