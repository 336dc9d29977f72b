"""The rules for volatile parts: each makes its samples equal, and changes nothing else."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from lix_cache.errors import ConfigError
from lix_cache.gateway.volatile import RULES, normaliser

_BEFORE = ("", "You are a coding agent.\n")
_AFTER = ("", "\nBe brief, and answer by 2026-07-01 at /tmp/x.")


@pytest.mark.parametrize("name", RULES)
def test_a_rule_makes_its_samples_equal(name: str) -> None:
    for one, other in RULES[name].samples:
        assert one != other
        assert RULES[name](one) == RULES[name](other)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("name", RULES)
def test_a_rule_changes_nothing_else(name: str) -> None:
    rule = RULES[name]
    for text in rule.untouched:
        assert rule(text) == text
    for sample, other in rule.samples:
        for before, after in product(_BEFORE, _AFTER):
            # What stands around the part stays, and makes a difference.
            changed = rule(f"{before}{sample}") if name == "git-status" else rule(f"{before}{sample}{after}")
            assert changed.startswith(before)
            assert name == "git-status" or changed.endswith(after)
        marked = rule.pattern.search(sample)
        assert marked is not None
        assert sample[: marked.start()] == other[: marked.start()], "they differ in the part alone"
    for other_name, another in RULES.items():
        if other_name != name:
            for text in (*another.untouched, *(one for pair in another.samples for one in pair)):
                if rule.pattern.search(text):
                    assert other_name in ("date", "cwd"), f"{name} matches a sample of {other_name}"


def test_rules_look_at_prompts_and_the_opening_alone() -> None:
    clean = normaliser(["date"])
    assert clean is not None
    text = "Today's date is 2026-07-01."
    body: dict[str, Any] = {
        "system": [{"type": "text", "text": text}],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": text}, {"type": "tool_result", "content": text}],
            },
            {"role": "assistant", "content": text},
            {"role": "user", "content": text},
        ],
        "tools": [{"description": text}],
    }
    found = clean("messages", body)
    assert found["system"][0]["text"] != text
    assert found["messages"][0]["content"][0]["text"] != text
    assert found["messages"][0]["content"][1]["content"] == text
    assert found["messages"][1:] == body["messages"][1:]
    assert found["tools"] == body["tools"]
    assert body["system"][0]["text"] == text, "the body itself stays"


def test_a_rule_that_is_not_there() -> None:
    assert normaliser([]) is None
    with pytest.raises(ConfigError, match="did you mean 'date'"):
        normaliser(["dates"])


@pytest.mark.parametrize("end", ["", "\n# Next\nDo it.", "\n</system>", "\n<system-reminder>x"])
def test_a_status_of_any_length_is_one_and_takes_no_time(end: str) -> None:
    rule = RULES["git-status"]
    header = "This is the git status at the start of the conversation. N\n"
    for lines in (399, 400, 401, 5000):
        made = {rule(header + "\n".join(f"{mark} file{n}.py" for n in range(lines)) + end) for mark in "MA"}
        assert made == {f"{header}<git-status>{end.lstrip(chr(10))}"}
