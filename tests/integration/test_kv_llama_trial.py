"""A GGUF file that ends the process that loads it ends none that serves, nor a model that serves."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from lix_cache.errors import EngineError
from lix_cache.kv.engines import llama_trial
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.store import KvStore
from lix_cache.kv.swap import SwappableModel
from tests.support.kv_models import conversation, model_folder

pytestmark = pytest.mark.shared
pytest.importorskip("xllamacpp")


def damaged(gguf: Path, path: Path, key: bytes, value: int) -> Path:
    """Write a copy with another number at a key of its header."""
    data = bytearray(gguf.read_bytes())
    at = data.index(key) + len(key) + 4
    data[at : at + 4] = struct.pack("<I", value)
    path.write_bytes(data)
    return path


@pytest.mark.promise("no-loss")
def test_a_file_that_aborts_llama_cpp_leaves_the_old_model_serving(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lix_cache.kv.engines.llama_cpp import LlamaServerEngine

    gguf = model_folder(shared_dir) / "coffee-3m.gguf"
    began: list[Any] = []
    said = llama_trial._said
    monkeypatch.setattr(llama_trial, "_said", lambda *given: began.append(given) or said(*given))

    def load(path: Path) -> LocalModel:
        engine = LlamaServerEngine.load(path, context_tokens=512, slots=1, threads=1)
        return LocalModel(engine, KvStore(tmp_path / "kv"))

    serving = SwappableModel(lambda: load(gguf))
    before = serving.generate(conversation(4), session="s", max_tokens=8)
    text = before.all()
    for key, value in ((b"llama.block_count", 0), (b"llama.context_length", 1 << 31)):
        bad = damaged(gguf, tmp_path / "bad.gguf", key, value)
        with pytest.raises(EngineError, match=r"bad\.gguf.*damaged"):
            serving.swap(lambda bad=bad: load(bad))
    again = serving.generate(conversation(4), session="s", max_tokens=8)
    assert again.all() == text
    assert again.usage.source == "disk"
    serving.close()
    # The good file was tried once: it is the one that was loaded here before.
    assert 2 <= len(began) <= 3
