"""A llama-server that takes calls and never answers ends no more than the calls that ask it."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache.errors import EngineError
from lix_cache.kv.engine import Halt
from lix_cache.kv.engines import llama_identity, llama_trial
from lix_cache.kv.halting import halted_by, limited_to
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.store import KvStore
from tests.integration.test_kv_llama_cpp import Servers
from tests.support.kv_models import conversation, model_folder
from tests.support.waiting import in_thread, wait_until

pytestmark = [pytest.mark.shared, pytest.mark.promise("no-stall")]
pytest.importorskip("xllamacpp")

TALK = conversation(4)


class Before:
    """Stands before a server, and lets nothing through while it hangs. Connections are taken all the same."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._flows = threading.Event()
        self._flows.set()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def hang(self) -> None:
        self._flows.clear()

    def go_on(self) -> None:
        self._flows.set()

    def close(self) -> None:
        self._flows.set()
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._flows.wait()
                target.sendall(data)
        # A server ends a connection on which it hears nothing; who waits for its answer is not to hear of it.
        self._flows.wait()
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def servers(shared_dir: Path, tmp_path: Path) -> Iterator[Servers]:
    made = Servers(model_folder(shared_dir) / "coffee-3m.gguf", tmp_path / "slots")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def before(servers: Servers) -> Iterator[Before]:
    made = Before(servers.port)
    yield made
    made.close()


def engine_at(url: str, slots: Path) -> Any:
    from lix_cache.kv.engines.llama_cpp import LlamaServerEngine

    return LlamaServerEngine(url, slot_folder=slots)


def test_every_call_of_a_hanging_server_ends_with_its_halt(servers: Servers, before: Before) -> None:
    engine = engine_at(before.url, servers.slots)
    live = engine.begin()
    engine.prefill(live, list(range(5, 45)))
    state = engine.export(live, 0, 40)
    before.hang()
    calls: list[Callable[[], object]] = [
        engine.look,
        engine.begin,
        lambda: engine.tokenize("a"),
        lambda: engine.detokenize([5]),
        lambda: engine.render(TALK),
        lambda: engine.export(live, 0, 40),
        lambda: engine.restore([state], list(range(5, 45))),
        lambda: engine_at(before.url, servers.slots),
    ]
    for call in calls:
        halt = Halt()

        def halted(call: Callable[[], object] = call, halt: Halt = halt) -> None:
            with halted_by(halt):
                call()

        thread, raised = in_thread(halted)
        thread.join(0.05)
        assert thread.is_alive()
        halt.set()
        thread.join(30)
        assert not thread.is_alive()
        assert isinstance(raised[0], EngineError)
        with limited_to(0.05), pytest.raises(EngineError):
            call()
    before.go_on()
    assert len(engine._free) == engine.most_live - 1, "no slot is lost"
    engine.release(live)


@pytest.mark.parametrize("moment", ["before it", "in it", "while another makes room"])
def test_a_request_that_is_halted_ends_though_the_server_hangs(
    servers: Servers, before: Before, tmp_path: Path, moment: str
) -> None:
    model = LocalModel(engine_at(before.url, servers.slots), KvStore(tmp_path / "kv"), fewest_tokens=8)
    for session in ("a", "b"):
        model.generate(TALK, session=session, max_tokens=3).all()
    halt = Halt()
    if moment == "in it":
        reply = model.generate(TALK, session="a", max_tokens=900, halt=halt)
        next(reply)
        before.hang()
        thread, raised = in_thread(reply.all)
    else:
        before.hang()
        # Both slots are taken: a third session has to write one of them first.
        session = "a" if moment == "before it" else "c"
        thread, raised = in_thread(lambda: model.generate(TALK, session=session, halt=halt))
    thread.join(0.2)
    assert thread.is_alive() or moment == "in it"
    halt.set()
    thread.join(30)
    assert not thread.is_alive()
    assert all(isinstance(one, EngineError) for one in raised)
    assert model.drain(5), "nothing is under way"
    before.go_on()
    model._closed = False
    assert model.stats()["live_sessions"] == 2, "who left costs no other session its state"
    assert model.generate(TALK, session="b", max_tokens=3).all() is not None
    model.close()


