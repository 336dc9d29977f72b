"""The KV store with llama.cpp and trained weights: slots resume, and no torn one reaches the server."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache.errors import ConfigError, EngineError
from lix_cache.kv.engine import Halt, Options
from lix_cache.kv.engines import llama_identity
from lix_cache.kv.engines.llama_http import LlamaHttp
from lix_cache.kv.engines.llama_identity import ServedModel, stamp_of
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
            engine._http.post(
                "/completion",
                {
                    **engine._body(sequence, ids[:520]),
                    "n_predict": 4,
                    "n_probs": 40,
                    "temperature": 0,
                },
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
    post = engine._http.post

    def short(path: str, body: Any, *rest: Any) -> Any:
        answer = post(path, body, *rest)
        if path.endswith("action=save"):
            file = Path(engine._slots.path) / body["filename"]
            os.truncate(file, file.stat().st_size // 4096 * 4096)
        return answer

    monkeypatch.setattr(engine._http, "post", short)
    with pytest.raises(EngineError, match="not all of it"):
        engine.export(live, 0, 40)
    monkeypatch.undo()
    assert engine.export(live, 0, 40)["slot"].size == whole
    assert list(Path(engine._slots.path).glob("*.slot")) == []
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
    from lix_cache.kv.engines import llama_cpp, llama_start, slot_files

    with pytest.raises(ConfigError, match="weights"):
        slot_files.file_digest(str(tmp_path / "none.gguf"))
    with pytest.raises(ConfigError, match="cache type"):
        llama_cpp.LlamaServerEngine.load(tmp_path / "none.gguf", cache_type="q99")
    with pytest.raises(EngineError):
        llama_cpp.LlamaServerEngine(f"http://127.0.0.1:{llama_start.free_port()}", slot_folder=tmp_path)
    url, key = engine._http.url, engine._http.key
    with pytest.raises(EngineError, match="another folder"):
        llama_cpp.LlamaServerEngine(url, slot_folder=tmp_path, weights="x", api_key=key)
    assert list(tmp_path.glob("*.slot")) == []
    with pytest.raises(EngineError, match="401"):
        llama_cpp.LlamaServerEngine(url, slot_folder=engine._slots.path, weights="x")
    with pytest.raises(EngineError, match="slot folder"):
        llama_cpp.LlamaServerEngine(url, slot_folder=tmp_path / "none", weights="x", api_key=key)


@pytest.fixture
def servers(shared_dir: Path, tmp_path: Path) -> Iterator[Servers]:
    made = Servers(model_folder(shared_dir) / "coffee-3m.gguf", tmp_path / "slots")
    yield made
    made.stop()


class Servers:
    """A llama-server that can be started again on its port, with another model."""

    def __init__(self, gguf: Path, slots: Path) -> None:
        from lix_cache.kv.engines.llama_start import free_port

        slots.mkdir()
        self.gguf, self.slots, self.port = gguf, slots, free_port()
        self.server: Any = None

    def start(self, gguf: Path | None = None) -> str:
        import xllamacpp

        from lix_cache.kv.engines import llama_start

        parameters = xllamacpp.CommonParams()
        llama_start._set_up(parameters, str(gguf or self.gguf), str(self.slots), 1024, 2, "")
        parameters.api_keys = []
        parameters.cpuparams.n_threads = 1
        parameters.port = self.port
        self.server = xllamacpp.Server(parameters)
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.server = None
        gc.collect()

    def other(self, path: Path) -> Path:
        """Write a model of the same geometry and tokens with other weights: its last matrices upside down."""
        data = bytearray(self.gguf.read_bytes())
        half = len(data) // 2
        rows = len(data[half:]) // 4096
        data[half : half + rows * 4096] = b"".join(
            data[half + one * 4096 : half + (one + 1) * 4096] for one in reversed(range(rows))
        )
        path.write_bytes(data)
        return path

    def engine(self, **options: Any) -> Any:
        from lix_cache.kv.engines.llama_cpp import LlamaServerEngine

        return LlamaServerEngine(f"http://127.0.0.1:{self.port}", slot_folder=self.slots, **options)


SHORT = LONG[:10]


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("weights", [None, "mine"])
@pytest.mark.parametrize("is_path_kept", [True, False])
def test_a_server_that_comes_back_with_other_weights_is_another_model(
    servers: Servers, store: KvStore, tmp_path: Path, weights: str | None, is_path_kept: bool
) -> None:
    first, second = tmp_path / "first.gguf", servers.other(tmp_path / "second.gguf")
    shutil.copy(servers.gguf, first)
    servers.start(first)
    engine = servers.engine(weights=weights)
    before = engine.fingerprint
    model = LocalModel(engine, store)
    model.generate(SHORT, session="one", max_tokens=8).all()
    model.generate(SHORT, session="two", max_tokens=8).all()
    assert model.flush() == 2
    model.forget("", "three")
    with model._memory.get("", "two").lock:
        model._drop(model._memory.get("", "two"))
    servers.stop()
    if is_path_kept:
        os.replace(second, first)
    servers.start(first if is_path_kept else second)
    # One that was in memory, one that is on disk, one that is new.
    goes_on = [*SHORT, {"role": "user", "content": "And a muffin."}]
    replies = []
    for session in ("one", "two", "three"):
        reply = model.generate(goes_on, session=session, max_tokens=8)
        reply.all()
        assert reply.usage.source in ("none", "memory")
        assert reply.usage.cached_tokens == 0
        replies.append(reply.ids)
    assert engine.fingerprint != before
    fresh = servers.engine(weights=weights)
    assert fresh.fingerprint == engine.fingerprint
    alone = LocalModel(fresh).generate(goes_on, max_tokens=8)
    alone.all()
    assert replies == [alone.ids] * 3
    # What it writes is its own: with the first model back, nothing of it is found.
    model.close()
    written = {path.parent.parent.name for path in Path(store.folder).rglob("*.safetensors")}
    assert written == {model.fingerprint.hex, LocalModel(Frozen(before)).fingerprint.hex}


@pytest.mark.promise("right-answer")
def test_an_exchange_behind_other_clients_is_noticed_where_the_weights_are_out_of_reach(
    servers: Servers, store: KvStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_identity, "stamp_of", lambda _: None)
    first, second = tmp_path / "first.gguf", servers.other(tmp_path / "second.gguf")
    shutil.copy(servers.gguf, first)
    url = servers.start(first)
    engine = servers.engine(weights="mine")
    before = engine.fingerprint
    model = LocalModel(engine, store)
    model.generate(SHORT, session="one", max_tokens=8).all()
    model.flush()
    with model._memory.get("", "one").lock:
        model._drop(model._memory.get("", "one"))
    servers.stop()
    os.replace(second, first)
    servers.start(first)
    other = LlamaHttp(url, None, 60)
    for number in range(20):
        for slot in range(2):
            other.post("/completion", {"prompt": [1, 2, 3 + number], "id_slot": slot, "n_predict": 1})
    reply = model.generate([*SHORT, {"role": "user", "content": "And?"}], session="one", max_tokens=8)
    reply.all()
    assert (reply.usage.cached_tokens, reply.usage.source) == (0, "none")
    assert engine.fingerprint != before
    assert len(engine._free) == engine.most_live - 1


def test_a_file_that_is_exchanged_while_it_is_loaded_is_not_taken_for_the_one_before(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lix_cache.kv.engines import llama_cpp

    file, other = tmp_path / "m.gguf", servers.other(tmp_path / "other.gguf")
    shutil.copy(servers.gguf, file)
    start = llama_cpp.started

    def exchanged(*arguments: Any) -> Any:
        made = start(*arguments)
        os.replace(other, file)
        return made

    monkeypatch.setattr(llama_cpp, "started", exchanged)
    with pytest.raises(EngineError, match="changed while it was loaded"):
        llama_cpp.LlamaServerEngine.load(file, context_tokens=512, slots=1, threads=1)


@pytest.mark.promise("right-answer")
def test_all_files_of_a_model_tell_it_from_others(tmp_path: Path) -> None:
    served = ServedModel(LlamaHttp("http://127.0.0.1:9", None, 1), None, None)
    path = str(tmp_path / "m-00001-of-00002.gguf")
    seen = set()
    for second in (b"weights", b"others!"):
        Path(path).write_bytes(b"header")
        assert stamp_of(path) is None, "half of it is not there"
        (tmp_path / "m-00002-of-00002.gguf").write_bytes(second)
        seen.add(served._digest(path, stamp_of(path)))
        (tmp_path / "m-00002-of-00002.gguf").unlink()
    assert len(seen) == 2


class Frozen:
    """No more of an engine than its fingerprint."""

    most_live = 1

    def __init__(self, fingerprint: Any) -> None:
        self.fingerprint = fingerprint


@pytest.mark.promise("right-answer")
def test_a_state_is_not_taken_out_of_a_server_that_was_started_again(
    servers: Servers, tmp_path: Path
) -> None:
    servers.start()
    engine = servers.engine()
    live = engine.begin()
    engine.prefill(live, list(range(5, 60)))
    state = engine.export(live, 0, 55)
    other = servers.other(tmp_path / "other.gguf")
    servers.stop()
    servers.start(other)
    with pytest.raises(EngineError):
        engine.export(live, 0, 55)
    servers.stop()
    servers.start()
    first = engine.fingerprint
    engine.look()
    assert engine.fingerprint != first, "the first model is back"
    servers.stop()
    servers.start(other)
    with pytest.raises(EngineError, match="another model"):
        engine.restore([state], list(range(5, 60)))
    assert len(engine._free) == engine.most_live - 1


def test_one_model_on_two_servers_is_told_apart_by_a_text_and_shared_by_its_file(
    servers: Servers, tmp_path: Path
) -> None:
    servers.start()
    read, said = servers.engine().fingerprint, servers.engine(weights="mine").fingerprint
    first, servers.server = servers.server, None
    from lix_cache.kv.engines.llama_start import free_port

    servers.port = free_port()
    servers.start()
    assert servers.engine().fingerprint == read
    assert servers.engine(weights="mine").fingerprint != said
    del first


@pytest.mark.promise("isolation")
def test_the_server_of_a_process_answers_that_process_alone(engine: Any) -> None:
    from lix_cache.kv.engines.llama_http import LlamaHttp

    url = engine._http.url
    for key in (None, "wrong"):
        stranger = LlamaHttp(url, key, 30)
        for path in ("/slots", "/props"):
            with pytest.raises(EngineError, match="401"):
                stranger.get(path)
        for path in ("/completion", "/slots/0?action=erase", "/tokenize"):
            with pytest.raises(EngineError, match="401"):
                stranger.post(path, {"prompt": [1], "content": "x"})


@pytest.mark.promise("no-leak")
def test_no_slot_file_of_a_process_that_was_killed_stays(tmp_path: Path) -> None:
    from lix_cache.kv.engines.slot_files import SlotFolder

    code = (
        "import os, sys; from lix_cache.kv.engines.slot_files import SlotFolder\n"
        "print(SlotFolder(sys.argv[1]).new(9), flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    left = Path(done.stdout.strip())
    assert left.stat().st_mode & 0o777 == 0o600
    theirs = tmp_path / "not-ours.slot"
    theirs.touch()
    alive = SlotFolder(str(tmp_path))
    kept = Path(alive.new(9))
    assert not left.exists()
    SlotFolder(str(tmp_path)).close()
    assert kept.exists()
    assert theirs.exists(), "a slot of another program, or of a process that lives"
    # The server may write a file after the wait for it was over.
    alive.remove(str(kept), again=True)
    kept.write_bytes(b"late")
    alive.remove(alive.new(9))
    assert not kept.exists()
    alive.close()
    assert sorted(tmp_path.iterdir()) == [theirs]


def test_slots_go_elsewhere_where_memory_has_no_room_for_them(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lix_cache.kv.engines import slot_files

    slots = engine._slots
    if not slots._spare:
        pytest.skip("no folder in memory here")
    free = slot_files._free
    monkeypatch.setattr(slot_files, "_free", lambda path: 1000 if path == slots.path else free(path))
    live = engine.begin()
    ids = list(range(5, 105))
    engine.prefill(live, ids)
    state = engine.export(live, 0, 100)
    again = engine.restore([state], ids)
    assert again.ids == ids
    files = [*Path(slots.path).iterdir(), *Path(slots._spare).iterdir()]
    assert [one for one in files if one.name.startswith(f"{slots._name}-")] == []
    engine.release(live)
    engine.release(again)


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


def grammatical(monkeypatch: pytest.MonkeyPatch, engine: Any, text: str) -> None:
    """Have the server make this text, and no other."""
    stream = engine._http.stream

    def forced(path: str, body: Any, halt: Any) -> Any:
        return stream(path, {**body, "grammar": f'root ::= "{text}"'}, halt)

    monkeypatch.setattr(engine._http, "stream", forced)


RARE = "ok 🎉漢字 fine"


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("is_guessed", [True, False])
def test_characters_of_several_tokens_arrive_whole_and_are_counted(
    engine: Any, monkeypatch: pytest.MonkeyPatch, is_guessed: bool
) -> None:
    model = LocalModel(engine)
    tokenize = engine._tokens
    if not is_guessed:
        # What the model made may be other tokens than those of its text: then the slot is asked.
        monkeypatch.setattr(engine, "_tokens", lambda text, **more: [7] if text in RARE else tokenize(text))
    grammatical(monkeypatch, engine, RARE)
    reply = model.generate(LONG, session="s", max_tokens=60)
    pieces = list(reply)
    monkeypatch.undo()
    live = model._memory.get("", "s").live
    slot = engine.export(live, 0, len(live.ids))
    assert "".join(pieces) == reply.text == RARE
    assert engine.detokenize(reply.ids[:-1]) == RARE
    assert len(reply.ids) == reply.usage.completion_tokens >= len(engine.tokenize(RARE)) + 1
    assert live.ids == [*reply.prompt, *reply.ids[:-1]]
    assert slot["slot"].size > 0
    goes_on = [*LONG, {"role": "assistant", "content": RARE}, {"role": "user", "content": "Thanks."}]
    again = model.generate(goes_on, session="s", max_tokens=3)
    again.all()
    assert again.usage.cached_tokens == len(live.ids[: len(reply.prompt)]) + len(reply.ids) - 1
    closed(model)


def test_half_a_character_at_the_limit_is_counted_and_not_told(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LocalModel(engine)
    grammatical(monkeypatch, engine, RARE)
    for most in range(1, 12):
        reply = model.generate(LONG, session="s", max_tokens=most)
        assert RARE.startswith(reply.all())
        assert (reply.usage.completion_tokens, reply.finish_reason) == (most, "length")
        assert len(reply.ids) in (most, most - 1), "of half a character the last token is not known"
    closed(model)


@pytest.mark.promise("right-answer")
def test_any_token_that_ends_a_reply_ends_it_and_is_no_text(shared_dir: Path, tmp_path: Path) -> None:
    from lix_cache.kv.engines.llama_cpp import LlamaServerEngine

    # Most models have several such tokens, and name one of them.
    data = bytearray((model_folder(shared_dir) / "coffee-3m.gguf").read_bytes())
    key = b"tokenizer.ggml.eos_token_id"
    at = data.index(key) + len(key) + 4
    before, data[at : at + 4] = int.from_bytes(data[at : at + 4], "little"), bytes(4)
    (tmp_path / "other.gguf").write_bytes(data)
    other = LlamaServerEngine.load(tmp_path / "other.gguf", context_tokens=2048, slots=1, threads=1)
    reply = LocalModel(other).generate(LONG[:2], max_tokens=400)
    text = reply.all()
    assert (reply.finish_reason, reply.ids[-1]) == ("stop", before)
    assert "<|" not in text
    assert reply.usage.completion_tokens == len(reply.ids) < 400


def test_what_a_server_was_started_with_does_not_change_how_tokens_are_chosen(engine: Any) -> None:
    ids = engine.tokenize(engine.render(LONG[:2]))
    live = engine.begin()
    body = {**engine._body(live, ids), "n_probs": 2048, "post_sampling_probs": True, "stream": False}
    from lix_cache.kv.engines.llama_cpp import _sampling

    for top_p, fewest, most in ((1.0, 1000, 2048), (0.0, 1, 1)):
        options = Options(max_tokens=1, temperature=2.0, top_p=top_p, seed=-3)
        told = engine._http.post("/completion", {**body, **_sampling(options)})
        # Without the server's own top_k of 40 and min_p.
        assert fewest <= len(told["completion_probabilities"][0]["top_probs"]) <= most
    engine.release(live)
