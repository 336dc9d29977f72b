"""Logs and pairs become questions with known answers; what cannot be used is counted, never guessed."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from lix_cache.errors import InvalidInput
from lix_cache.evaluation.question_log import QuestionLog
from lix_cache.evaluation.questions import Question, questions_from_log, questions_from_pairs


def placed(*records: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"log, line {number}", record) for number, record in enumerate(records, 1)]


def pair(a: str, b: str, label: Any, **more: Any) -> dict[str, Any]:
    return {"a": a, "b": b, "label": label, **more}


class TestLog:
    def test_a_line_is_a_question_and_its_answer(self) -> None:
        found = questions_from_log(
            placed(
                {"query": "how?", "answer_id": "so", "scope": "s", "group": "g"},
                {"text": "why?", "intent": "because"},
                {"query": "when?", "answer_id": 7},
            )
        )
        assert found.questions == (
            Question("how?", "so", "s", "g"),
            Question("why?", "because"),
            Question("when?", "7"),
        )
        assert found.left_out == {}

    def test_a_hit_counts_only_if_it_was_confirmed(self) -> None:
        found = questions_from_log(
            placed(
                {"query": "a", "answer_id": "1", "hit": True},
                {"query": "b", "answer_id": "1", "hit": True, "right": True},
                {"query": "c", "answer_id": "1", "hit": True, "right": False},
                {"query": "d", "answer_id": "1", "hit": False, "right": None},
            )
        )
        assert [question.text for question in found.questions] == ["b", "d"]
        assert found.left_out == {"unconfirmed hits": 1, "marked as wrong": 1}

    @pytest.mark.parametrize(
        "record",
        [
            {"answer_id": "1"},
            {"query": "a"},
            {"query": 5, "answer_id": "1"},
            {"query": "  ", "answer_id": "1"},
            {"query": "a", "answer_id": True},
            {"query": "a", "answer_id": ""},
            {"query": "a", "answer_id": "1", "hit": "yes"},
            {"query": "a", "answer_id": "1", "right": "yes"},
            {"query": "a", "answer_id": "1", "scope": 3},
        ],
    )
    def test_a_bad_line_is_refused_by_its_place(self, record: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput, match="line 2"):
            questions_from_log(placed({"query": "a", "answer_id": "1"}, record))


class TestPairs:
    def test_texts_joined_over_any_number_of_steps_have_one_answer(self) -> None:
        found = questions_from_pairs(
            placed(pair("a", "b", 1), pair("c", "d", 1), pair("b", "c", 1), pair("a", "x", 0))
        )
        answers = {question.text: question.answer for question in found.questions}
        assert len({answers[text] for text in "abcd"}) == 1
        assert answers["x"] != answers["a"]
        assert [question.text for question in found.questions] == ["a", "b", "c", "d", "x"]

    def test_a_contradiction_is_counted(self) -> None:
        found = questions_from_pairs(placed(pair("a", "b", 1), pair("b", "c", 1), pair("a", "c", 0)))
        assert found.left_out == {"pairs that contradict others": 1}

    def test_equal_texts_in_different_scopes_are_two(self) -> None:
        found = questions_from_pairs(
            placed(pair("a", "b", 1, scope="s"), pair("a", "b", 0, scope="t", group="g"))
        )
        assert [(q.text, q.scope, q.group) for q in found.questions] == [
            ("a", "s", ""),
            ("b", "s", ""),
            ("a", "t", "g"),
            ("b", "t", "g"),
        ]
        answers = [question.answer for question in found.questions]
        assert answers[0] == answers[1]
        assert answers[2] != answers[3]

    @pytest.mark.parametrize("label", [None, 2, "1", 0.5])
    def test_a_label_is_1_or_0(self, label: Any) -> None:
        with pytest.raises(InvalidInput, match="label"):
            questions_from_pairs(placed(pair("a", "b", label)))


class TestQuestionLog:
    def test_what_is_written_can_be_read_for_calibration(self, tmp_path: Path) -> None:
        path = tmp_path / "asked.jsonl"
        with QuestionLog(path) as log:
            log.write("wie?\n", "so", scope="s", group="g")
            log.write("x \ud800", "y", hit=True, right=True)
            log.write("z", "y", hit=True)
        records = [json.loads(line) for line in path.read_bytes().splitlines()]
        found = questions_from_log(placed(*records))
        assert found.questions == (Question("wie?\n", "so", "s", "g"), Question("x \ud800", "y"))
        assert found.left_out == {"unconfirmed hits": 1}

    def test_only_the_owner_can_read_it(self, tmp_path: Path) -> None:
        with QuestionLog(tmp_path / "log") as log:
            assert stat.S_IMODE(os.stat(log.path).st_mode) == 0o600

    def test_lines_of_many_writers_stay_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "log"

        def write(name: str) -> None:
            with QuestionLog(path) as log:
                for number in range(200):
                    log.write(f"{name} {number} " + "x" * 500, name)

        writers = [threading.Thread(target=write, args=(f"w{n}",)) for n in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        records = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert len({record["query"] for record in records}) == 800

    def test_a_second_close_does_nothing(self, tmp_path: Path) -> None:
        log = QuestionLog(tmp_path / "log")
        log.close()
        log.close()

    def test_a_folder_that_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            QuestionLog(tmp_path / "none" / "log")