def test_a_close_ends_though_the_server_hangs(servers: Servers, before: Before, tmp_path: Path) -> None:
    model = LocalModel(engine_at(before.url, servers.slots), KvStore(tmp_path / "kv"), fewest_tokens=8)
    model.generate(TALK, session="idle", max_tokens=3).all()
    reply = model.generate(TALK, session="said", max_tokens=900)
    next(reply)
    before.hang()
    reading, raised = in_thread(reply.all)
    asking, refused = in_thread(lambda: model.generate(TALK, session="new"))
    wait_until(lambda: len(model._running) == 2, 30, "both to be under way")
    assert not model.drain(0.2), "which is said when its time is over"
    model._closed = True
    closing, failed = in_thread(lambda: model.close(seconds=1))
    closing.join(60)
    assert not closing.is_alive()
    assert failed == []
    for thread, errors in ((reading, raised), (asking, refused)):
        thread.join(30)
        assert not thread.is_alive()
        assert all(isinstance(one, EngineError) for one in errors)
    assert refused
    assert model.counters["lost_sessions"] >= 1
    assert model._memory.all() == []
    assert len(model.engine._free) == model.engine.most_live, "no slot is lost"


# -- a file that is tried -------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["time", "halt"])
def test_a_file_that_keeps_the_process_that_tries_it_is_given_up(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    gguf = tmp_path / "slow.gguf"
    gguf.write_bytes((model_folder(shared_dir) / "coffee-3m.gguf").read_bytes()[:4096])
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    monkeypatch.setattr(llama_trial, "_CODE", code)
    halt = Halt()
    if way == "time":
        monkeypatch.setattr(llama_trial, "_SECONDS", 3.0)
    else:
        threading.Thread(
            target=lambda: (wait_until(pid.exists, 60, "the process"), halt.set()), daemon=True
        ).start()
    with halted_by(halt), pytest.raises(EngineError, match="more than 3 s" if way == "time" else "halted"):
        llama_trial.tried(str(gguf), 64, 1, None, "f16")
    if pid.exists() and sys.platform == "linux":
        assert not Path(f"/proc/{pid.read_text()}").exists(), "it is not left behind"


# -- a server with other work ---------------------------------------------------------------------


@pytest.mark.promise("right-answer")
def test_a_server_with_other_work_has_the_fingerprint_that_it_has_without(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is computed at once is one batch, whose size changes the last digits, each time the same."""
    url = f"http://127.0.0.1:{servers.port}"
    alone = engine_at(url, servers.slots)
    probe, says = llama_identity.ServedModel._probe, 0

    def beside(self: Any, slot: int) -> Any:
        """Another client has a slot compute something in the meantime, or has it compute all the time."""
        nonlocal says
        says += 1
        if says <= others:
            self._http.post("/completion", {"prompt": [7, 8, 9], "id_slot": 1 - slot, "n_predict": 1})
            return [{one: value + 5e-7 for one, value in told.items()} for told in probe(self, slot)]
        return probe(self, slot)

    monkeypatch.setattr(llama_identity.ServedModel, "_probe", beside)
    monkeypatch.setattr(llama_identity, "_PAUSE", 0.01)
    others = 3
    assert engine_at(url, servers.slots).fingerprint == alone.fingerprint
    # One that is never alone is not taken for any other, itself at another time included.
    says, others = 0, sys.maxsize
    one, two = engine_at(url, servers.slots), engine_at(url, servers.slots)
    assert len({alone.fingerprint, one.fingerprint, two.fingerprint}) == 3
    assert one.fingerprint.facts["says"].startswith("not known")
