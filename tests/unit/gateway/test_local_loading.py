"""Which engine loads a model, and what is said where none can. Nothing is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lix_cache.errors import ConfigError, MissingExtra
from lix_cache.gateway.local import loading
from lix_cache.gateway.local.loading import check_target
from lix_cache.gateway.local.settings import LocalSettings, ServerSettings
from lix_cache.gateway.local.store import store_folder


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    there = {"torch", "transformers", "mlx_lm", "xllamacpp"}
    monkeypatch.setattr(loading, "find_spec", lambda name: True if name in there else None)
    return there


def test_the_engine_goes_by_the_models_form_and_what_is_installed(
    tmp_path: Path, installed: set[str]
) -> None:
    gguf = tmp_path / "model.gguf"
    gguf.touch()
    assert check_target(str(tmp_path), LocalSettings()) == "transformers"
    assert check_target(str(tmp_path), LocalSettings(engine="mlx")) == "mlx"
    assert check_target(str(gguf), LocalSettings()) == "llama.cpp"
    known = LocalSettings(servers=(ServerSettings("http://x/", "/slots"),))
    assert check_target("http://x", known) == "server"
    with pytest.raises(ConfigError, match="needs an entry"):
        check_target("http://y", known)
    installed.discard("torch")
    assert check_target(str(tmp_path), LocalSettings()) == "mlx"
    installed.discard("mlx_lm")
    with pytest.raises(MissingExtra, match=r"lix-cache\[transformers\]"):
        check_target(str(tmp_path), LocalSettings())


@pytest.mark.parametrize(
    ("target", "settings", "said"),
    [
        ("none", {}, "there is no local model"),
        ("model.gguf", {"engine": "mlx"}, "wants a model's folder"),
        (".", {"engine": "llama.cpp"}, "is a folder"),
        ("https://x", {}, "local.servers"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_said(
    tmp_path: Path,
    installed: set[str],
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    settings: dict[str, Any],
    said: str,
) -> None:
    (tmp_path / "model.gguf").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        check_target(target, LocalSettings(**settings))


def test_where_states_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIX_CACHE_KV_DIR", raising=False)
    assert store_folder(LocalSettings()) == "./data/kv"
    monkeypatch.setenv("LIX_CACHE_KV_DIR", "/kv")
    assert store_folder(LocalSettings()) == "/kv"
    assert store_folder(LocalSettings(folder="/other")) == "/other"


@pytest.mark.promise("right-answer")
def test_each_llama_server_has_its_own_folder_text_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, dict[str, Any]]] = []

    class Engine:
        def __init__(self, url: str, **options: Any) -> None:
            given.append((url, options))

    monkeypatch.setattr("lix_cache.kv.engines.llama_cpp.LlamaServerEngine", Engine)
    monkeypatch.setenv("K", "secret")
    servers = (ServerSettings("http://a:1", "/a", "one", "K"), ServerSettings("http://b:1", "/b"))
    for url in ("http://a:1/", "http://b:1"):
        loading.engine_for(url, LocalSettings(servers=servers))
    assert given == [
        ("http://a:1", {"slot_folder": "/a", "weights": "one", "api_key": "secret"}),
        ("http://b:1", {"slot_folder": "/b", "weights": None, "api_key": None}),
    ]
    with pytest.raises(ConfigError, match="slot_folder"):
        ServerSettings("http://a", "")
