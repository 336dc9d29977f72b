"""A cache played through in memory: what would these thresholds have done? Pure.

The game is that of the real cache, online: a hit serves what the cache holds, whether right or
wrong, a miss stores the right answer under the question's words, and mistakes stay in. Only
clock and capacity are left out: nothing expires and nothing is evicted. ``lix-cache eval``
plays the same with the real cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lix_cache.matching.decision import Decision, choose
from lix_cache.matching.thresholds import Thresholds

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lix_cache.evaluation.questions import Question
    from lix_cache.vectors import FloatArray

    IntArray: TypeAlias = npt.NDArray[np.int64]

__all__ = ["ObjectTo", "Step", "new_texts", "play"]

#: What there is against answering the first text with the answer to the second; None: nothing.
ObjectTo: TypeAlias = Callable[[str, str], object | None]

#: Rows of the similarity matrix that are worked out at a time.
_BLOCK = 256


@dataclass(frozen=True)
class Step:
    """What happened to one question.

    Attributes:
        number: which one, counted from 0.
        decision: on the numbers.
        similarities: to what the cache held at that moment, shape (n,); valid until the next step.
        groups: the answer of each of them, shape (n,); valid until the next step.
        answer: the right answer's label.
        is_hit: the cache answered.
        is_wrong: it did, with another answer than the right one.
        is_objected: the nearest entry would not have been allowed to answer.
    """

    number: int
    decision: Decision
    similarities: FloatArray
    groups: IntArray
    answer: int
    is_hit: bool
    is_wrong: bool
    is_objected: bool


def new_texts(questions: Sequence[Question]) -> list[int]:
    """Return the places of the questions that were not asked before in the same words and scope.

    The others are answered by their text, whatever the thresholds.
    """
    first: dict[tuple[str, str], int] = {}
    for number, question in enumerate(questions):
        first.setdefault((question.scope, " ".join(question.text.split())), number)
    return sorted(first.values())


def play(
    questions: Sequence[Question],
    vectors: FloatArray,
    thresholds: Thresholds,
    *,
    object_to: ObjectTo | None = None,
    ask_always: bool = False,
    replies: FloatArray | None = None,
) -> Iterator[Step]:
    """Ask the questions one after another, each in its scope, scope by scope.

    Args:
        questions: in the order in which they were asked.
        vectors: theirs, shape (n, dim), of length 1.
        thresholds: of the cache.
        object_to: the guards; None: no objections.
        ask_always: ask for objections to the nearest entry even where it is not accepted.
        replies: vectors of a response that was written for each question alone, shape (n, dim): no two
            responses are then equal. None: those of one answer are equal, and compared by that.
    """
    scopes: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        scopes.setdefault(question.scope, []).append(number)
    for numbers in scopes.values():
        yield from _play_scope(questions, vectors, numbers, thresholds, object_to, ask_always, replies)


def _play_scope(
    questions: Sequence[Question],
    vectors: FloatArray,
    numbers: list[int],
    thresholds: Thresholds,
    object_to: ObjectTo | None,
    ask_always: bool,
    replies: FloatArray | None,
) -> Iterator[Step]:
    import numpy as np

    labels: dict[str, int] = {}
    answers = [labels.setdefault(questions[number].answer, len(labels)) for number in numbers]
    own = vectors[numbers]
    held = np.empty(len(numbers), dtype=np.int64)  # places in `own`
    serves = np.empty(len(numbers), dtype=np.int64)  # labels of what they answer
    size = 0
    for start in range(0, len(numbers), _BLOCK):
        block = own[start : start + _BLOCK] @ own[: start + _BLOCK].T
        for place in range(start, min(start + _BLOCK, len(numbers))):
            similarities = block[place - start, held[:size]]
            groups = (serves if replies is None else held)[:size]
            said = None if replies is None else replies[[numbers[row] for row in held[:size]]]
            text = questions[numbers[place]].text

            def objection(row: int, text: str = text) -> object | None:
                return object_to and object_to(text, questions[numbers[held[row]]].text)

            choice = choose(similarities, groups, thresholds, objection, answers=said, query=own[place])
            best = choice.decision.best
            served = int(serves[choice.rows[0]]) if choice.rows else None
            objected = choice.objection is not None
            if ask_always and choice.decision.index is None and best is not None:
                objected = objection(best) is not None
            yield Step(
                numbers[place],
                choice.decision,
                similarities,
                groups,
                answers[place],
                served is not None,
                served is not None and served != answers[place],
                objected,
            )
            if served is None:
                held[size] = place
                serves[size] = answers[place]
                size += 1
