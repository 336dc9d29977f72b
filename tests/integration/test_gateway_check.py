"""``serve --check``: says all that is wrong at once, tries each part, and leaves all as it was."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CacheConfig
from lix_cache._log import logger
from lix_cache.gateway.checking import checked, plan_of
from lix_cache.gateway.serve import embedder_for, verifier_for
from lix_cache.gateway.settings import GatewaySettings, read_settings
from lix_cache.gateway.tenants import digest_of_key
from lix_cache.storage import opening
from tests.support import RedisServer
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import free_port
from tests.support.wire import ask, chat_body, post

KEY = digest_of_key("a-key-of-sixteen-letters")


def settings(url: str, **more: Any) -> GatewaySettings:
    more.setdefault("upstreams", [{"name": "a", "url": url}])
    return read_settings(None, {}, **{"port": free_port(), "redis": False, **more})


def seen(folder: Path) -> dict[str, Any]:
    places = [folder, *folder.rglob("*")]
    return {str(one): (one.stat().st_mtime_ns, one.stat().st_size, one.stat().st_ino) for one in places}


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("name", ["there", "new", "new/of/three"])
def test_a_place_for_a_snapshot_is_tried_without_a_trace(
    name: str, provider: Provider, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    before = seen(tmp_path)
    found = checked(settings(provider.url, snapshot=str(tmp_path / name)), CacheConfig())
    assert found["parts"]["snapshot"] == "ok"
    assert found["ok"]
    after = seen(tmp_path)
    assert set(after) == set(before)
    if sys.platform == "linux":
        assert after == before


@pytest.mark.parametrize("name", ["there", "new/of/three"])
def test_it_leaves_no_trace_where_files_without_names_are_unknown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    monkeypatch.setattr("tempfile._O_TMPFILE_WORKS", False, raising=False)
    (tmp_path / "there").mkdir()
    opening.try_folder(str(tmp_path / name))
    assert set(seen(tmp_path)) == {str(tmp_path), str(tmp_path / "there")}


def test_a_place_that_cannot_be_is_said(provider: Provider, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    places = [str(tmp_path / name) for name in ("file", "file/below", "link", "n" * 300)]
    places += ["/proc/nope"] * (sys.platform == "linux")
    for place in places:
        found = checked(settings(provider.url, snapshot=place), CacheConfig())
        assert not found["ok"]
        assert "cannot write in the folder" in found["parts"]["snapshot"], place
        assert found["parts"]["upstream a"] == "ok", "the others are tried all the same"


@pytest.mark.promise("no-loss")
def test_a_snapshot_that_is_there_stays_and_a_damaged_one_is_said(
    provider: Provider, redis_server: RedisServer, redis_config: CacheConfig, tmp_path: Path
) -> None:
    """Redis is empty: what a gateway writes at its end would take the place of all answers."""
    folder = tmp_path / "snapshot"
    with RunningGateway(provider, redis_config, snapshot=str(folder)) as gateway:
        post(gateway.url, chat_body())
    for key in redis_server.client().scan_iter(f"{redis_config.redis_key_prefix}:*"):
        redis_server.client().delete(key)
    before = seen(folder)
    assert any(name.endswith(".lxs") for name in before)
    these = settings(provider.url, snapshot=str(folder), redis=True, redis_seconds=20.0)
    assert checked(these, redis_config)["parts"]["snapshot"] == "ok"
    assert seen(folder) == before
    next(folder.glob("part-*")).write_bytes(b"damaged")
    found = checked(these, redis_config)
    assert "damaged" in found["parts"]["snapshot"]
    assert not found["ok"]


def test_all_that_is_wrong_is_said_at_once(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delenv("LIX_NO_1", raising=False)
    monkeypatch.delenv("LIX_NO_2", raising=False)
    these = settings(
        provider.url,
        upstreams=[{"name": "a", "url": provider.url, "api_key_env": "LIX_NO_1"}],
        tenants=[{"name": "t", "keys": [KEY], "provider_keys": {"a": "LIX_NO_2", "b": "LIX_NO_2"}}],
        traces=True,
        embedder=str(tmp_path / "nosuch-model"),
        snapshot="/proc/nope",
    )
    found = checked(these, CacheConfig())
    assert len(found["settings"]) == 4
    assert "pip install 'lix-cache[otel]'" in found["parts"]["traces"]
    assert found["parts"]["embedder"] != "ok"
    assert found["parts"]["snapshot"] != "ok"
    assert found["parts"]["upstream a"] == "ok"
    assert found["parts"]["port"] == "ok"
    assert "settings" not in found["parts"]
    assert not found["ok"]


def test_the_plan_says_the_models_of_a_tenant() -> None:
    tenants = [{"name": "t", "keys": [KEY], "models": ["gpt-*", "o1"]}]
    (line,) = [one for one in plan_of(settings("http://a", tenants=tenants)) if "tenant t" in one]
    assert line == "serve tenant t: generate, models gpt-*, o1"


def test_the_plan_says_with_whose_key_a_provider_is_asked_and_of_none_for_a_local_model() -> None:
    upstreams = [
        {"name": "mine", "url": "http://a", "api_key": "k"},
        {"name": "theirs", "url": "http://a"},
        {"name": "here", "url": "local:model"},
    ]
    lines = [one for one in plan_of(settings("", upstreams=upstreams)) if one.startswith("ask ")]
    assert lines == [
        "ask mine at http://a for *, with its own key",
        "ask theirs at http://a for *, with the request's key",
        "ask here at local:model for *",
    ]


@pytest.mark.parametrize("kind", ["embedder", "verifier"])
def test_the_start_warns_of_a_model_that_cannot_be_loaded(
    kind: str, provider: Provider, tmp_path: Path
) -> None:
    these = settings(provider.url, **{kind: str(tmp_path / "nosuch-model")})
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING", format="{message}")
    logger.enable("lix_cache")
    try:
        with RunningGateway(provider, None, embedder=embedder_for(these), verifier=verifier_for(these)):
            pass
    finally:
        logger.remove(handler)
        logger.disable("lix_cache")
    assert sum(f"the {kind}" in line and "does not work" in line for line in lines) == 1


def test_metrics_name_the_setting_that_they_need(provider: Provider) -> None:
    tenants = read_settings(None, {}, tenants=[{"name": "t", "keys": [KEY]}]).tenants
    with RunningGateway(provider, None, tenants=tenants) as gateway:
        reply = ask(gateway.url, "GET", "/metrics")
        assert reply.status == 401
        assert "the setting admin_key" in reply.json["error"]["message"]
    with RunningGateway(provider, None, tenants=tenants, admin_key=KEY) as gateway:
        assert ask(gateway.url, "GET", "/metrics").json["error"]["message"] == "the admin key is needed"
