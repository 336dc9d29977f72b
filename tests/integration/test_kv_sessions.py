"""Many sessions, many threads: nothing is mixed up, nothing hangs, nothing is left behind."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from lix_cache._log import logger
from lix_cache.errors import EngineError, KvBusy
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.store import KvStore
from lix_cache.kv.swap import SwappableModel
from tests.support.kv import open_files
from tests.support.kv_engine import ToyEngine

SYSTEM = {"role": "system", "content": "You take orders at a coffee bar. " * 20}


def talk(number: int, turns: int = 1) -> list[dict[str, Any]]:
    return [SYSTEM, *({"role": "user", "content": f"Order {number}, turn {turn}."} for turn in range(turns))]


def expected(messages: list[dict[str, Any]], most: int = 20) -> str:
    return LocalModel(ToyEngine()).generate(messages, max_tokens=most).all()


@pytest.mark.slow
@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("exports", ["blocks", "snapshots"])
def test_a_thousand_sessions_leave_nothing_open(exports: Any, count: int, tmp_path: Path) -> None:
    engine = ToyEngine(exports, most_live=8)
    # Fewer sessions than there are: some of them are evicted.
    budget = 3_000 * count
    model = LocalModel(engine, KvStore(tmp_path, budget_bytes=budget), fewest_tokens=8)
    for number in range(20):
        model.generate(talk(number), session=f"s{number}", max_tokens=5).all()
    gc.collect()
    files, threads = open_files(tmp_path), threading.active_count()
    maps = _maps(tmp_path)
    for number in range(20, count):
        reply = model.generate(talk(number), session=f"s{number}", max_tokens=5)
        if number % 3:
            reply.all()
        else:
            next(reply, None)
            del reply
        if number % 50 == 0:
            assert model.flush() > 0
    gc.collect()
    assert engine.live == model.stats()["live_sessions"] <= 8
    assert open_files(tmp_path) <= files
    assert threading.active_count() <= threads  # those of other tests may end
    assert _maps(tmp_path) <= maps + 2
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= budget
    model.close()
    assert engine.live == 0
    # The system prompt is there once.
    system = [one for one in model._store.catalogue().files.values() if len(one.sessions) > 5]  # type: ignore[union-attr]
    assert system


def _maps(folder: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(folder))


@pytest.mark.parametrize("serial", [True, False])
@pytest.mark.parametrize("exports", ["blocks", "snapshots"])
def test_threads_get_their_own_replies_and_none_waits_for_ever(
    exports: Any, serial: bool, tmp_path: Path
) -> None:
    engine = ToyEngine(exports, most_live=12, serial=serial)
    model = LocalModel(engine, KvStore(tmp_path, budget_bytes=400_000), fewest_tokens=8, memory_bytes=30_000)
    model.start(interval=0.01)
    wrong: list[Any] = []

    def work(seed: int) -> None:
        try:
            for turn in range(1, 9):
                # Two threads share each session.
                messages = talk(seed // 2, turn)
                reply = model.generate(messages, session=f"s{seed // 2}", tenant="t", max_tokens=20)
                if turn % 4 == 3:
                    reply.close()
                elif reply.all() != expected(messages):
                    wrong.append(messages)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    model.close()
    assert engine.live == 0


def test_a_reply_may_end_in_another_thread(tmp_path: Path) -> None:
    model = LocalModel(ToyEngine(), KvStore(tmp_path))
    reply = model.generate(talk(1), session="s", max_tokens=20)
    next(reply)
    thread = threading.Thread(target=reply.all)
    thread.start()
    thread.join(30)
    assert reply.text == expected(talk(1))
    assert model.generate(talk(1), session="s", max_tokens=20).all() == reply.text


def test_two_models_share_a_store(tmp_path: Path) -> None:
    """Another store finds what this one wrote, and neither finds or brings back what the other forgot."""
    one, two = (LocalModel(ToyEngine(), KvStore(tmp_path), fewest_tokens=8) for _ in range(2))
    one.generate(talk(1), session="s", tenant="t", max_tokens=5).all()
    one.flush()
    reply = two.generate(talk(1), session="s", tenant="t", max_tokens=5)
    reply.all()
    assert reply.usage.source == "disk"
    other = two.generate(talk(2), session="u", tenant="t", max_tokens=5)
    other.all()
    assert other.usage.cached_tokens > 600
    one.generate(talk(3), session="s", tenant="t", max_tokens=5).all()  # not written yet
    two.forget("t")
    one.close()
    assert not list(tmp_path.rglob("*.safetensors"))
    fresh = LocalModel(ToyEngine(), KvStore(tmp_path)).generate(
        talk(2), session="u", tenant="t", max_tokens=5
    )
    fresh.all()
    assert fresh.usage.cached_tokens == 0


# -- prompts without a session, and what is said of them -------------------------------


@pytest.mark.parametrize(("exports", "cuts"), [("blocks", True), ("snapshots", True), ("snapshots", False)])
@pytest.mark.parametrize("most", [1, 4])
def test_without_a_session_a_prompt_goes_on_from_what_a_named_one_has_in_memory(
    exports: Any, cuts: bool, most: int
) -> None:
    model = LocalModel(ToyEngine(exports, most_live=most, cuts=cuts))
    first = model.generate(talk(1), session="sess-A", tenant="t", max_tokens=9)
    messages = [*talk(1), {"role": "assistant", "content": first.all()}, {"role": "user", "content": "And?"}]
    second = model.generate(messages, session="sess-A", tenant="t", max_tokens=9)
    messages += [{"role": "assistant", "content": second.all()}, {"role": "user", "content": "That is all."}]
    reply = model.generate(messages, tenant="t", max_tokens=9)
    assert reply.all() == expected(messages, 9)
    assert reply.session.startswith("auto-")
    if cuts:  # else only a whole state can be copied, and the text that comes back ends otherwise
        assert reply.usage.source == "memory"
        assert reply.usage.cached_tokens > second.usage.prompt_tokens
    if most > 1:  # the session has what it had
        again = model.generate(messages, session="sess-A", tenant="t", max_tokens=9)
        assert again.all() == reply.text
        assert again.usage.source == "memory"


@pytest.mark.promise("isolation")
def test_without_a_session_nothing_of_another_tenant_in_memory_is_found() -> None:
    model = LocalModel(ToyEngine())
    model.generate(talk(1), session="s", tenant="ann", max_tokens=9).all()
    reply = model.generate(talk(1, 2), tenant="bob", max_tokens=9)
    assert reply.all() == expected(talk(1, 2), 9)
    assert (reply.usage.cached_tokens, reply.usage.source, reply.miss) == (0, "none", None)


@pytest.mark.parametrize("is_restarted", [True, False])
def test_what_differs_is_behind_what_was_found(is_restarted: bool, tmp_path: Path) -> None:
    """A session whose own system prompt has changed goes on from another one's: that is compared."""
    store = KvStore(tmp_path)
    model = LocalModel(ToyEngine(), store)
    model.generate([{"role": "system", "content": "Old."}, *talk(1)], session="mine", max_tokens=5).all()
    model.generate(talk(2), session="other", max_tokens=5).all()
    model.flush()
    if is_restarted:
        model = LocalModel(ToyEngine(), store)
    reply = model.generate(talk(3), session="mine", max_tokens=5)
    assert reply.all() == expected(talk(3), 5)
    assert reply.usage.source == "disk"
    assert reply.miss is not None
    assert reply.miss.session == "other"
    assert reply.miss.token > reply.usage.cached_tokens > 256
    assert reply.miss.part == "message 2 (user)"


