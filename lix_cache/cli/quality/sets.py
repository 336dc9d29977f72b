"""Labelled questions from files and from the evaluation sets, and the part of them that is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Any, TypeVar

from lix_cache import InvalidInput, Pair, Question, questions_from_log
from lix_cache.cli.jsonl import Record, read_records

__all__ = ["HALVES", "SETS", "QuestionSet", "load_set", "records_of", "shared_folder", "some"]

_Item = TypeVar("_Item")

HALVES = ("all", "dev", "heldout")


@dataclass(frozen=True)
class QuestionSet:
    """Questions, or pairs, and what they are called.

    Attributes:
        name: of the set, or of the file.
        questions: with their right answers; empty for a set of pairs.
        pairs: empty for a set of questions.
        available: how many there are before some were chosen.
    """

    name: str
    questions: Sequence[Question]
    pairs: Sequence[Pair]
    available: int


@dataclass(frozen=True)
class _Known:
    """A set of the evaluation data.

    Attributes:
        path: within the data folder.
        has_halves: whether the words of a text alone say which half it is in.
        question: makes a question of a record; None: the set is one of pairs.
    """

    path: str
    has_halves: bool
    question: Callable[[Mapping[str, Any]], Question] | None


def _intent(record: Mapping[str, Any]) -> Question:
    text, intent = record["text"], record["intent"]
    # Whatever is out of scope has an answer of its own, which no other question shares.
    return Question(text, f"oos: {text.lower()}" if intent == "oos" else intent)


def _replied(record: Mapping[str, Any]) -> Question:
    return Question(record["text"], record["intent"], reply=record["reply"])


def _request(record: Mapping[str, Any]) -> Question:
    return Question(record["text"], record["id"])


SETS: Mapping[str, _Known] = {
    "answers": _Known("answers_banking/answers.jsonl", False, _replied),
    "banking77": _Known("intent_banking77/queries.jsonl", True, _intent),
    "clinc150": _Known("intent_clinc150/queries.jsonl", True, _intent),
    "hwu64": _Known("intent_hwu64/queries.jsonl", False, _intent),
    "faq": _Known("faq_robo_en/queries.jsonl", False, _intent),
    "xsid": _Known("intent_xsid_multilingual/queries.jsonl", False, _request),
    "pawsx": _Known("pairs_pawsx/pairs.jsonl", False, None),
}


def shared_folder() -> str | None:
    """Return the folder of evaluation data and models: ``LIX_CACHE_SHARED``, ``shared``, ``../shared``."""
    for folder in (os.environ.get("LIX_CACHE_SHARED"), "shared", os.path.join("..", "shared")):
        if folder and os.path.isdir(folder):
            return folder
    return None


def load_set(
    name: str, data: str | None, *, half: str, count: int, seed: int, languages: Sequence[str]
) -> QuestionSet:
    """Read a set, and choose from it.

    Args:
        name: of a set, or of a JSONL file of ``{"query", "answer_id"}`` or ``{"a", "b", "label"}``.
        data: folder of the sets; by default ``data`` in the shared folder.
        half: ``dev`` or ``heldout``, where a set has them, or ``all``.
        count: at most so many; 0: all.
        seed: says which, and in which order.
        languages: of a set in several; empty: all, but English alone for pairs.

    Raises:
        InvalidInput: there is no such set or half, or a record is not what it should be.
        OSError: a file cannot be read.
    """
    if name in SETS:
        return _known(name, data, half, count, seed, languages)
    if half != "all":
        raise InvalidInput("a file has no halves: --half is for the evaluation sets")
    if not os.path.exists(name):
        raise InvalidInput(f"{name!r} is neither a file nor one of the sets {', '.join(SETS)}")
    records = list(records_of(name))
    if records and "a" in records[0].value:
        pairs = [_pair(record) for record in records]
        return QuestionSet(name, (), some(pairs, count, seed), len(pairs))
    questions = questions_from_log((record.where, record.value) for record in records).questions
    return QuestionSet(name, some(questions, count, seed), (), len(questions))


def _known(
    name: str, data: str | None, half: str, count: int, seed: int, languages: Sequence[str]
) -> QuestionSet:
    known = SETS[name]
    folder = data or shared_folder()
    if folder is None:
        raise InvalidInput(
            f"where is the set {name!r}? Name its folder with --data or LIX_CACHE_SHARED, or a file of your "
            "own with --set"
        )
    below = os.path.join(folder, "data")
    path = os.path.join(below if os.path.isdir(below) else folder, known.path)
    if half != "all" and not known.has_halves:
        raise InvalidInput(f"the halves of {name!r} cannot be told from its texts: use --half all")
    wanted = set(languages) or ({"en"} if known.question is None else set())
    records = [r for r in records_of(path) if not wanted or r.value.get("lang") in wanted]
    try:
        if known.question is None:
            pairs = [_pair(record) for record in records]
            return QuestionSet(name, (), some(pairs, count, seed), len(pairs))
        questions = [known.question(record.value) for record in records]
    except (KeyError, AttributeError) as error:
        raise InvalidInput(f"{path} is not the set {name!r}: {error}") from None
    chosen = [question for question in questions if half in ("all", _half(question.text))]
    if not chosen:
        raise InvalidInput(f"{path} holds no questions of the half {half!r}")
    return QuestionSet(name, some(chosen, count, seed), (), len(chosen))


def records_of(path: str) -> Iterator[Record]:
    """Yield the records of a JSONL file."""
    with open(path, "rb") as file:
        yield from read_records(file, path)


def _pair(record: Record) -> Pair:
    a, b, label = (record.value.get(key) for key in ("a", "b", "label"))
    if not isinstance(a, str) or not isinstance(b, str) or label not in (0, 1):
        raise record.refuse("a pair needs the texts 'a' and 'b' and a 'label' of 1 or 0")
    return Pair(a, b, bool(label))


def _half(text: str) -> str:
    digest = sha256(text.lower().encode("utf-8", "surrogatepass")).digest()
    return "heldout" if digest[-1] & 1 else "dev"


def some(items: Sequence[_Item], count: int, seed: int) -> Sequence[_Item]:
    """Return at most ``count`` of the items (0: all) in an order that the seed decides.

    By hashes, so that it is the same with every version of Python and easy to repeat elsewhere.
    """

    def key(number: int) -> bytes:
        return blake2b(f"{seed} {number}".encode(), digest_size=16).digest()

    order = sorted(range(len(items)), key=key)
    return [items[number] for number in (order[:count] if count else order)]
