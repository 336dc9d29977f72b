"""What settings of the gateway name is there: upstreams, tenants, variables with keys. Or it is said."""

from __future__ import annotations

from typing import Any

import pytest

from lix_cache.gateway.core import Core
from lix_cache.gateway.references import check_references
from lix_cache.gateway.settings import GatewaySettings, read_settings
from lix_cache.gateway.settings_file import SettingsError
from lix_cache.gateway.tenants import digest_of_key

KEY = digest_of_key("a-key-of-sixteen-letters")
OPENAI = {"name": "openai", "url": "http://a"}


def settings(*upstreams: dict[str, Any], provider_keys: Any = None, **more: Any) -> GatewaySettings:
    tenants = [{"name": "bob", "keys": [KEY], "provider_keys": provider_keys}] if provider_keys else []
    return read_settings(None, {}, upstreams=upstreams or (OPENAI,), tenants=tenants, redis=False, **more)


def problems_of(found: GatewaySettings, **env: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Core(found, environ=env)
    return caught.value.problems


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("env", [{}, {"THEIRS": ""}, {"THEIRS": " \n"}])
def test_a_provider_whose_key_is_not_set_is_not_asked_with_the_clients(env: dict[str, str]) -> None:
    said = "the variable 'THEIRS' with a provider's key is not set"
    assert problems_of(settings({**OPENAI, "api_key_env": "THEIRS"}), **env) == [f"upstream 'openai': {said}"]
    assert problems_of(settings(provider_keys={"openai": "THEIRS"}), **env) == [f"tenant 'bob': {said}"]


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("name", ["opnai", "OpenAI", "open-ai"])
def test_a_tenants_key_for_an_upstream_that_is_not_there_is_refused(name: str) -> None:
    (problem,) = problems_of(settings(provider_keys={name: "K"}), K="sk-1")
    assert f"no upstream {name!r}; did you mean 'openai'?" in problem
    (problem,) = problems_of(settings(provider_keys={"xyz": "K"}), K="sk-1")
    assert problem.endswith("known upstreams: openai")


@pytest.mark.promise("no-leak")
@pytest.mark.parametrize("key", ["sk-proj-0aB1", "gsk_a1b2c3D4", "0123abcdef"])
def test_a_key_at_the_place_of_its_variable_is_not_shown(key: str) -> None:
    for found in (settings({**OPENAI, "api_key_env": key}), settings(provider_keys={"openai": key})):
        (problem,) = problems_of(found)
        assert key not in problem
        assert "the variable's name, not the key" in problem


def test_all_that_is_not_there_is_said_at_once() -> None:
    found = settings(
        {**OPENAI, "api_key_env": "ONE"},
        {"name": "b", "url": "http://b", "api_key_env": "TWO"},
        provider_keys={"opnai": "THREE", "b": "FOUR"},
    )
    problems = problems_of(found)
    for word in ("'ONE'", "'TWO'", "'opnai'", "'THREE'", "'FOUR'"):
        assert sum(word in one for one in problems) == 1, problems


def test_what_is_there_is_taken_without_the_end_of_its_line() -> None:
    found = settings({**OPENAI, "api_key_env": "ONE"}, provider_keys={"openai": "TWO"})
    core = Core(found, environ={"ONE": "sk-1\n", "TWO": "sk-2\n"})
    assert core.routes.routes[0].api_key == "sk-1"
    assert core.tenants.tenants["bob"].provider_keys == {"openai": "sk-2"}


def test_a_quota_of_a_tenant_that_is_not_there_is_refused_at_the_start_alone() -> None:
    found = settings(provider_keys={"openai": "K"}, local={"quotas": {"bop": "5", "*": "1"}})
    with pytest.raises(SettingsError, match=r"there is no tenant 'bop'; did you mean 'bob'\?"):
        check_references(found, {"K": "sk-1"}, is_start=True)
    # A reload cannot change quotas, and a tenant must be taken out without a restart.
    check_references(found, {"K": "sk-1"})


def test_the_key_of_a_llama_server_is_there_where_there_is_such_a_server() -> None:
    theirs = {"url": "http://127.0.0.1:1", "slot_folder": "/slots", "key_env": "THEIRS"}
    server = {"name": "s", "url": "local:http://127.0.0.1:1"}
    found = settings(server, local={"servers": [theirs]})
    with pytest.raises(SettingsError, match=r"local.servers 'http://127.0.0.1:1': the variable 'THEIRS'"):
        check_references(found, {})
    check_references(found, {"THEIRS": "sk"})
