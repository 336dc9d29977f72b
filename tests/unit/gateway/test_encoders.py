"""Records in fewer tokens: nothing is lost, and nothing else is touched."""

from __future__ import annotations

import copy
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lix_cache.errors import ConfigError
from lix_cache.gateway import encoders
from lix_cache.gateway.encoders import Columns, Encoding, Toon, estimate_tokens

pytestmark = pytest.mark.promise("right-answer")

UNIFORM = [
    {"id": i, "name": f"customer {i}", "city": ["Berlin", "Paris"][i % 2], "total": i * 1.25}
    for i in range(40)
]
RAGGED = [
    {
        key: value
        for number, (key, value) in enumerate({"id": i, "name": "n", "note": f"a b {i}", "tag": "t"}.items())
        if number == 0 or (i * 7 + number * 3) % 5 > 1
    }
    for i in range(60)
]
AS_JSON = json.dumps(UNIFORM, separators=(",", ":"))
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.sampled_from(["", "columns", "rows", "absent", "- a", "a: b", "null", "1", "\n", "[2]"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "b", "columns", "rows", "absent", "x y", ""]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


def both() -> Encoding:
    pytest.importorskip("toon_format")
    return Encoding()


def read(text: str) -> Any:
    try:
        return Columns().decode(text)
    except ValueError:
        return Toon().decode(text)


def test_records_are_written_in_fewer_tokens_and_read_back() -> None:
    encoding = both()
    for value in (UNIFORM, {"found": 40, "items": UNIFORM}, RAGGED):
        found = encoding.of_text(json.dumps(value))
        assert found is not None
        text, saved = found
        assert read(text) == value
        assert saved >= 0.15 * estimate_tokens(json.dumps(value))


def test_ragged_records_are_not_written_as_toon() -> None:
    """It names each field of each record, on a line of its own."""
    text = json.dumps(RAGGED, separators=(",", ":"))
    assert estimate_tokens(Toon().encode(RAGGED) or "") > estimate_tokens(text)
    found = both().of_text(text)
    assert found is not None
    assert "columns" in json.loads(found[0])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        AS_JSON[:-1],
        AS_JSON + "\nand more",
        "see: " + AS_JSON,
        json.dumps({"text": "words " * 100}),
        '[{"a": 1, "a": 2}, {"a": 3}]' + " " * 300,
        "[" * 5000 + "]" * 5000,
        '[{"a": NaN}, {"a": 1}]' + " " * 300,
        "x" * 1000,
        "[" + "1," * 100_000 + "1]",
    ],
)
def test_what_is_no_json_or_gains_nothing_stays(text: str) -> None:
    assert both().of_text(text) is None


@settings(max_examples=300)
@given(PLAIN)
def test_every_encoder_reads_back_what_it_wrote_or_is_not_used(value: Any) -> None:
    encoding = Encoding(("toon", "columns"), least_saving=-math.inf)
    text = json.dumps(value) + " " * 200
    found = encoding.of_text(text)
    if found is not None:
        assert json.loads(json.dumps(read(found[0]))) == value


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), PLAIN, min_size=1), min_size=2, max_size=6))
def test_columns_keep_gaps_and_empty_texts_apart(records: list[Any]) -> None:
    columns = Columns()
    # Data that looks like columns, or has empty objects, is what the check is for; all else comes back.
    if "rows" not in json.dumps(records) and "{}" not in json.dumps(records):
        assert columns.decode(columns.encode(records) or "") == records


CHAT = {
    "model": "m",
    "messages": [
        {"role": "system", "content": AS_JSON},
        {"role": "user", "content": AS_JSON},
        {"role": "user", "content": [{"type": "text", "text": AS_JSON}, {"type": "text", "text": AS_JSON}]},
        {"role": "assistant", "content": AS_JSON, "tool_calls": [{"function": {"arguments": AS_JSON}}]},
        {"role": "tool", "tool_call_id": "1", "content": AS_JSON},
        {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": AS_JSON}]},
    ],
}
SAID = {"type": "input_text", "text": AS_JSON}
RESPONSES = {
    "instructions": AS_JSON,
    "input": [
        {"role": "user", "content": AS_JSON},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": AS_JSON}]},
        {"type": "function_call", "call_id": "1", "arguments": AS_JSON},
        {"type": "function_call_output", "call_id": "1", "output": AS_JSON},
        {
            "type": "custom_tool_call_output",
            "call_id": "2",
            "output": [{"type": "input_text", "text": AS_JSON}],
        },
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": AS_JSON},
                {"type": "input_text", "text": "what is it?"},
            ],
        },
    ],
}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": AS_JSON}}
MESSAGES = {
    "system": [{"type": "text", "text": AS_JSON}],
    "messages": [
        {"role": "user", "content": AS_JSON},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": AS_JSON}, {"type": "tool_use", "input": {}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": AS_JSON},
                {"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": AS_JSON}]},
                DOCUMENT,
                {**DOCUMENT, "citations": {"enabled": True}},
                {"type": "text", "text": AS_JSON, "cache_control": {"type": "ephemeral"}},
            ],
        },
    ],
}


