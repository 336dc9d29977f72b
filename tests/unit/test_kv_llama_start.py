"""What is said of a version of xllamacpp, and which build of llama.cpp it is. Nothing is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lix_cache.errors import ConfigError
from lix_cache.kv.engines import llama_start


class _OldParams:
    """Has no `hostnames`, as those of 2026.9."""

    __slots__ = (
        "cache_ram_mib",
        "endpoint_slots",
        "kv_unified",
        "model",
        "n_ctx",
        "n_parallel",
        "slot_save_path",
    )

    def __init__(self) -> None:
        self.model = SimpleNamespace()


def test_a_version_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(
        __version__="2026.9.11063", ggml_type=SimpleNamespace(GGML_TYPE_F16=1), CommonParams=_OldParams
    )
    monkeypatch.setitem(sys.modules, "xllamacpp", old)  # type: ignore[arg-type]
    monkeypatch.setattr(llama_start, "_HOMES", (str(tmp_path),))
    with pytest.raises(ConfigError, match=r"2026\.9\.11063.*hostnames.*xllamacpp>=2026\.10"):
        llama_start.started("x.gguf", 64, 1, None, "f16")
    assert not list(tmp_path.iterdir())


def test_the_extra_asks_for_the_version_that_the_error_names() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert f"xllamacpp>={llama_start._LEAST}" in pyproject.read_text(encoding="utf-8")


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    ("info", "told"),
    [
        ({"build_number": 0, "commit": "unknown", "compiler": "GNU"}, "xllamacpp 2026.10.1"),
        ({"build_number": 9063, "commit": "abc"}, "xllamacpp 2026.10.1 9063 abc"),
    ],
)
def test_the_build_tells_versions_apart_where_llama_cpp_knows_none(info: dict[str, Any], told: str) -> None:
    assert llama_start._build(SimpleNamespace(__version__="2026.10.1", BUILD_INFO=info)) == told
