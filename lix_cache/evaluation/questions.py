"""Questions whose right answer is known: what calibration and evaluation are made of. Pure.

They come from a log of the application (each question with the id of its right answer) or from
labelled pairs (two texts, and whether one answer fits both). Both become the same: a stream of
questions in the order in which they were asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lix_cache.errors import InvalidInput

__all__ = ["Labelled", "Question", "questions_from_log", "questions_from_pairs"]


@dataclass(frozen=True)
class Question:
    """A question and its right answer.

    Attributes:
        text: the question.
        answer: names the right answer; equal names mean the same answer.
        scope: questions of different scopes never meet, as in the cache.
        group: class of the scope; each class may get thresholds of its own.
        reply: a response in its own words, where one was written for this question alone; empty: the
            answer's name stands for the response.
    """

    text: str
    answer: str
    scope: str = ""
    group: str = ""
    reply: str = ""


@dataclass(frozen=True)
class Labelled:
    """Questions, and what could not be used.

    Attributes:
        questions: in the order of the source.
        left_out: why records were left out, and how many.
    """

    questions: tuple[Question, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


def questions_from_log(records: Iterable[tuple[str, Mapping[str, Any]]]) -> Labelled:
    """Read a log of ``{"query", "answer_id", "scope", "group", "hit", "right"}``.

    Only the first two are needed, and go by the names ``text`` and ``intent`` as well. A ``reply`` is
    the response that a model wrote for the question.

    A hit tells what was served, not what would have been right, so it counts only with
    ``"right": true``. What is marked ``"right": false`` has an unknown right answer and is left out.

    Args:
        records: each with the place it comes from, for errors.

    Raises:
        InvalidInput: a field is missing or of another type; the text names the place.
    """
    questions, left_out = [], Counter[str]()
    for where, record in records:
        right, hit = record.get("right"), record.get("hit", False)
        if right not in (None, True, False) or hit not in (True, False):
            raise InvalidInput(f"{where}: 'right' and 'hit' are true or false")
        question = Question(
            _text(record, where, "query", "text"),
            _name(record, where, "answer_id", "intent"),
            _optional(record, where, "scope"),
            _optional(record, where, "group"),
            _optional(record, where, "reply"),
        )
        if right is False:
            left_out["marked as wrong"] += 1
        elif hit and right is None:
            left_out["unconfirmed hits"] += 1
        else:
            questions.append(question)
    return Labelled(tuple(questions), dict(left_out))


def questions_from_pairs(records: Iterable[tuple[str, Mapping[str, Any]]]) -> Labelled:
    """Read pairs: ``{"a", "b", "label", "scope", "group"}``; label 1: one answer fits both, 0: it does not.

    Texts that are joined by pairs of label 1, over any number of steps, have one answer; all
    others answer differently. A pair of label 0 whose texts are still joined contradicts
    the others: it is left out and counted.

    Args:
        records: each with the place it comes from, for errors.

    Raises:
        InvalidInput: a field is missing or of another type; the text names the place.
    """
    parents: dict[tuple[str, str], tuple[str, str]] = {}
    groups: dict[tuple[str, str], str] = {}
    apart = []
    for where, record in records:
        scope, group = _optional(record, where, "scope"), _optional(record, where, "group")
        a, b = ((scope, _text(record, where, side)) for side in ("a", "b"))
        for node in (a, b):
            parents.setdefault(node, node)
            groups.setdefault(node, group)
        label = record.get("label")
        if label not in (0, 1):
            raise InvalidInput(f"{where}: 'label' is 1 (the same answer) or 0")
        if label:
            parents[_root(parents, b)] = _root(parents, a)
        else:
            apart.append((a, b))
    names: dict[tuple[str, str], str] = {}
    questions = []
    for node in parents:
        answer = names.setdefault(_root(parents, node), f"answer {len(names) + 1}")
        questions.append(Question(node[1], answer, node[0], groups[node]))
    contradictions = sum(_root(parents, a) == _root(parents, b) for a, b in apart)
    return Labelled(
        tuple(questions), {"pairs that contradict others": contradictions} if contradictions else {}
    )


def _root(parents: dict[tuple[str, str], tuple[str, str]], node: tuple[str, str]) -> tuple[str, str]:
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


def _text(record: Mapping[str, Any], where: str, *names: str) -> str:
    for name in names:
        if name in record:
            value = record[name]
            if not isinstance(value, str) or not value.strip():
                raise InvalidInput(f"{where}: {name!r} must be text that is not empty")
            return value
    raise InvalidInput(
        f"{where}: no {' or '.join(map(repr, names))}; docs/calibration.md says what a line may be"
    )


def _name(record: Mapping[str, Any], where: str, *names: str) -> str:
    """Return an id: text, or a whole number as text."""
    for name in names:
        value = record.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return _text(record, where, *names)


def _optional(record: Mapping[str, Any], where: str, name: str) -> str:
    value = record.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{where}: {name!r} must be text")
    return value or ""