def changed_places(before: Any, after: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        return [one for key in before for one in changed_places(before[key], after[key], (*path, key))]
    if isinstance(before, list):
        assert len(before) == len(after)
        return [one for i in range(len(before)) for one in changed_places(before[i], after[i], (*path, i))]
    return [] if before == after else [path]


@pytest.mark.parametrize(
    ("protocol", "request_", "places"),
    [
        (
            "chat",
            CHAT,
            [
                ("messages", 2, "content", 0, "text"),
                ("messages", 4, "content"),
                ("messages", 5, "content", 0, "text"),
            ],
        ),
        (
            "responses",
            RESPONSES,
            [("input", 3, "output"), ("input", 4, "output", 0, "text"), ("input", 5, "content", 0, "text")],
        ),
        (
            "messages",
            MESSAGES,
            [
                ("messages", 2, "content", 0, "content"),
                ("messages", 2, "content", 1, "content", 0, "text"),
                ("messages", 2, "content", 2, "source", "data"),
            ],
        ),
    ],
)
def test_only_tools_and_documents_are_encoded_never_what_was_said(
    protocol: str, request_: dict[str, Any], places: list[Any]
) -> None:
    before = copy.deepcopy(request_)
    found = both().of_request(protocol, request_)
    assert request_ == before, "the client's own request is left as it is"
    assert changed_places(before, found.request) == places
    assert found.texts == len(places)
    assert found.saved_tokens > 0
    again = both().of_request(protocol, found.request)
    assert (again.request, again.texts) == (found.request, 0), "what is encoded is not encoded again"


@pytest.mark.promise("bad-bytes")
@given(PLAIN, st.sampled_from(["chat", "responses", "messages", "embeddings"]))
def test_any_request(value: Any, protocol: str) -> None:
    request = {"messages": value, "input": [{"role": "user", "content": value}, value]}
    found = Encoding(("columns",)).of_request(protocol, request)
    assert found.texts == 0
    assert found.request is request


def test_the_key_names_what_was_written_and_in_which_version() -> None:
    assert both().part_of_key == f"encoding:{Toon().name}+columns-1"
    assert re.fullmatch(r"toon-\d+\.\d+", Toon().name), "of the specification"
    assert Encoding(("columns",)).part_of_key == "encoding:columns-1"


@pytest.mark.promise("no-stall")
def test_a_text_that_would_take_long_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    encoding = both()
    for encoder in encoding._encoders:
        monkeypatch.setattr(
            encoder, "encode", lambda value, limit=encoder.longest: tried.append(limit), raising=False
        )
    for characters in (10_000, 40_000, 150_000):
        encoding.of_text(AS_JSON.ljust(characters))
    assert tried == [20_000, 50_000, 50_000]


def test_there_is_no_such_encoder() -> None:
    with pytest.raises(ConfigError, match="columns, toon"):
        Encoding(("yaml",))


@pytest.mark.parametrize(
    "number", ["0.123456789012345678", "1e400", "-1e999", "1e-400", "123456789.1234567891"]
)
def test_a_number_that_would_go_out_rounded_keeps_its_text(number: str) -> None:
    text = AS_JSON.replace(f"{UNIFORM[3]['total']},", "", 1).replace('"total":1.25', f'"total":{number}')
    assert number in text
    assert both().of_text(text) is None
    assert both().of_text(text.replace(number, "1.0e1")) is not None


def test_of_a_large_request_the_begin_is_encoded_and_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "_MOST_OF_REQUEST", 3 * len(AS_JSON) + 10)
    turns = [{"role": "tool", "content": "no records"}, *[{"role": "tool", "content": AS_JSON}] * 5]
    encoding, before = both(), None
    for count in range(1, len(turns) + 1):
        sent = encoding.of_request("chat", {"messages": turns[:count]}).request["messages"]
        assert before is None or sent[: count - 1] == before, "a provider finds its prefix again"
        before = sent
    assert [turn["content"] == AS_JSON for turn in before or ()] == [False] * 4 + [True] * 2


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lix_cache.gateway.encoders._REMEMBERED", 5 * len(AS_JSON))
    encoding = Encoding(("columns",))
    for i in range(20):
        assert encoding.of_text(AS_JSON.replace("Berlin", f"Berl{i:02}")) is not None
    assert len(encoding._seen) <= 5
    assert encoding._seen_size == sum(map(len, encoding._seen)) <= 5 * len(AS_JSON)


def test_the_estimate_counts_as_tokenizers_do() -> None:
    """Counted by cl100k, o200k, Claude's and DeepSeek's tokenizers: between 10 and 12."""
    assert 9 <= estimate_tokens('{"id":12,"name":"Ada Lovelace"}') <= 13
    assert estimate_tokens("") == 0
    assert estimate_tokens("世界") >= 1