# -- exchanging the model --------------------------------------------------------------


def test_a_model_is_exchanged_and_its_sessions_resume_when_it_comes_back(tmp_path: Path) -> None:
    def load(weights: int) -> Any:
        return lambda: LocalModel(ToyEngine(weights=weights), KvStore(tmp_path), fewest_tokens=8)

    serving = SwappableModel(load(1))
    first = serving.generate(talk(1), session="s", max_tokens=20).all()
    old = serving.model
    serving.swap(load(2))
    assert old.engine.live == 0  # type: ignore[attr-defined]
    other = serving.generate(talk(1), session="s", max_tokens=20)
    assert other.all() == LocalModel(ToyEngine(weights=2)).generate(talk(1), max_tokens=20).all() != first
    assert other.usage.cached_tokens == 0
    serving.swap(load(1))
    back = serving.generate(talk(1), session="s", max_tokens=20)
    assert (back.all(), back.usage.source) == (first, "disk")
    serving.close()
    with pytest.raises(EngineError):
        serving.generate(talk(1))


def test_a_model_that_cannot_be_loaded_leaves_the_old_one(tmp_path: Path) -> None:
    serving = SwappableModel(lambda: LocalModel(ToyEngine(), KvStore(tmp_path), fewest_tokens=8))
    first = serving.generate(talk(1), session="s", max_tokens=20).all()

    def broken() -> LocalModel:
        with pytest.raises(EngineError, match="loaded"):
            serving.generate(talk(1))
        with pytest.raises(KvBusy):
            serving.swap(broken)
        raise EngineError("no such file")

    with pytest.raises(EngineError, match="no such file"):
        serving.swap(broken)
    back = serving.generate(talk(1), session="s", max_tokens=20)
    assert (back.all(), back.usage.source) == (first, "disk")


