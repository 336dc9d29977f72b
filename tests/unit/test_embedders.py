"""What every embedder promises, the lexical one, and embedding beside the caller."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache import ConfigError, Embedder, EmbedderError, EmbedderUnavailable, HashingEmbedder, InvalidInput
from lix_cache import aembed as off_the_loop
from lix_cache.daemon import Crew
from lix_cache.embedders import running
from lix_cache.embedders.process import PerProcess
from lix_cache.embedders.protocol import encodable, unit_rows
from lix_cache.embedders.running import embed_within
from tests.support.forks import Child

ROOT = Path(__file__).resolve().parents[2]


class Scripted:
    """An embedder that does what a test says."""

    id, dim = "scripted", 2

    def __init__(self, work: Callable[[], Any] = lambda: None) -> None:
        self.work = work
        self.threads: list[str] = []

    def __repr__(self) -> str:
        return "Scripted()"

    def embed(self, texts: Sequence[str]) -> Any:
        self.threads.append(threading.current_thread().name)
        self.work()
        return np.full((len(texts), 2), 0.5**0.5, dtype=np.float32)


# -- the lexical embedder ------------------------------------------------------------------


def likeness(one: str, two: str, dim: int = 384) -> float:
    vectors = HashingEmbedder(dim).embed([one, two])
    return float(vectors[0] @ vectors[1])


def test_the_hashing_embedder_says_that_it_is_lexical() -> None:
    embedder = HashingEmbedder(64)
    assert isinstance(embedder, Embedder)
    assert embedder.id == "lexical-hashing-1:64"
    assert embedder.dim == 64
    assert "lexical" in (HashingEmbedder.__doc__ or "").lower()
    assert repr(embedder) == "HashingEmbedder(dim=64)"


def test_almost_the_same_words_are_near_and_other_words_are_far() -> None:
    assert likeness("How do I export my notes?", "how do i EXPORT my notes") == pytest.approx(1, abs=1e-6)
    assert likeness("How do I export my notes?", "How can I export my notes?") > 0.7
    assert likeness("How do I export my notes?", "What does the free plan include?") < 0.4
    # What makes it lexical and not semantic.
    assert likeness("car", "automobile") < 0.3


@pytest.mark.parametrize(
    ("one", "two", "other"),
    [
        ("怎么重置密码？", "怎么重置我的密码？", "今天天气很好"),
        ("パスワードを忘れました", "パスワードを忘れた", "天気はどうですか"),
        ("비밀번호를 잊어버렸어요", "비밀번호를 잊었어요", "날씨가 좋네요"),
        ("как сбросить пароль", "как мне сбросить пароль", "какая сегодня погода"),
        ("كيف أعيد تعيين كلمة المرور", "كيف أعيد كلمة المرور", "الطقس جميل اليوم"),
        ("ลืมรหัสผ่าน", "ฉันลืมรหัสผ่าน", "วันนี้อากาศดี"),
    ],
    ids=["zh", "ja", "ko", "ru", "ar", "th"],
)
def test_likeness_works_in_several_scripts(one: str, two: str, other: str) -> None:
    assert likeness(one, two) > 0.5
    assert likeness(one, other) < likeness(one, two) - 0.2


@given(st.lists(st.text()), st.integers(8, 300))
def test_every_text_has_a_vector_of_length_one_that_its_neighbours_do_not_change(
    texts: list[str], dim: int
) -> None:
    embedder = HashingEmbedder(dim)
    vectors = embedder.embed(texts)
    assert (vectors.shape, vectors.dtype) == ((len(texts), dim), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for text, vector in zip(texts, vectors, strict=True):
        assert np.array_equal(embedder.embed([text])[0], vector)


def test_lexical_vectors_are_the_same_in_every_process() -> None:
    # Python's own hash changes with every process; a cached vector must not.
    code = "from lix_cache import *; print(HashingEmbedder(64).embed(['stable 稳'])[0].tobytes().hex())"
    printed = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"},
        capture_output=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert printed.decode().strip() == HashingEmbedder(64).embed(["stable 稳"])[0].tobytes().hex()


@pytest.mark.parametrize("dim", [0, 7, 65537, 10.0, "many"])
def test_a_dimension_out_of_range_is_refused(dim: Any) -> None:
    with pytest.raises(ConfigError, match="dim"):
        HashingEmbedder(dim)


# -- what all of them share ----------------------------------------------------------------


@pytest.mark.parametrize("texts", ["one text", b"bytes", 5, None, {"a": 1}, ["a", 2], ["a", None]])
def test_what_is_not_a_list_of_texts_is_refused(texts: Any) -> None:
    with pytest.raises(InvalidInput, match="str"):
        HashingEmbedder().embed(texts)


def test_surrogates_are_replaced_and_everything_else_is_kept() -> None:
    assert encodable("a\ud800b") == "a?b"
    assert encodable("naïve 稳 😀") == "naïve 稳 😀"


def test_rows_of_any_size_are_brought_to_length_one() -> None:
    rows = unit_rows([[3.0, 4.0], [1e300, 0.0], [0.0, 1e-300]], 3, 2, "it")
    assert rows.dtype == np.float32
    assert rows == pytest.approx(np.array([[0.6, 0.8], [1, 0], [0, 1]]))
    assert unit_rows(np.empty((0, 3)), 0, 3, "it").shape == (0, 3)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([[1.0, 2.0]], "shape"),
        ([1.0, 2.0], "shape"),
        ([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], "3 numbers"),
        ([[1.0, float("nan")], [1.0, 2.0]], "finite"),
        ([[0.0, 0.0], [1.0, 2.0]], "zeros"),
        ([[1.0], [1.0, 2.0]], "rows of numbers"),
        ([["a", "b"], ["c", "d"]], "rows of numbers"),
        (np.empty((2, 0)), "shape"),
    ],
)
def test_what_is_no_vector_is_an_error_and_never_an_answer(rows: Any, reason: str) -> None:
    with pytest.raises(EmbedderError, match=reason):
        unit_rows(rows, 2, 2, "it")


# -- beside the caller ---------------------------------------------------------------------


def test_an_embedder_within_its_time_answers() -> None:
    embedder = Scripted()
    assert embed_within(embedder, ["a", "b"], 5).shape == (2, 2)
    assert embed_within(embedder, ["a"], None).shape == (1, 2)
    assert embedder.threads == ["lix-cache-model", "MainThread"]


def test_an_embedder_that_hangs_is_given_up_and_does_not_keep_the_process() -> None:
    hung = threading.Event()
    with pytest.raises(EmbedderUnavailable, match=r"Scripted\(\) did not answer within 0.05 s"):
        embed_within(Scripted(hung.wait), ["a"], 0.05)
    thread = next(t for t in threading.enumerate() if t.name == "lix-cache-model")
    assert thread.daemon
    hung.set()
    thread.join(5)


@pytest.mark.parametrize("error", [EmbedderError("broken"), TimeoutError("its own"), KeyError("k")])
def test_what_an_embedder_raises_is_raised(error: Exception) -> None:
    def fail() -> None:
        raise error

    for call in (
        lambda: embed_within(Scripted(fail), ["a"], 5),
        lambda: asyncio.run(off_the_loop(Scripted(fail), ["a"])),
    ):
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value.args == error.args  # asyncio makes a new one of a TimeoutError


def test_stop_iteration_from_an_embedder_stops_nothing_else() -> None:
    def fail() -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(off_the_loop(Scripted(fail), ["a"], 5))
    with pytest.raises(RuntimeError, match="StopIteration"):
        embed_within(Scripted(fail), ["a"], 5)


def test_the_event_loop_goes_on_while_an_embedder_works() -> None:
    go_on = threading.Event()

    async def main() -> int:
        embedding = asyncio.ensure_future(off_the_loop(Scripted(go_on.wait), ["a"]))
        turns = 0
        while turns < 10:
            await asyncio.sleep(0.001)
            turns += 1
        assert not embedding.done()
        go_on.set()
        assert (await embedding).shape == (1, 2)
        return turns

    assert asyncio.run(main()) == 10


def test_an_embedder_that_hangs_is_given_up_by_the_loop_too() -> None:
    hung = threading.Event()

    async def main() -> None:
        with pytest.raises(EmbedderUnavailable, match=r"within 0\.05 s"):
            await off_the_loop(Scripted(hung.wait), ["a"], 0.05)
        cancelled = asyncio.ensure_future(off_the_loop(Scripted(hung.wait), ["a"]))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    asyncio.run(main())
    hung.set()


def test_embedders_that_hang_cannot_fill_the_process_with_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_crew", Crew(2))
    hung = threading.Event()
    for _ in range(2):
        with pytest.raises(EmbedderUnavailable, match="within"):
            embed_within(Scripted(hung.wait), ["a"], 0.01)
    with pytest.raises(EmbedderUnavailable, match="2 such calls are under way"):
        embed_within(Scripted(), ["a"], 5)
    # A child has none of these threads, and all places.
    with Child(lambda report: report("n", len(embed_within(Scripted(), ["a"], 5)))) as child:
        assert child.records() == [("n", 1)]
        assert child.wait() == 0
    hung.set()


def test_a_place_is_free_again_after_each_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_crew", Crew(1))
    for _ in range(20):
        embed_within(Scripted(), ["a"], 5)

    def no_thread(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(EmbedderUnavailable, match="gives no thread"):
            embed_within(Scripted(), ["a"], 5)
    assert embed_within(Scripted(), ["a"], 5).shape == (1, 2)


# -- once in each process ------------------------------------------------------------------


def test_a_value_is_made_once_by_the_first_caller() -> None:
    made: list[int] = []

    def make() -> object:
        time.sleep(0.02)
        made.append(1)
        return object()

    value = PerProcess(make)
    got: list[object] = []
    threads = [threading.Thread(target=lambda: got.append(value())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(got), len(set(map(id, got)))) == (1, 8, 1)


def test_a_failure_to_make_it_is_not_kept() -> None:
    attempts: list[int] = []

    def make() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise EmbedderError("not yet")
        return "made"

    value = PerProcess(make)
    with pytest.raises(EmbedderError):
        value()
    assert value() == "made"


def test_a_child_makes_its_own_even_if_the_lock_was_held_at_the_fork() -> None:
    value = PerProcess(os.getpid)
    assert value() == os.getpid()
    held, let_go = threading.Event(), threading.Event()

    def make() -> int:
        if not let_go.is_set():
            held.set()
            let_go.wait(10)
        return os.getpid()

    slow = PerProcess(make)
    thread = threading.Thread(target=slow)
    thread.start()
    held.wait(10)

    def work(report: Any) -> None:
        let_go.set()
        report("a", value() == os.getpid())
        report("b", slow() == os.getpid())

    with Child(work) as child:
        assert child.records() == [("a", 1), ("b", 1)]
        assert child.wait() == 0
    let_go.set()
    thread.join(10)
    assert value() == os.getpid()


def test_a_childs_copy_of_the_parents_value_is_never_destroyed() -> None:
    """Its destructor would wait for threads that are not there."""

    class Precious:
        def __del__(self) -> None:
            if os.getpid() != parent:
                os.write(write, b"destroyed")

    parent = os.getpid()
    read, write = os.pipe()
    value = PerProcess(Precious)
    value()

    def work(report: Any) -> None:
        value.forget()
        report("x", 1)

    with Child(work) as child:
        assert child.records() == [("x", 1)]
        assert child.wait() == 0
    os.close(write)
    assert os.read(read, 100) == b""
    os.close(read)


def test_what_is_forgotten_is_made_anew_and_the_old_one_kept_from_destruction() -> None:
    destroyed: list[int] = []

    class Precious:
        def __del__(self) -> None:
            destroyed.append(1)

    value = PerProcess(Precious)
    first = id(value())
    value.forget()
    assert destroyed == []
    assert id(value()) != first
    value.forget()
    value.forget()
    assert destroyed == []
