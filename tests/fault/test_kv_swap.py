"""A model that is closed while another takes its place, or replies are made: no leak, no endless wait."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from lix_cache.errors import EngineBusy, EngineError
from lix_cache.kv.engine import Live
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.store import KvStore
from lix_cache.kv.swap import SwappableModel
from lix_cache.kv.tensors import State
from tests.support.kv_engine import ToyEngine
from tests.support.waiting import in_thread, wait_until

pytestmark = [pytest.mark.promise("no-leak"), pytest.mark.promise("no-stall")]

TALK: list[dict[str, Any]] = [{"role": "user", "content": "Tell me more. " * 40}]


class Moments:
    """Two models, and moments of a swap at which it stops until it may go on."""

    def __init__(self, folder: Path, stops: str) -> None:
        self.reached, self.goes_on = threading.Event(), threading.Event()
        self.engines: list[ToyEngine] = []
        self._folder, self._stops = folder, stops

    def stop(self, moment: str) -> None:
        if moment == self._stops:
            self.reached.set()
            assert self.goes_on.wait(60)

    def load(self, weights: int, *, fails: bool = False) -> LocalModel:
        moments = self

        class Stopping(ToyEngine):
            def export(self, live: Live, first: int, end: int) -> State:
                moments.stop("old is written")
                return super().export(live, first, end)

            def close(self) -> None:
                moments.stop("old is unloaded")
                super().close()

        if self.engines:
            self.stop("new is loaded")
        if fails:
            raise EngineError("no such model")
        engine = Stopping(weights=weights, serial=False)
        self.engines.append(engine)
        return LocalModel(engine, KvStore(self._folder), fewest_tokens=8)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("patient", [False, True])
@pytest.mark.parametrize("moment", ["old is drained", "old is written", "old is unloaded", "new is loaded"])
def test_a_close_in_a_swap_leaves_no_model_behind(
    tmp_path: Path, moment: str, patient: bool, fails: bool
) -> None:
    moments = Moments(tmp_path, moment)
    swappable = SwappableModel(lambda: moments.load(1))
    first = swappable.model
    swappable.generate(TALK, session="a", max_tokens=5).all()
    held = first.generate(TALK, session="held", max_tokens=50) if moment == "old is drained" else None
    swapping, raised = in_thread(lambda: swappable.swap(lambda: moments.load(2, fails=fails), 60.0))
    if held is None:
        assert moments.reached.wait(60)
    else:
        wait_until(lambda: first._closed, 30, "the swap to wait for the reply")
    closing, failed = in_thread(lambda: swappable.close(60.0 if patient else 0.05))
    wait_until(lambda: swappable._is_closed, 30, "the close")
    with pytest.raises(EngineBusy):
        swappable.generate(TALK, session="b")
    if not patient:
        closing.join(60)
        assert not closing.is_alive()
    moments.goes_on.set()
    if held is not None:
        held.all()
    for thread in (swapping, closing):
        thread.join(60)
        assert not thread.is_alive()
    assert failed == []
    assert len(raised) == 1
    assert isinstance(raised[0], EngineError)
    assert [one.is_closed for one in moments.engines] == [True] * len(moments.engines)
    assert [one.live for one in moments.engines] == [0] * len(moments.engines)
    with pytest.raises(EngineBusy, match="closed"):
        swappable.generate(TALK)
    with pytest.raises(EngineBusy, match="closed"):
        swappable.swap(lambda: moments.load(3))
    swappable.close()


def test_a_close_waits_for_a_reply_no_longer_than_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lix_cache.kv.local_model._NOTICE_SECONDS", 0.1)
    engine = ToyEngine(serial=False)
    model = LocalModel(engine, KvStore(tmp_path), fewest_tokens=8)
    model.generate(TALK, session="done", max_tokens=5).all()
    held = model.generate(TALK, session="held", max_tokens=50)
    next(held)
    waiting, raised = in_thread(lambda: model.generate(TALK, session="held", max_tokens=5))
    wait_until(lambda: len(model._running) == 2, 30, "the other to wait")
    closing, _ = in_thread(lambda: model.close(seconds=0.2))
    closing.join(60)
    assert not closing.is_alive()
    waiting.join(60)
    assert isinstance(raised[0], EngineError)
    assert model.counters["lost_sessions"] == 1, "the other is on disk"
    held.close()
    assert engine.live == 0
    assert model._memory.all() == []


def test_one_who_waits_for_its_turn_hears_that_the_model_was_closed(tmp_path: Path) -> None:
    engine = ToyEngine(serial=True)
    model = LocalModel(engine, KvStore(tmp_path), fewest_tokens=8)
    held = model.generate(TALK, session="held", max_tokens=50)
    waiting, raised = in_thread(lambda: model.generate(TALK, session="other", max_tokens=5))
    wait_until(lambda: len(model._running) == 2, 30, "the other to wait")
    closing, _ = in_thread(lambda: model.close(seconds=60))
    wait_until(lambda: model._is_over, 30, "the close")
    held.close()
    for thread in (waiting, closing):
        thread.join(60)
        assert not thread.is_alive()
    assert isinstance(raised[0], EngineError)
    assert engine.live == 0