def test_a_swap_waits_for_replies_and_gives_up(tmp_path: Path) -> None:
    serving = SwappableModel(lambda: LocalModel(ToyEngine(), KvStore(tmp_path)))
    reply = serving.generate(talk(1), session="s", max_tokens=20)
    next(reply)
    with pytest.raises(KvBusy, match="longer"):
        serving.swap(lambda: LocalModel(ToyEngine(weights=2)), drain_seconds=0.05)
    assert reply.all() == expected(talk(1))
    assert serving.generate(talk(2), session="t", max_tokens=20).all() == expected(talk(2))
    serving.swap(lambda: LocalModel(ToyEngine(weights=2)), drain_seconds=5)
    assert serving.model.engine.live == 0  # type: ignore[attr-defined]


def test_a_failed_models_memory_goes_before_the_old_one_is_loaded_again(tmp_path: Path) -> None:
    held: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def old() -> LocalModel:
        alive.append(sum(one() is not None for one in held))
        return LocalModel(ToyEngine(weights=1), KvStore(tmp_path))

    def read() -> ToyEngine:
        engine = ToyEngine(weights=2)
        # Models are circles.
        engine.itself = engine  # type: ignore[attr-defined]
        held.append(weakref.ref(engine))
        raise ValueError("of the last shard")

    def new() -> LocalModel:
        weights = ToyEngine(weights=3)
        held.append(weakref.ref(weights))
        try:
            return LocalModel(read(), KvStore(tmp_path))
        except ValueError as error:
            raise EngineError("cannot be loaded") from error

    serving = SwappableModel(old)
    with pytest.raises(EngineError, match="cannot be loaded"):
        serving.swap(new)
    assert (len(held), alive) == (2, [0, 0])
    assert serving.generate([1, 2, 3], max_tokens=2).all()
    serving.close()


def test_a_tenant_for_which_there_is_no_room_is_named_in_the_log_once(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    logger.enable("lix_cache")
    sink = logger.add(said.append, format="{message}")
    try:
        model = LocalModel(ToyEngine(), KvStore(tmp_path, quotas={"small": 1}), fewest_tokens=8)
        for session in ("one", "two"):
            model.generate(talk(1), session=session, tenant="small", max_tokens=20).all()
            model.generate(talk(1), session=session, tenant="large", max_tokens=20).all()
            model.flush()
        assert model.stats()["store_left_out"] >= 2
        model.close(0)
    finally:
        logger.remove(sink)
        logger.disable("lix_cache")
    told = [line for line in said if "no room" in line]
    assert len(told) == 1
    assert "small" in told[0]
