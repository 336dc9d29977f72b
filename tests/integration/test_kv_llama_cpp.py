"""The KV store with llama.cpp and trained weights: slots resume, and no torn one reaches the server."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache.errors import ConfigError, EngineError
from lix_cache.kv.engine import Halt, Options
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.store import KvStore
from lix_cache.kv.tensors import u8
from tests.support.kv_models import conversation, model_folder

pytestmark = pytest.mark.shared
pytest.importorskip("xllamacpp")

LONG = conversation(30)


@pytest.fixture(scope="module")
def engine(shared_dir: Path) -> Iterator[Any]:
    from lix_cache.kv.engines.llama_cpp import LlamaServerEngine

    gguf = model_folder(shared_dir) / "coffee-3m.gguf"
    return LlamaServerEngine.load(gguf, context_tokens=2048, slots=3, threads=1)


@pytest.fixture
def store(tmp_path: Path) -> KvStore:
    return KvStore(tmp_path / "kv")


def resumed(engine: Any, store: KvStore) -> LocalModel:
    return LocalModel(engine, KvStore(store.folder))


def closed(model: LocalModel) -> None:
    """Give the slots back; the server is shared by the tests."""
    model.close()


@pytest.mark.promise("right-answer")
def test_a_restored_slot_goes_on_as_the_one_it_was(engine: Any) -> None:
    ids = engine.tokenize(engine.render(LONG))
    live = engine.begin()
    engine.prefill(live, ids[:500])
    state = engine.export(live, 0, 500)
    again = engine.restore([state], ids[:500])
    options = Options(max_tokens=20)
    replies = []
    for sequence in (live, again):
        # The same numbers, to the last digit that the server writes.
        replies.append(
            engine._complete(
                sequence, ids[:520], {"n_predict": 4, "n_probs": 40, "temperature": 0, "stream": False}
            )["completion_probabilities"]
        )
        sequence.ids[:] = ids[:510]
        replies.append(list(engine.generate(sequence, ids[510:520], options)))
        engine.release(sequence)
    assert replies[:2] == replies[2:]


@pytest.mark.promise("right-answer")
def test_a_conversation_resumes_after_a_restart(engine: Any, store: KvStore) -> None:
    first = LocalModel(engine, store)
    reply = first.generate(LONG[:-2], session="s", max_tokens=30)
    text = reply.all()
    goes_on = [*LONG[:-2], {"role": "assistant", "content": text}, *LONG[-1:]]
    expected = first.generate(goes_on, session="s", max_tokens=20)
    expected.all()
    assert expected.usage.source == "memory"
    first.forget("", "s")
    first.generate(LONG[:-2], session="s", max_tokens=30).all()
    closed(first)
    model = resumed(engine, store)
    again = model.generate(goes_on, session="s", max_tokens=20)
    again.all()
    closed(model)
    assert again.usage.source == "disk"
    assert again.usage.cached_tokens == expected.usage.cached_tokens
    assert again.usage.cached_tokens >= reply.usage.prompt_tokens
    assert again.ids == expected.ids


def test_the_system_prompt_is_a_checkpoint_for_other_sessions(engine: Any, store: KvStore) -> None:
    first = LocalModel(engine, store)
    first.generate(LONG, session="s", max_tokens=3).all()
    closed(first)
    model = resumed(engine, store)
    reply = model.generate([LONG[0], {"role": "user", "content": "Hello?"}], session="t", max_tokens=3)
    reply.all()
    closed(model)
    system = len(engine.start_ids) + len(engine.tokenize(engine.render(LONG[:1], reply=False)))
    assert reply.usage.cached_tokens == system


@pytest.mark.promise("isolation")
def test_a_slot_that_another_tenant_had_is_empty(engine: Any, store: KvStore) -> None:
    model = LocalModel(engine, store)
    for number in range(5):
        reply = model.generate(LONG, session="s", tenant=f"t{number}", max_tokens=3)
        reply.all()
        assert reply.usage.cached_tokens == 0
    assert model.stats()["live_sessions"] <= engine.most_live
    closed(model)


def test_more_sessions_than_slots_take_turns(engine: Any, store: KvStore) -> None:
    model = LocalModel(engine, store)
    prompts = {
        f"s{number}": [{"role": "system", "content": f"Number {number}."}, *LONG[1:]] for number in range(5)
    }
    first = {}
    for session, messages in prompts.items():
        reply = model.generate(messages, session=session, max_tokens=10)
        reply.all()
        first[session] = reply.ids
    for session, messages in prompts.items():
        reply = model.generate(messages, session=session, max_tokens=10)
        reply.all()
        assert reply.ids == first[session]
    closed(model)
    assert len(engine._free) == engine.most_live


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "foreign"])
def test_a_damaged_slot_never_reaches_the_server(engine: Any, store: KvStore, damage: str) -> None:
    first = LocalModel(engine, store)
    first.generate(LONG, session="s", max_tokens=3).all()
    closed(first)
    for path in Path(store.folder).rglob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        new = {"torn": bytes(data[:-5000]), "flipped": bytes(data), "empty": b"", "foreign": b"x" * 9000}
        path.write_bytes(new[damage])
    model = resumed(engine, store)
    reply = model.generate(LONG, session="s", max_tokens=3)
    assert reply.all() is not None
    assert reply.usage.cached_tokens == 0
    assert model.counters["restores"] == 0
    closed(model)


@pytest.mark.promise("bad-bytes")
def test_a_state_that_is_no_slot_is_refused_before_the_server_sees_it(engine: Any) -> None:
    for data in (b"", b"x" * 100, b"qsgg" + bytes(100)):
        with pytest.raises(EngineError):
            engine.restore([{"slot": u8(data)}], [1, 2, 3])
    with pytest.raises(EngineError):
        engine.restore([{"0.k": u8(b"")}], [])
    assert len(engine._free) == engine.most_live


@pytest.mark.promise("bad-bytes")
def test_a_slot_of_which_the_disk_kept_a_part_is_not_stored(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a full file system the server loses what its last write buffered, and says that all is well.
    live = engine.begin()
    engine.prefill(live, list(range(5, 45)))
    whole = engine.export(live, 0, 40)["slot"].size
    post = engine._post

    def short(path: str, body: Any) -> Any:
        answer = post(path, body)
        if path.endswith("action=save"):
            file = Path(engine._folder) / body["filename"]
            os.truncate(file, file.stat().st_size // 4096 * 4096)
        return answer

    monkeypatch.setattr(engine, "_post", short)
    with pytest.raises(EngineError, match="not all of it"):
        engine.export(live, 0, 40)
    monkeypatch.undo()
    assert engine.export(live, 0, 40)["slot"].size == whole
    assert list(Path(engine._folder).glob("*.slot")) == []
    engine.release(live)


def test_a_reply_that_is_dropped_leaves_a_slot_that_can_be_saved(engine: Any, store: KvStore) -> None:
    model = LocalModel(engine, store)
    reply = model.generate(LONG, session="s", max_tokens=100)
    next(reply)
    reply.close()
    assert model.flush() == 1
    assert model.counters["failed_saves"] == 0
    again = model.generate(LONG, session="s", max_tokens=3)
    again.all()
    assert again.usage.cached_tokens >= again.usage.prompt_tokens - 2
    closed(model)


def test_a_server_that_cannot_be_told_from_others_is_refused(engine: Any, tmp_path: Path) -> None:
    from lix_cache.kv.engines import llama_cpp, slot_files

    with pytest.raises(ConfigError, match="weights"):
        slot_files.file_digest(str(tmp_path / "none.gguf"))
    with pytest.raises(ConfigError, match="cache type"):
        llama_cpp.LlamaServerEngine.load(tmp_path / "none.gguf", cache_type="q99")
    with pytest.raises(EngineError):
        llama_cpp.LlamaServerEngine(f"http://127.0.0.1:{slot_files.free_port()}", slot_folder=tmp_path)
    url = engine._server.listening_address
    with pytest.raises(EngineError, match="another folder"):
        llama_cpp.LlamaServerEngine(url, slot_folder=tmp_path, weights="x")
    other = llama_cpp.LlamaServerEngine(url, slot_folder=engine._folder, weights="other")
    assert other.fingerprint != engine.fingerprint


@pytest.mark.promise("no-stall")
def test_a_generation_is_halted_from_another_thread(engine: Any) -> None:
    ids = engine.tokenize(engine.render(LONG))
    live = engine.begin()
    before = Halt()
    before.set()
    with pytest.raises(EngineError):
        next(engine.generate(live, ids[:200], Options(max_tokens=5, halt=before)))
    assert live.ids == [], "how much the slot holds is not known"
    halt = Halt()
    replies = engine.generate(live, ids[:200], Options(max_tokens=800, halt=halt))
    next(replies)
    threading.Thread(target=halt.set).start()
    assert len(list(replies)) < 799
    # The slot serves on, and says the same as one that was never halted.
    count = len(live.ids)
    assert count >= 200
    engine.cut(live, 200)
    engine.export(live, 0, 200)
    again = list(engine.generate(live, ids[200:220], Options(max_tokens=10)))
    fresh = engine.begin()
    assert list(engine.generate(fresh, ids[:220], Options(max_tokens=10))) == again
    engine.release(live)
    engine.release(fresh)
