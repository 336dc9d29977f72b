"""Responses that get their vectors behind the callers' backs, and long texts in passages."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from lix_cache.embedders.passages import passages
from lix_cache.semantic.response_vectors import Meanings, text_of
from tests.support.meaning import Meanings as Embedder

PROSE = "Open the settings and choose a new password there."


@pytest.mark.parametrize(
    "response",
    [
        PROSE,
        "**Refunds** take 5 to 7 days; tell me the date.",
        "请在设置中选择新的密码并保存更改",
        "It costs $5 (or 4 €).",
    ],
)
def test_prose_is_compared_by_meaning(response: str) -> None:
    assert text_of(response) == response


@pytest.mark.parametrize(
    "response",
    [
        "card_arrival",
        "42",
        "yes",
        "New York City",
        {"text": PROSE},
        PROSE.encode(),
        '{"intent": "refund", "amount": 5, "currency": "EUR"}',
        "SELECT name FROM users WHERE age > 5 AND city = 'Rome'",
        "x = [i ** 2 for i in range(10) if i % 2 == 0]",
    ],
)
def test_labels_data_and_code_are_compared_by_equality(response: Any) -> None:
    assert text_of(response) is None


def test_texts_are_embedded_together_in_one_thread_of_their_own() -> None:
    embedder, troubles = Embedder(), []
    meanings = Meanings(embedder)
    made: list[Any] = []
    embedder.gate.clear()
    for i in range(30):
        meanings.add(f"text {i}", made.append, troubles.append)
    assert made == []  # no caller waited
    embedder.gate.set()
    assert meanings.settle(30)
    assert len(made) == 30
    assert len(embedder.threads) <= 4
    assert threading.current_thread() not in embedder.threads
    assert troubles == []


def test_trouble_is_told_and_the_next_text_is_embedded() -> None:
    embedder, troubles = Embedder(), []
    meanings = Meanings(embedder)
    made: list[Any] = []
    embedder.error = OSError("no such model")
    meanings.add("one", made.append, troubles.append)
    assert meanings.settle(30)
    embedder.error = None
    meanings.add("two", made.append, troubles.append)
    assert meanings.settle(30)
    assert (len(made), len(troubles)) == (1, 1)


def test_a_hung_embedder_holds_no_caller_and_bounded_memory() -> None:
    embedder = Embedder()
    meanings = Meanings(embedder)
    embedder.gate.clear()
    for i in range(5000):
        meanings.add(f"text {i}", lambda vector: None, lambda error: None)
    assert not meanings.settle(0.01)
    assert len(meanings._waiting) <= 1024
    embedder.gate.set()
    meanings.stop()
    meanings.add("late", lambda vector: None, lambda error: None)
    assert meanings.settle(1)


@pytest.mark.promise("no-loss")
def test_without_a_thread_the_text_waits_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    troubles: list[BaseException] = []
    made: list[Any] = []
    meanings = Meanings(Embedder())

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        meanings.add("one", made.append, troubles.append)
        assert not meanings.settle(0)
    assert [str(trouble) for trouble in troubles] == ["can't start new thread"]
    meanings.add("two", made.append, troubles.append)
    assert meanings.settle(30)
    assert len(made) == 2
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        other = Meanings(Embedder())
        other.add("three", made.append, troubles.append)
        other.stop()


def test_passages_hold_the_whole_text_in_order() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 50, 400, 4000):
        words = ["".join(rng.choice(list("abcdefgh"), rng.integers(1, 14))) for _ in range(size)]
        text = " ".join(words)
        parts = passages(text)
        assert "".join(parts) == text
        assert all(len(part.split()) <= 100 for part in parts)
    assert passages("short") == ["short"]
    chinese = "请在设置中选择新的密码" * 40
    assert "".join(passages(chinese)) == chinese
    assert all(len(part) <= 100 for part in passages(chinese))


def test_a_word_without_an_end_is_one_passage() -> None:
    assert passages("a" * 5000) == ["a" * 5000]
