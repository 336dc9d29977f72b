"""Calls side by side: every result in its place, and no call left running."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest

from lix_cache.storage.parallel import side_by_side


@pytest.mark.parametrize("helpers", [0, 1, 3, 20])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_results_come_in_the_order_of_the_calls(count: int, helpers: int) -> None:
    assert side_by_side([partial(pow, i, 2) for i in range(count)], helpers) == [i * i for i in range(count)]


def test_calls_wait_side_by_side() -> None:
    # Each waits for all of them, so that they must run at once to come to an end.
    barrier = threading.Barrier(4, timeout=20)
    assert sorted(side_by_side([barrier.wait] * 4, 3)) == [0, 1, 2, 3]


def test_the_first_failure_is_raised_when_the_calls_that_had_begun_are_done() -> None:
    begun, go, ended = threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        assert go.wait(20)
        ended.append("slow")

    def failing() -> None:
        assert begun.wait(20)
        go.set()
        raise KeyboardInterrupt

    later: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        side_by_side([slow, failing, *[partial(later.append, i) for i in range(100)]], 1)
    assert ended == ["slow"]
    for thread in threading.enumerate():
        if thread.name == "lix-cache-sync":
            thread.join(20)
            assert not thread.is_alive()


def test_where_no_thread_is_to_be_had_the_caller_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert side_by_side([threading.get_ident] * 5, 3) == [threading.get_ident()] * 5


@pytest.mark.promise("no-loss")
def test_what_interrupts_the_caller_is_raised_though_a_helper_failed_before() -> None:
    begun, has_helper = threading.Event(), threading.Event()
    main, helper = threading.current_thread(), []

    def call() -> None:
        if threading.current_thread() is main:
            begun.set()
            assert has_helper.wait(20)
            helper[0].join(20)
            raise KeyboardInterrupt
        helper.append(threading.current_thread())
        has_helper.set()
        assert begun.wait(20)
        raise OSError

    with pytest.raises(KeyboardInterrupt):
        side_by_side([call, call], 1)


@pytest.mark.parametrize("handled", [None, KeyError("the application's own")])
def test_without_a_free_thread_the_work_is_done_here(
    handled: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, "_start_new_thread", refuse)
    monkeypatch.setattr(threading, "_start_joinable_thread", refuse, raising=False)

    def both() -> list[int]:
        return side_by_side([lambda: 1, lambda: 2], 3)

    if handled is None:
        assert both() == [1, 2]
        return
    try:
        raise handled
    except KeyError:
        # What is handled around it is no interruption of it.
        assert both() == [1, 2]
