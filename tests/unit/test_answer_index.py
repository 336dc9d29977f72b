"""The packed index of a scope: as new as the news, whatever their order, and bounded in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lix_cache.errors import RedisCommandError
from lix_cache.hot import entries
from lix_cache.hot.found import Empty, Everything, News, Place
from lix_cache.semantic.index import ScopeIndex, View
from lix_cache.semantic.index_pool import IndexBudget, IndexPool

DIM = 4
EMPTY = Place(b"", b"0-0", b"0-0")
NOW = 1000.0


def record(n: int, *, expires: int = 9_000, axis: int = 0, answer: int | None = None) -> list[Any]:
    """Return a record of the log, as a script answers it."""
    packed = entries.pack_record(
        nonce=b"%08d" % n,
        group=b"%08d" % n,
        text=f"text {n}",
        vector=np.eye(DIM, dtype=np.float32)[axis],
        answer=None if answer is None else np.eye(DIM, dtype=np.float32)[answer],
    )
    return [b"%d-0" % n, [b"record", b"%015d%015d" % (expires, 0) + packed]]


def dropped(place: int, n: int) -> list[Any]:
    return [b"%d-0" % place, b"%d-0" % n]


def follow(index: ScopeIndex, kind: str, news: list[Any], now: float, asked: Place) -> View | None:
    if kind == "empty":
        return index.follow(Empty(now, frozenset()), asked)
    if kind == "news":
        return index.follow(News(now, frozenset(), False, *news), asked)
    generation, rows, place = news
    return index.follow(Everything(now, frozenset(), False, rows, generation, place), asked)


def texts(index: ScopeIndex, now: float = NOW) -> list[str]:
    view = index.view()
    similarities = view.similarities(np.eye(DIM, dtype=np.float32)[0], now)
    return [r.text for r, cosine in zip(view.records, similarities, strict=False) if np.isfinite(cosine)]


def test_news_are_taken_in_once_whatever_their_order() -> None:
    index = ScopeIndex(DIM)
    follow(index, "all", [b"g", [record(1), record(2)], b"0-0"], NOW, index.place)
    follow(index, "news", [[record(3), record(5)], []], NOW, index.place)
    # Two other threads had asked before these came.
    follow(index, "news", [[record(3)], []], NOW, index.place)
    follow(index, "news", [[record(3), record(5)], [dropped(9, 2)]], NOW, index.place)
    follow(index, "news", [[], [dropped(9, 2)]], NOW, index.place)
    assert texts(index) == ["text 1", "text 3", "text 5"]
    assert index.place == (b"g", b"5-0", b"9-0")


def test_numbers_are_compared_as_numbers() -> None:
    index = ScopeIndex(DIM)
    follow(index, "all", [b"g", [record(9)], b"0-0"], NOW, index.place)
    follow(index, "news", [[record(10)], []], NOW, index.place)
    assert texts(index) == ["text 9", "text 10"]


def test_another_generation_replaces_everything() -> None:
    index = ScopeIndex(DIM)
    follow(index, "all", [b"g", [record(1)], b"3-0"], NOW, index.place)
    follow(index, "all", [b"h", [record(7)], b"0-0"], NOW, index.place)
    assert texts(index) == ["text 7"]
    follow(index, "empty", [], NOW, index.place)
    assert texts(index) == []
    assert index.place == (b"", b"0-0", b"0-0")


def test_an_older_answer_of_the_same_generation_replaces_nothing() -> None:
    index = ScopeIndex(DIM)
    follow(index, "all", [b"g", [record(1), record(2)], b"8-0"], NOW, EMPTY)
    follow(index, "all", [b"g", [record(1)], b"7-0"], NOW, EMPTY)
    assert texts(index) == ["text 1", "text 2"]


@pytest.mark.promise("right-answer")
def test_news_that_would_leave_a_gap_are_not_taken_in() -> None:
    index = ScopeIndex(DIM)
    follow(index, "all", [b"g", [record(n) for n in range(1, 5)], b"0-0"], NOW, EMPTY)
    asked = index.place
    # Another thread begins anew, with a first page that ends before that place.
    follow(index, "all", [b"h", [record(1)], b"0-0"], NOW, asked)
    follow(index, "all", [b"g", [record(1)], b"0-0"], NOW, index.place)
    assert follow(index, "news", [[record(5)], []], NOW, asked) is None
    assert texts(index) == ["text 1"]
    follow(index, "news", [[record(n) for n in range(2, 6)], []], NOW, index.place)
    assert texts(index) == [f"text {n}" for n in range(1, 6)]


@pytest.mark.promise("right-answer")
def test_what_another_thread_brought_and_is_gone_by_now_is_asked_for_again() -> None:
    index = ScopeIndex(DIM)
    follow(index, "all", [b"g", [record(1), record(2)], b"0-0"], NOW, EMPTY)
    # Asked at the same time and answered later: 2 was dropped in between, of which this answer says nothing.
    assert follow(index, "all", [b"g", [record(1), record(3)], b"9-0"], NOW, EMPTY) is None
    follow(index, "news", [[], [dropped(9, 2)]], NOW, index.place)
    assert texts(index) == ["text 1", "text 3"]


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("kind", ["all", "news"])
def test_what_is_gone_does_not_come_back_with_an_older_answer(kind: str) -> None:
    index = ScopeIndex(DIM)
    asked = EMPTY
    if kind == "news":
        follow(index, "all", [b"g", [record(1)], b"0-0"], NOW, EMPTY)
        asked = index.place
    # Of two who asked at once the later answer comes first: by then 2 was stored and dropped again.
    if kind == "news":
        follow(index, "news", [[], [dropped(9, 2)]], NOW, asked)
        older: list[Any] = [[record(2)], []]
    else:
        follow(index, "all", [b"g", [record(1)], b"9-0"], NOW, asked)
        older = [b"g", [record(1), record(2)], b"0-0"]
    assert follow(index, kind, older, NOW, asked) is None
    assert texts(index) == ["text 1"]
    follow(index, "news", [[record(3)], []], NOW, index.place)
    assert texts(index) == ["text 1", "text 3"]


def test_what_has_expired_is_not_seen() -> None:
    index = ScopeIndex(DIM)
    follow(index, "all", [b"g", [record(1, expires=2_000), record(2)], b"0-0"], NOW, index.place)
    assert texts(index, 1_999.0) == ["text 1", "text 2"]
    assert texts(index, 2_000.0) == ["text 2"]


def test_a_search_gives_the_cosines_of_the_living_and_of_no_other() -> None:
    index = ScopeIndex(DIM)
    rows = [record(i, axis=i % 4, expires=500 if i % 3 == 0 else 9_000) for i in range(1, 13)]
    view = follow(index, "all", [b"g", rows, b"0-0"], NOW, index.place)
    assert view is not None
    similarities = view.similarities(np.eye(DIM, dtype=np.float32)[1], NOW)
    wanted = [(1.0 if i % 4 == 1 else 0.0) if i % 3 else -np.inf for i in range(1, 13)]
    assert similarities.tolist() == wanted


def test_a_view_does_not_change_with_later_news() -> None:
    index = ScopeIndex(DIM)
    view = follow(index, "all", [b"g", [record(1), record(2, axis=1)], b"0-0"], NOW, index.place)
    for n in range(3, 60):
        follow(index, "news", [[record(n)], []], NOW, index.place)
    assert view.vectors.tolist() == np.eye(DIM)[:2].tolist()
    assert len(view.groups) == 2


def test_the_dead_are_let_go_of_once_they_are_many() -> None:
    index = ScopeIndex(DIM)
    follow(index, "all", [b"g", [record(n) for n in range(1, 101)], b"0-0"], NOW, index.place)
    before = index.nbytes
    view = follow(index, "news", [[], [dropped(n, n) for n in range(1, 91)]], NOW, index.place)
    assert len(index) == 10
    assert index.nbytes < before / 5
    assert [r.text for r in view.records] == [f"text {n}" for n in range(91, 101)]
    follow(index, "news", [[record(101)], [dropped(200, 95)]], NOW, index.place)
    assert texts(index) == [f"text {n}" for n in [*range(91, 95), *range(96, 102)]]


def test_the_vectors_of_answers_stand_beside_those_of_queries() -> None:
    index = ScopeIndex(DIM)
    assert follow(index, "all", [b"g", [record(1)], b"0-0"], NOW, index.place).answers is None
    view = follow(index, "news", [[record(2, answer=3), record(3)], []], NOW, index.place)
    assert view.answers is not None
    assert view.answers.tolist() == [[0] * 4, [0, 0, 0, 1], [0] * 4]
    follow(index, "news", [[record(n, answer=1) for n in range(4, 60)], []], NOW, index.place)
    answers = index.view().answers
    assert answers is not None
    assert answers[1].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("kind", "news"),
    [
        ("news", [[[b"1-0"]], []]),
        ("news", [[[b"x", [b"record", b""]]], []]),
        ("news", [[[b"1-0", [b"record", b"short"]]], []]),
        ("news", [[], [[b"1-0"]]]),
        ("news", [[], [[b"x", b"1-0"]]]),
        ("news", [[], [[b"1", None]]]),
        ("all", [b"g", [[b"1-0", [b"record", b"\xff" * 90]]], b"0-0"]),
    ],
)
def test_news_that_is_not_ours_are_refused(kind: str, news: list[Any]) -> None:
    with pytest.raises(RedisCommandError, match="foreign data"):
        follow(ScopeIndex(DIM), kind, news, NOW, EMPTY)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 3e38, 0.0, 1.1])
def test_a_vector_that_is_not_of_length_one_is_refused(number: float) -> None:
    index = ScopeIndex(DIM)
    follow(index, "all", [b"g", [record(1)], b"0-0"], NOW, index.place)
    vector = np.array([number, 0, 0, 0], np.float32)
    packed = entries.pack_record(nonce=b"t" * 8, group=b"c" * 8, text="x", vector=vector)
    wrong = [b"2-0", [b"record", b"%015d%015d" % (9_000, 0) + packed]]
    for _ in range(2):  # and stays refused
        with pytest.raises(RedisCommandError, match="foreign data"):
            follow(index, "news", [[wrong], []], NOW, index.place)
    assert texts(index) == ["text 1"]


def test_an_entry_without_a_vector_is_passed_over() -> None:
    index = ScopeIndex(DIM)
    packed = entries.pack_record(nonce=b"t" * 8, group=b"c" * 8, text="x", vector=np.empty(0, np.float32))
    follow(
        index,
        "all",
        [b"g", [[b"1-0", [b"record", b"%015d%015d" % (9_000, 0) + packed]]], b"0-0"],
        NOW,
        index.place,
    )
    follow(index, "news", [[record(2)], [dropped(1, 1)]], NOW, index.place)
    assert texts(index) == ["text 2"]


def test_the_pool_keeps_the_scopes_used_last_within_its_limit() -> None:
    pool = IndexPool(40_000, IndexBudget())
    for scope in "abcdefgh":
        index = pool.get(scope, DIM)
        follow(index, "all", [b"g", [record(n) for n in range(1, 21)], b"0-0"], NOW, index.place)
        pool.settle(scope)
        pool.get("a", DIM)
    assert 0 < pool.nbytes <= 40_000
    assert len(pool) < 8
    assert len(pool.get("a", DIM)) == 20
    assert len(pool.get("b", DIM)) == 0


def test_the_index_in_use_is_kept_even_if_it_is_too_large() -> None:
    pool = IndexPool(10, IndexBudget())
    follow(pool.get("a", DIM), "all", [b"g", [record(1)], b"0-0"], NOW, EMPTY)
    pool.settle("a")
    assert len(pool.get("a", DIM)) == 1
    follow(pool.get("b", DIM), "all", [b"g", [record(1)], b"0-0"], NOW, EMPTY)
    pool.settle("b")
    assert len(pool) == 1
    pool.settle("gone")
    pool.budget.renew_locks()
    assert (len(pool), pool.nbytes) == (0, 0)
