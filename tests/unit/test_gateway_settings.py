"""The gateway's settings: one file, variables that win over it, errors that say where."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CacheConfig
from lix_cache.errors import ConfigError
from lix_cache.gateway.local.settings import LocalSettings
from lix_cache.gateway.prices import PriceSettings
from lix_cache.gateway.settings import (
    ENV_PREFIX,
    FIXED,
    GatewaySettings,
    TenantSettings,
    UpstreamSettings,
    read_settings,
)
from lix_cache.gateway.settings_file import SettingsError
from lix_cache.gateway.tenants import digest_of_key
from lix_cache.matching.reasons import Reason

KEY = digest_of_key("a-key-of-sixteen-letters")


_YAML = f"""
port: 1
ttl_seconds: 5
volatile: [date]
upstreams:
  - {{name: a, url: http://a, models: [m-*]}}
tenants:
  - name: ann
    keys: ['{KEY}']
    tokens_per_day: 9
    provider_keys: {{a: ANN_KEY}}
"""
_TOML = f"""
port = 1
ttl_seconds = 5
volatile = ["date"]
upstreams = [{{ name = "a", url = "http://a", models = ["m-*"] }}]

[[tenants]]
name = "ann"
keys = ["{KEY}"]
tokens_per_day = 9
provider_keys = {{ a = "ANN_KEY" }}
"""


def test_a_file_then_variables_then_the_command_line(tmp_path: Path) -> None:
    yaml, toml = tmp_path / "gateway.yaml", tmp_path / "gateway.toml"
    yaml.write_text(_YAML)
    toml.write_text(_TOML)
    env = {ENV_PREFIX + "PORT": "2", ENV_PREFIX + "SESSIONS": "yes", ENV_PREFIX + "VOLATILE": "cwd, date"}
    found = [read_settings(str(path), env, ttl_seconds=7.0, host=None) for path in (yaml, toml)]
    assert found[0] == found[1]
    assert (found[0].port, found[0].ttl_seconds, found[0].sessions) == (2, 7.0, True)
    assert found[0].volatile == ("cwd", "date")
    assert found[0].tenants[0].provider_keys == {"a": "ANN_KEY"}


def test_every_field_has_a_variable_that_the_librarys_own_settings_do_not_take_for_a_slip() -> None:
    names = [ENV_PREFIX + field.name.upper() for field in dataclasses.fields(GatewaySettings)]
    CacheConfig.from_env("LIX_CACHE", dict.fromkeys(names, "1"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prot": 1}, "did you mean 'port'"),
        ({"port": "x"}, "port must be int"),
        ({"port": True}, "port must be int"),
        ({"port": 70000}, "at most 65535"),
        ({"ttl_seconds": 0}, "ttl_seconds must be larger than 0"),
        ({"ttl_seconds": float("nan")}, "ttl_seconds must be finite"),
        ({"host": "0.0.0.0"}, "without tenants the gateway listens on this machine alone"),
        ({"upstreams": [{"name": "a", "url": "ftp://a"}]}, "must begin with http"),
        ({"upstreams": [{"name": "a", "url": "http://u:p@a"}]}, "no user, query or fragment"),
        ({"upstreams": [{"name": "../a", "url": "http://a"}]}, "name of an upstream"),
        ({"upstreams": [{"name": "a", "url": "http://a"}] * 2}, "two upstreams have the same name"),
        ({"upstreams": [{"name": "a", "url": "http://a"}] * 2}, "have the same name, 'a'"),
        ({"upstreams": [{"name": "a"}]}, "the url of upstream 'a' is missing"),
        ({"upstreams": {"name": "a"}}, "upstreams must be a list"),
        ({"tenants": [{"name": "..", "keys": [KEY]}]}, "name of a tenant"),
        ({"tenants": [{"name": "a", "keys": ["plain-key"]}]}, "--hash-key"),
        (
            {"tenants": [{"name": "a", "keys": [KEY]}, {"name": "b", "keys": [KEY]}]},
            "the same key: 'a' and 'b'",
        ),
        ({"tenants": [{"name": "a", "keys": [KEY, KEY]}]}, "tenant 'a' has a key twice"),
        ({"tenants": [{"name": "a", "keys": [KEY], "scopes": ["genrate"]}]}, "did you mean 'generate'"),
        ({"tenants": [{"name": "a", "keys": [KEY], "tokens_per_day": -7}]}, "got -7"),
        ({"encoders": ["toom"]}, "did you mean 'toon'"),
        ({"port": 86.5}, "port must be int, got 86.5"),
        ({"workers": 65}, "workers must be at most 64, got 65"),
        ({"ttl_seconds": -3}, "ttl_seconds must be larger than 0, got -3"),
        ({"threshold": 1.5}, "threshold must be at most 1.0, got 1.5"),
        ({"redis": 17}, "redis must be bool, got 17"),
        ({"admin_key": 1234567}, "admin_key must be str, got an int"),
        ({"local": {"slots": -2}}, "local.slots must be larger than 0, got -2"),
        ({"tenants": [{"name": "a", "keys": [KEY], "scopes": ["all"]}]}, "the scopes of tenant"),
        ({"volatile": ["dates"]}, "did you mean 'date'"),
        ({"admin_key": "plain"}, "--hash-key"),
    ],
)
@pytest.mark.promise("no-leak")
def test_what_makes_no_sense_is_said_without_a_secret(
    values: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps(values).replace("NaN", ".nan"))
    with pytest.raises(ConfigError) as caught:
        read_settings(str(path), {})
    assert said in str(caught.value)
    assert "plain-key" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert "1234567" not in str(caught.value)


def test_files_and_variables_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "a.toml").write_text("a = ")
    (tmp_path / "a.ini").write_text("")
    (tmp_path / "b.yaml").write_text("- 1")
    for name in ("a.yaml", "a.toml", "a.ini", "b.yaml", "none.yaml"):
        with pytest.raises(ConfigError):
            read_settings(str(tmp_path / name), {})
    for variable, value in (("PROT", "1"), ("PORT", "x"), ("SESSIONS", "maybe"), ("UPSTREAMS", "[")):
        with pytest.raises(ConfigError, match=variable):
            read_settings(None, {ENV_PREFIX + variable: value})


def test_with_tenants_it_may_listen_anywhere() -> None:
    assert read_settings(None, {}, host="0.0.0.0", tenants=[{"name": "a", "keys": [KEY]}]).host == "0.0.0.0"


@pytest.mark.promise("no-leak")
def test_no_secret_in_a_repr() -> None:
    found = read_settings(
        None, {}, upstreams=[{"name": "a", "url": "http://a", "api_key": "sk-secret"}], admin_key=KEY
    )
    assert "sk-secret" not in repr(found)
    assert KEY not in repr(found)


@pytest.mark.promise("no-leak")
def test_all_problems_are_said_each_with_its_place() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(
            None,
            {},
            prot=1,
            ttl_seconds="long",
            upstreams=[{"name": "a", "url": "http://a"}, {"name": "b", "url": "ftp://b"}, {"nam": "c"}],
            tenants=[{"name": "t", "keys": [KEY], "requests_per_minute": "plain-key"}],
        )
    problems = caught.value.problems
    starts = (
        "unknown setting 'prot'",
        "ttl_seconds must",
        "upstreams[1]: the url",
        "unknown setting upstreams[2].'nam'",
    )
    assert len(problems) == 5
    for problem, start in zip(problems, starts, strict=False):
        assert problem.startswith(start)
    assert problems[4].startswith("tenants[0].requests_per_minute must be int")
    assert all(problem in str(caught.value) for problem in problems)
    assert "plain-key" not in str(caught.value)


def test_the_docs_list_every_setting_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text().partition("## All settings")[2]
    tables = text.split("| --- | --- | --- |\n")[1:]
    kinds = (GatewaySettings, UpstreamSettings, TenantSettings, PriceSettings, LocalSettings)
    for table, kind in zip(tables, kinds, strict=True):
        rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (\S.*) \|$", table, re.MULTILINE)
        shown = {name: json.loads(default) for name, default, _ in rows}
        assert shown.pop("local", {}) == {}, "its own table follows"
        assert shown == {
            one.name: {}
            if isinstance(value, LocalSettings)
            else list(value)
            if isinstance(value, tuple)
            else value
            for one in dataclasses.fields(kind)
            for value in [
                one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
            ]
            if one.name != "local" or kind is not GatewaySettings
        }
    for name in FIXED:
        assert f"`{name}`" in (Path(__file__).parents[2] / "docs" / "gateway.md").read_text()


def test_every_reason_is_explained_in_the_document_as_on_the_page() -> None:
    top = Path(__file__).parents[2]
    words = (top / "lix_cache" / "gateway" / "ui" / "words.js").read_text()
    page = dict(re.findall(r'^  (\w+): "(.*)",$', words.partition("const REASONS")[2], re.MULTILINE))
    text = (top / "docs" / "gateway.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (?:hit|miss|bypass|refused) \| (.*) \|$", text, re.MULTILINE)
    assert set(page.items()) <= set(rows)
    own = {value for name, value in vars(Reason).items() if name.isupper() and isinstance(value, str)}
    assert own <= {name for name, _ in rows}
    for name in ("exact", "redis"):
        assert len([row for row in rows if row[0] == name]) == 2, "one of a hit and one of a miss"


def test_every_mistake_of_a_file_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        "host: 0.0.0.0\n"
        "ttl_seconds: -1\n"
        "volatile: [date, cwdd]\n"
        "tenants: [{name: ann, requests_per_minit: 3}]\n"
        "nonsense: 1\n"
    )
    with pytest.raises(SettingsError) as raised:
        read_settings(str(path), {})
    problems = raised.value.problems
    for word in ("ttl_seconds must be", "'cwdd'", "'requests_per_minit'", "'nonsense'"):
        assert sum(word in one for one in problems) == 1, problems
    assert len(problems) == 4, "and nothing that follows from another mistake"


@pytest.mark.promise("no-leak")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "port: 1\nadmin_key: [hidden-1\nttl_seconds: 3\n"),
        ("b.yaml", "port: 1\n\tadmin_key: hidden-1\n"),
        ("c.toml", "port = 1\nadmin_key = hidden-1\n"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_said_with_its_line(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"\(line [23]") as raised:
        read_settings(str(path), {})
    assert "hidden" not in str(raised.value)
