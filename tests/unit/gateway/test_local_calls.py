"""Calls of tools in what a model writes, however it is cut; and calls that must be made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache.gateway.errors import Refused
from lix_cache.gateway.local.answering import Begun, Whose, answering
from lix_cache.gateway.local.asking import asked_of
from lix_cache.gateway.local.calls import Call, CallReader, with_tools_as_text
from lix_cache.gateway.local.forced import forced_call
from lix_cache.gateway.local.saying import Ended, merged_texts
from lix_cache.kv.engine import Halt, Made
from lix_cache.kv.reply import Reply, Usage

NAMES = frozenset({"weather", "time"})
CALL = '{"name": "weather", "arguments": {"city": "Bern"}}'
TOLD = Call("weather", '{"city":"Bern"}')


def read(pieces: Sequence[str], names: frozenset[str] = NAMES) -> list[str | Call]:
    reader = CallReader(names)
    found: list[str | Call] = [one for piece in pieces for one in reader.feed(piece)]
    return merged_texts([*found, *reader.finish()])


CASES = [
    ("Hello there.", ["Hello there."]),
    (f"<tool_call>\n{CALL}\n</tool_call>", [TOLD]),
    (f"I look.\n<tool_call>{CALL}</tool_call>", ["I look.", TOLD]),
    (f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", [TOLD, TOLD]),
    (f"<tool_call>{CALL}</tool_call> Done.", [TOLD, "Done."]),
    (f"<tool_call>{CALL}", [TOLD]),
    (CALL, [TOLD]),
    (f"  [{CALL}, {CALL}]", [TOLD, TOLD]),
    (f"[TOOL_CALLS] [{CALL}]", [TOLD]),
    ('<|python_tag|>{"name": "time", "parameters": {}}', [Call("time", "{}")]),
    ("a < b and <tool_ca", ["a < b and <tool_ca"]),
    ('{"name": "other", "arguments": {}}', ['{"name": "other", "arguments": {}}']),
    ("{not json", ["{not json"]),
    ("[1, 2]", ["[1, 2]"]),
    ("<tool_call>nonsense</tool_call> x", ["<tool_call>nonsense</tool_call> x"]),
    (f"text first {CALL}", [f"text first {CALL}"]),
    ("<b>bold</b>", ["<b>bold</b>"]),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_calls_are_found_however_the_text_is_cut(text: str, expected: list[Any]) -> None:
    assert read([text]) == expected
    assert read(list(text)) == expected
    for at in range(len(text)):
        assert read([text[:at], text[at:]]) == expected


def test_without_tools_all_is_text_at_once() -> None:
    reader = CallReader(frozenset())
    assert list(reader.feed("{")) == ["{"]
    assert read([CALL], frozenset()) == [CALL]


def test_text_before_a_call_is_not_held_back() -> None:
    reader = CallReader(NAMES)
    assert list(reader.feed("The weather, ")) == ["The weather,"]
    assert list(reader.feed("now <tool")) == [" now"]


def test_a_template_without_tools_is_told_in_words() -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    call = {"id": "1", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "Rain."},
    ]
    told = with_tools_as_text(messages, [tool])
    assert [one["role"] for one in told] == ["system", "user", "assistant", "user"]
    assert '"name":"weather"' in told[0]["content"]
    assert read([told[2]["content"]]) == [TOLD]
    assert told[3]["content"] == "<tool_response>Rain.</tool_response>"
    with_system = with_tools_as_text([{"role": "system", "content": "Be brief."}, *messages], [tool])
    assert with_system[0]["content"].startswith("Be brief.\n\nTools")
    assert with_tools_as_text(messages[:1], []) == messages[:1]


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 5, "minLength": 2},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "warm": {"type": "boolean"},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "kind": {"enum": [3, 4]},
        "places": {"type": "array", "items": {"$ref": "#/$defs/place"}, "minItems": 2},
        "either": {"anyOf": [{"type": ["null", "number"]}, {"type": "string"}]},
        "nothing": {"type": "null"},
        "fixed": {"const": {"a": 1}},
        "deep": {"properties": {"x": {"$ref": "#/$defs/place"}}},
        "optional": {"type": "string"},
        "empty": {"type": "array", "maxItems": 0},
    },
    "required": [
        *("city", "days", "warm", "unit", "kind", "places", "either", "nothing", "fixed", "deep", "empty")
    ],
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}}},
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}},
]


def check(call: Call, text: str) -> None:
    assert read([text]) == [call], "what was written is the call"
    if call.name == "time":
        assert call.arguments == "{}"
        return
    made = json.loads(call.arguments)
    assert set(made) == set(SCHEMA["required"])
    assert 2 <= len(made["city"]) <= 5
    assert isinstance(made["days"], int)
    assert 1 <= made["days"] <= 7
    assert isinstance(made["warm"], bool)
    assert made["unit"] in ("celsius", "fahrenheit")
    assert (made["kind"], made["nothing"], made["fixed"], made["empty"]) == (3, None, {"a": 1}, [])
    assert [set(one) for one in made["places"]] == [{"x"}, {"x"}]
    assert isinstance(made["either"], float)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=12))
def test_a_forced_call_is_valid_whatever_the_model_says(said: list[str]) -> None:
    asked: list[str] = []

    def complete(written: str, stops: Sequence[str], most: int | None) -> str:
        assert stops
        assert most != 0
        asked.append(written)
        text = said[len(asked) % len(said)]
        for stop in stops:
            text = text.partition(stop)[0]
        return text

    check(*forced_call(TOOLS, complete))


def test_a_forced_call_has_what_the_model_says() -> None:
    answers = {
        '"name": "': "weather",
        '"city": "': "Bern",
        '"days": ': " 3",
        '"warm": ': "true",
        '"unit": "': "fahr",
    }

    def complete(written: str, stops: Sequence[str], most: int | None) -> str:
        return next((text for end, text in answers.items() if written.endswith(end)), "")

    call, _ = forced_call(TOOLS, complete)
    made = json.loads(call.arguments)
    assert (made["city"], made["days"], made["warm"], made["unit"]) == ("Bern", 3, True, "fahrenheit")


def test_a_schema_that_refers_to_itself_ends() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "v": {"type": "string"}}}
    schema = {"type": "object", "properties": {"all": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}
    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert isinstance(filled(schema), dict)
    for one in (loop, {"type": "object", "properties": {"x": loop}, **loop}):
        with pytest.raises(Refused, match="refer"):
            filled(one)


def filled(schema: dict[str, Any], said: str = "x") -> Any:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    return json.loads(forced_call([tool], lambda *_: said)[0].arguments)


def filled_one(schema: Any, said: str = "x") -> Any:
    return filled({"type": "object", "properties": {"n": schema}, "required": ["n"]}, said)["n"]


@pytest.mark.parametrize(
    ("schema", "said", "made"),
    [
        ({"type": "integer", "minimum": 5.5}, "5", 6),
        ({"type": "integer", "exclusiveMinimum": 0}, "-3", 1),
        ({"type": "integer", "exclusiveMinimum": 0.5}, "0", 1),
        ({"type": "integer", "exclusiveMaximum": 0}, "4", -1),
        ({"type": "integer", "maximum": -1.5}, "4", -2),
        ({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, "0", 4),
        ({"type": "integer", "minimum": (1 << 63) - 1}, "0", (1 << 63) - 1),
        ({"minimum": 2}, "1", 2),
        ({"type": "string", "minLength": 200, "maxLength": 200}, "\ufffd" * 9, " " * 200),
        ({"type": "array", "minItems": 20, "items": {"type": "null"}}, "", [None] * 20),
        ({"type": "object", "required": ["x"]}, "y", {"x": "y"}),
        ({"type": "object", "required": ["x"], "additionalProperties": {"type": "null"}}, "y", {"x": None}),
        ({"enum": [1, "a"], "type": "string"}, "", "a"),
        ({"anyOf": [{"minimum": 3}], "type": "integer", "title": "t"}, "1", 3),
        (True, "y", "y"),
    ],
)
def test_a_forced_value_keeps_its_schema(schema: Any, said: str, made: Any) -> None:
    assert filled_one(schema, said) == made


def test_a_number_is_beyond_a_limit_that_is_excluded() -> None:
    assert filled_one({"type": "number", "exclusiveMinimum": 0}, "0") > 0
    assert filled_one({"type": "number", "exclusiveMaximum": 0}, "0") < 0


def written_by(answers: Sequence[str]) -> Any:
    """Return a model that writes these, one after the other, as far as it is let."""
    left = iter(answers)

    def complete(written: str, stops: Sequence[str], most: int | None) -> str:
        text = next(left, "")
        return text[: min(text.find(stop) % (len(text) + 1) for stop in stops)]

    return complete


def function(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_a_tool_whose_name_begins_with_another_ones_is_not_called_for_it() -> None:
    tools = [function("get_weather_forecast"), function("get_weather")]
    for said in ("get_weather", "get_weather_forecast"):
        assert forced_call(tools, written_by([f'{said}", "arguments"']))[0].name == said
    assert forced_call(tools, written_by(["get_w"]))[0].name == "get_weather"


@pytest.mark.parametrize(
    ("schema", "said", "made"),
    [
        ({"enum": ["small iced", "small"]}, 'small"}', "small"),
        ({"type": "integer", "enum": [8, 12, 16]}, "16}", 16),
        ({"type": ["string", "null"], "enum": ["latte", "mocha", None]}, '"mocha"}', "mocha"),
        ({"enum": ["latte", None]}, " null}", None),
        ({"enum": [True, False]}, "false,", False),
        ({"type": "integer", "enum": [1, 5], "minimum": 3}, "1}", 5),
        ({"type": "string", "enum": ["a", "bbbb"], "minLength": 2}, 'a"', "bbbb"),
        ({"const": 2, "enum": [1, 2]}, "1}", 2),
    ],
)
def test_the_model_picks_among_values_that_are_listed(schema: Any, said: str, made: Any) -> None:
    found = json.loads(forced_call([function("f", n=schema)], written_by([said]))[0].arguments)["n"]
    assert (found, type(found)) == (made, type(made))


@pytest.mark.parametrize(
    ("schema", "said", "made"),
    [
        ({"type": "string"}, ["He said \\", "hi\\", ' and\\nleft"}'], 'He said "hi" and\nleft'),
        ({"type": "string"}, ['caf\\u00e9"}'], "café"),
        ({"type": "string"}, ['C:\\\\"}'], "C:\\"),
        ({"type": "string"}, ['no \\q escape"}'], "no \\q escape"),
        ({"type": "string"}, ["w " * 500 + '"'], "w " * 500),
        ({"type": "integer"}, ["1234567890123456789012}"], 1234567890123456789012),
        ({"type": "integer"}, ["+5}"], 5),
        ({"type": "integer"}, ['"7"}'], 7),
        ({"type": "integer"}, ["1e3}"], 1000),
        ({"type": "number"}, ["6.02e23}"], 6.02e23),
        ({"type": "number"}, ["1.5e-3}"], 1.5e-3),
        ({"type": "number"}, [".5}"], 0.5),
        ({"type": "number"}, ["1e999}"], 1.7976931348623157e308),
    ],
)
def test_a_forced_value_is_what_the_model_wrote(schema: Any, said: list[str], made: Any) -> None:
    call, text = forced_call([function("f", n=schema)], written_by(said))
    assert json.loads(call.arguments) == {"n": made}
    assert read([text], frozenset({"f"})) == [call]


def test_a_text_has_all_tokens_that_are_left() -> None:
    limits: list[int | None] = []

    def complete(written: str, stops: Sequence[str], most: int | None) -> str:
        limits.append(most)
        return "x"

    forced_call([function("f", n={"type": "string"}, m={"type": "string", "maxLength": 9})], complete)
    assert limits == [None, 36]


ONE_OF = [
    {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]},
    {"type": "object", "properties": {"kind": {"enum": ["b", "c"]}}, "required": ["kind"]},
]


def test_of_one_of_the_first_is_taken_where_no_value_fits_two() -> None:
    assert filled_one({"oneOf": ONE_OF}) == {"kind": "a"}
    assert filled_one({"oneOf": [{"type": "string"}, {"type": "null"}]}) == "x"


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"oneOf": [{"minimum": 1}, {"type": "string"}]}, "oneOf"),
        ({"oneOf": [ONE_OF[0], {"type": "object"}]}, "oneOf"),
        ({"enum": [1, 2], "minimum": 3}, "limits"),
        ({"const": 1, "enum": [2]}, "limits"),
        ({"const": {"a": 1}, "required": ["b"]}, "required"),
        ({"allOf": [{"minLength": 3}], "const": "a"}, "limits"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"type": "integer", "minimum": 1e30}, "64 bits"),
        ({"type": "integer", "minimum": 5.2, "maximum": 5.8}, "empty"),
        ({"type": "number", "minimum": "1"}, "minimum"),
        ({"type": "number", "multipleOf": 3}, "multipleOf"),
        ({"type": "string", "minLength": 70000}, "minLength"),
        ({"type": "string", "minLength": 2, "maxLength": 1}, "minLength"),
        ({"type": "array", "minItems": 1000}, "minItems"),
        ({"type": "array", "minItems": 2, "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "minItems": 1, "items": False}, "no object"),
        ({"type": "object", "required": [{}]}, "required"),
        ({"type": "object", "required": ["x"], "additionalProperties": False}, "no object"),
        ({"type": "object", "properties": [1]}, "properties"),
        ({"type": "text"}, "type"),
        ({"type": [{}]}, "type"),
        ({"type": "integer", "enum": ["a"]}, "enum"),
        ({"enum": []}, "enum"),
        ({"$ref": "#/$defs/none"}, "ref"),
        ({"$ref": 5}, "ref"),
        ({"allOf": [{"type": "string"}, {"minLength": 2}]}, "allOf"),
        ({"anyOf": []}, "anyOf"),
        ({"not": {"type": "string"}}, "not"),
        (False, "no object"),
    ],
)
def test_what_a_forced_call_cannot_honour_is_refused_before_anything_is_made(schema: Any, named: str) -> None:
    parameters = {"type": "object", "properties": {"n": schema}, "required": ["n"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [tool], "tool_choice": "required"}
    with pytest.raises(Refused, match=named) as raised:
        asked_of("chat", body)
    assert raised.value.status == 400
    # A call that need not be made may have any schema.
    asked_of("chat", {**body, "tool_choice": "auto"})


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(("fields", "count"), [({}, 2), ({"parallel_tool_calls": False}, 1)])
def test_where_one_call_is_the_most_the_answer_ends_with_it(fields: dict[str, Any], count: int) -> None:
    pieces = ["Well. ", *(2 * ['<tool_call>{"name": "f", "arguments": {}}', "</tool_call>"])]
    made = iter([Made([number], piece) for number, piece in enumerate(pieces)])
    reply = Reply("s", Usage(9, 0, 0), None, made, (), lambda _: None)
    model: Any = SimpleNamespace(
        generate=lambda *_, **__: reply,
        engine=SimpleNamespace(context_tokens=99),
        fingerprint=SimpleNamespace(hex="m"),
    )
    tool = {"type": "function", "function": {"name": "f"}}
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [tool], **fields}
    begun, *said, ended = answering(model, True, asked_of("chat", body), Whose("", None), Halt())
    assert isinstance(begun, Begun)
    assert said == ["Well.", *(count * [Call("f", "{}")])]
    assert isinstance(ended, Ended)
    assert ended.reason == "tool_calls"
    assert reply.count == (3 if count == 1 else 5), "what follows is not made"
