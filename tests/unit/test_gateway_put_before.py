"""Turns put into a request's body leave the rest of it as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache.gateway.plain_json import put_before_last

NEW = [{"role": "user", "content": "é"}, {"role": "assistant", "content": '"]}'}]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    before=st.dictionaries(st.text(), VALUES, max_size=3),
    turns=st.lists(VALUES, min_size=1) | st.text(),
    after=st.dictionaries(st.text(), VALUES, max_size=3),
    indent=st.sampled_from([None, 0, 3]),
    is_ascii=st.booleans(),
)
def test_only_the_items_are_new(
    before: dict[str, Any], turns: Any, after: dict[str, Any], indent: int | None, is_ascii: bool
) -> None:
    body = {**before, "input": turns}
    body.update((name, value) for name, value in after.items() if name != "input")
    body["input"] = turns
    # Half characters can only be written as escapes.
    text = json.dumps(body, indent=indent, ensure_ascii=is_ascii).encode("utf-8", "replace")
    body = json.loads(text)
    found = json.loads(put_before_last(text, "input", NEW))
    said = body["input"]
    said = [{"role": "user", "content": said}] if isinstance(said, str) else said
    assert found == {**body, "input": [*said[:-1], *NEW, said[-1]]}


@pytest.mark.parametrize(
    "number", ["1e400", "1e-400", "-0.0", "1.10", "0.30000000000000000001", "9" * 30, "1" * 5000]
)
def test_numbers_and_escapes_stay_as_they_came(number: str) -> None:
    start = ' {"x" : %s, "y": "\\u00e9 \\ud800 \\/", "input" : [ {"n": %s} ,' % (number, number)  # noqa: UP031
    end = '{"n":%s}\n] , "z":[%s]}\n' % (number, number)  # noqa: UP031
    new = json.dumps(NEW, ensure_ascii=False, separators=(",", ":"))[1:-1]
    assert put_before_last((start + end).encode(), "input", NEW) == f"{start}{new},{end}".encode()


def test_half_a_character_goes_out_as_its_escape() -> None:
    found = put_before_last(b'{"input":"a"}', "input", [{"content": "\ud800 \u00e9"}])
    assert json.loads(found)["input"][0] == {"content": "\ud800 \u00e9"}
