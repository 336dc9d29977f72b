"""The gateway's key: what belongs to it, what does not, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from lix_cache.gateway.eligibility import Question, bypass_reason, question_of
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.headers import forwarded, read_control, returned
from lix_cache.gateway.request import (
    EXCLUDED,
    Asked,
    Unkeyable,
    account_of,
    betas_of,
    key_of,
    parse,
    stripped,
)

HERE = Asked("t", "", "chat", "p", "a")
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def key(body: Any, place: Asked = HERE) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return key_of(place, parse(data))


@pytest.mark.promise("right-answer")
def test_every_field_but_the_listed_ones_belongs_to_the_key() -> None:
    """Trap: stored under a key that lacks a field (litellm#42400, Lynkr)."""
    base = key(CHAT)
    fields = [
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "n",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "tools",
        "tool_choice",
        "functions",
        "response_format",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "presence_penalty",
        "frequency_penalty",
        "system",
        "thinking",
        "reasoning_effort",
        "modalities",
        "service_tier",
        "verbosity",
        "parallel_tool_calls",
        "prediction",
        "store",
        "new_field",
    ]
    keys = {key({**CHAT, name: 1}) for name in fields}
    assert len(keys | {base}) == len(fields) + 1
    for name in EXCLUDED:
        assert key({**CHAT, name: {"x": 1}}) == base, name


@pytest.mark.promise("isolation")
@pytest.mark.parametrize(
    "other",
    [
        Asked("u", "", "chat", "p", "a"),
        Asked("t", "n", "chat", "p", "a"),
        Asked("t", "", "messages", "p", "a"),
        Asked("t", "", "chat", "q", "a"),
        Asked("t", "", "chat", "p", "b"),
        Asked("t", "", "chat", "p", "a", ("beta",)),
        Asked("t", "", "chat", "p", "a", (), "api-version=2"),
        Asked("t", "", "chat", "p", "a", (), "", ("date",)),
    ],
)
def test_whose_and_where_belongs_to_the_key(other: Asked) -> None:
    assert key(CHAT, HERE) != key(CHAT, other)


@pytest.mark.promise("right-answer")
def test_earlier_turns_system_and_order_belong_to_the_key() -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    keys = {
        key({"model": "m", "messages": messages})
        for messages in (
            turns,
            turns[2:],
            [turns[2], turns[1], turns[0]],
            [{"role": "system", "content": "a"}, *turns],
        )
    }
    assert len(keys) == 4


@pytest.mark.promise("right-answer")
def test_the_order_within_schemas_and_arguments_belongs_to_the_key() -> None:
    one = {"properties": {"reason": {"type": "string"}, "answer": {"type": "string"}}}
    other = {"properties": dict(reversed(one["properties"].items()))}
    format_of = {"type": "json_schema", "json_schema": {"name": "n"}}
    call = {"type": "tool_use", "id": "a", "name": "f"}
    makers: tuple[Callable[[Any], dict[str, Any]], ...] = (
        lambda schema: {"response_format": {**format_of, "json_schema": {"name": "n", "schema": schema}}},
        lambda schema: {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]},
        lambda schema: {"text": {"format": {"type": "json_schema", "schema": schema}}},
        lambda schema: {"guided_json": schema},
        lambda schema: {"messages": [{"role": "assistant", "content": [{**call, "input": schema}]}]},
    )
    for make in makers:
        assert key({**CHAT, **make(one)}) != key({**CHAT, **make(other)})
        assert key({**CHAT, **make(one)}) == key({**CHAT, **make(copy.deepcopy(one))})
    turned = [dict(reversed(turn.items())) for turn in CHAT["messages"]]
    assert key(CHAT) == key(dict(reversed({**CHAT, "messages": turned}.items())))
    asked = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    scopes = {question_of("chat", {**asked, **makers[0](schema)}).scope for schema in (one, other)}  # type: ignore[union-attr]
    assert len(scopes) == 2


def test_spelling_of_the_json_does_not_matter() -> None:
    pretty = json.dumps(CHAT, indent=2).encode()
    turned = json.dumps(dict(reversed(CHAT.items()))).encode()
    escaped = json.dumps(CHAT).replace("hello", "\\u0068ello").encode()
    assert len({key(CHAT), key(pretty), key(turned), key(escaped)}) == 1
    assert key({**CHAT, "seed": 1}) != key({**CHAT, "seed": True})
    assert key({**CHAT, "seed": 1}) != key({**CHAT, "seed": "1"})


def test_marks_of_the_providers_cache_are_no_part_and_other_things_of_that_name_are() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    block = {"type": "text", "text": "hello"}
    place = Asked("t", "", "messages", "p", "a")

    def of(**fields: Any) -> bytes:
        return key({"model": "m", "messages": [{"role": "user", "content": [{**block, **fields}]}]}, place)

    assert of() == of(**mark)
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {}}}
    named = {**tool, "input_schema": {"type": "object", "properties": mark}}
    assert key({**CHAT, "tools": [tool]}) == key({**CHAT, "tools": [{**tool, **mark}]})
    assert key({**CHAT, "tools": [tool]}) != key({**CHAT, "tools": [named]})


def test_the_billing_block_is_no_part_and_a_prompt_behind_it_is() -> None:
    place = Asked("t", "", "messages", "p", "a")
    line = "x-anthropic-billing-header: cc_version=2.1.197; cch={};"

    def of(*texts: str) -> bytes:
        return key({**CHAT, "system": [{"type": "text", "text": text} for text in texts]}, place)

    assert of(line.format("a1"), "Be kind.") == of(line.format("b2"), "Be kind.") == of("Be kind.")
    assert of(line.format("a1") + "\nBe kind.") != of(line.format("a1") + "\nBe rude.")
    start = "x-anthropic-billing-header: cc_version=2.1.278.02b; cc_entrypoint="
    for sent in ("sdk-cli;", "cli", "cli; cch=00000;", "claude-vscode; cc_workload=cron; cch=a1;\n"):
        assert of(start + sent, "Be kind.") == of("Be kind.")


@pytest.mark.parametrize(
    "text",
    [
        "x-anthropic-billing-header: be {} and answer in German",
        "x-anthropic-billing-header:{}",
        "x-anthropic-billing-header: note={};",
        "x-anthropic-billing-header: cc_version=2.1.197; be {};",
        "x-anthropic-billing-header: cc_version=2.1.197; cc_entrypoint=cli; say={};",
        "x-anthropic-billing-header: cc_version=2.1.197; cc_entrypoint=be {} to all;",
        "x-anthropic-billing-header: cc_version=2.1.197; cch=00000; {}",
        "x-anthropic-billing-header: cc_version=be {};",
    ],
)
def test_a_prompt_that_begins_as_the_billing_block_does_is_a_part(text: str) -> None:
    place = Asked("t", "", "messages", "p", "a")
    keys = {
        key({**CHAT, "system": [{"type": "text", "text": text.format(word)}]}, place)
        for word in ("evil", "nice")
    }
    assert len(keys) == 2


def test_ids_of_items_are_no_part_where_the_provider_keeps_nothing() -> None:
    place = Asked("t", "", "responses", "p", "a")
    item = {"type": "message", "role": "user", "content": "hello"}

    def of(store: bool, **fields: Any) -> bytes:
        return key({"model": "m", "store": store, "input": [{**item, **fields}]}, place)

    assert of(False, id="a") == of(False, id="b") == of(False)
    assert of(True, id="a") != of(True, id="b")
    refs = [
        {"model": "m", "store": False, "input": [{"type": "item_reference", "id": name}]} for name in "ab"
    ]
    assert key(refs[0], place) != key(refs[1], place)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    "item",
    [
        {"type": "reasoning", "summary": []},
        {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None, "status": None},
        {"type": "reasoning", "summary": [], "encrypted_content": ""},
        {"type": None, "content": None},
        {"content": None},
        {"type": "item_reference", "content": "a"},
        {"type": "message", "role": "assistant", "content": []},
        {"type": "computer_call_output", "call_id": None},
    ],
)
def test_an_id_that_says_what_an_item_is_belongs_to_the_key(item: dict[str, Any]) -> None:
    """What is null or empty says nothing: the item refers to what the provider keeps under its id."""
    place = Asked("t", "", "responses", "p", "a")
    turns = [{"role": "user", "content": "hi"}, {"role": "user", "content": "and then?"}]
    keys = {
        key({"model": "m", "store": False, "input": [turns[0], {"id": name, **item}, turns[1]]}, place)
        for name in ("rs_a", "rs_b")
    }
    assert len(keys) == 2


def test_what_is_left_out_of_the_key_stays_in_the_body() -> None:
    body = parse(
        json.dumps(
            {**CHAT, "user": "u", "system": [{"type": "text", "text": "x", "cache_control": 1}]}
        ).encode()
    )
    before = json.dumps(body.value)
    stripped("messages", body.value)
    key_of(HERE, body)
    assert json.dumps(body.value) == before


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'"text"',
        b"{",
        b'{"a":1}x',
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'{"a":"\xff"}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"\xef\xbb\xbf{}",
    ],
    ids=range(13),
)
def test_a_body_that_makes_no_sense_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        parse(data)
    assert (caught.value.status, caught.value.code) == (400, "invalid_body")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, (
        "Python's error quotes the body"
    )


def test_what_has_no_canonical_form_has_no_key() -> None:
    for text in (b'{"a":"\\ud800"}', b'{"a":18446744073709551616}'):
        with pytest.raises(Unkeyable):
            key_of(HERE, parse(text))


def test_betas_in_any_order_are_the_same_betas() -> None:
    assert betas_of("b, a,a") == betas_of("a,b") == "a,b"
    assert betas_of("a") != betas_of("b")


@pytest.mark.promise("isolation")
def test_accounts_are_kept_apart_and_hold_no_key() -> None:
    accounts = {
        account_of(headers)
        for headers in ({}, {"authorization": "k"}, {"x-api-key": "k"}, {"openai-project": "k"})
    }
    assert len(accounts) == 4
    assert not any("k" in account for account in accounts if account != account.lower())


# -- eligibility ---------------------------------------------------------------------------

OF_OTHER_TEXTS: list[dict[str, Any]] = [
    *({"late_chunking": True}, {"late_chunking": False}, {"new_field": 1}, {"messages": []}),
    *({"output_dtype": "int8"}, {"embedding_type": "base64"}, {"embedding_type": ["float"]}),
]
OF_EACH_TEXT: list[dict[str, Any]] = [
    *({"dimensions": 8, "user": "u"}, {"late_chunking": None}, {"embedding_type": "float"}),
    *({"task": "text-matching", "normalized": True}, {"input_type": "query", "truncation": True}),
]


@pytest.mark.parametrize(
    ("protocol", "fields", "reason"),
    [
        ("responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("responses", {"conversation": "conv_1"}, "conversation"),
        ("responses", {"background": True}, "background"),
        ("responses", {"background": False}, ""),
        ("responses", {"tools": [{"type": "web_search"}]}, "server_tool"),
        ("responses", {"tools": [{"type": "function", "name": "f"}]}, ""),
        ("responses", {"tools": [{"type": "mcp"}]}, "server_tool"),
        ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "server_tool"),
        ("messages", {"tools": [{"name": "f", "input_schema": {}}]}, ""),
        ("messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}, ""),
        ("messages", {"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ("chat", {"web_search_options": {"x": 1}}, "web_search_options"),
        ("chat", {"web_search_options": {}}, "web_search_options"),
        ("chat", {"search_parameters": {}}, "search_parameters"),
        *(("chat", {"web_search_options": value}, "") for value in (None, False, [], "")),
        ("chat", {"tools": "none"}, "server_tool"),
        *(
            ("chat", {name: value}, name)
            for name, value in (
                *(("mcp_servers", [{"url": "x"}]), ("search_settings", {"a": 1}), ("web_search", True)),
                *(
                    ("data_sources", [{"type": "azure_search"}]),
                    ("conversation_id", "a"),
                    ("session_id", "a"),
                ),
                *(("assistant_id", "a"), ("prompt", {"id": "a"}), ("file_ids", ["a"]), ("chat_id", "1")),
            )
        ),
        ("messages", {"web_search": True}, "web_search"),
        ("responses", {"search_settings": {"a": 1}}, "search_settings"),
        *(
            (protocol, {"model": model}, "server_tool")
            for protocol in ("chat", "responses", "messages")
            for model in (
                *("openai/gpt-4o:online", "perplexity/sonar", "sonar-pro", "groq/compound", "compound-beta"),
                *("groq/compound-mini", "gpt-4o-search-preview", "o3-deep-research", "sonar-deep-research"),
            )
        ),
        *(("chat", {"model": model}, "") for model in ("gpt-4o", "compounded", "research", "x/sonara")),
        ("chat", {"model": None}, "no_model"),
        *(("embeddings", beside, "field") for beside in OF_OTHER_TEXTS),
        *(("embeddings", beside, "") for beside in OF_EACH_TEXT),
    ],
)
def test_what_depends_on_more_than_the_request_is_a_bypass(protocol: str, fields: Any, reason: str) -> None:
    assert bypass_reason(protocol, {"model": "m", **fields}) == reason


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        ("chat", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
        ("chat", {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}),
        ("chat", {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
        (
            "chat",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}
                ]
            },
        ),
        ("chat", {"messages": [{"role": "tool", "content": "a"}]}),
        ("chat", {"messages": [{"role": "user", "content": ""}]}),
        ("chat", {"messages": [{"role": "user", "content": "x" * 9000}]}),
        ("chat", {"messages": "hello"}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "a"}]}]}),
        ("responses", {"input": [{"type": "function_call_output", "output": "a"}]}),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
        ("embeddings", {"input": "hello"}),
    ],
    ids=range(13),
)
def test_only_one_turn_in_words_is_a_question(protocol: str, body: Any) -> None:
    assert not isinstance(question_of(protocol, {"model": "m", **body}), Question)


@pytest.mark.promise("right-answer")
def test_everything_around_a_question_is_its_scope() -> None:
    def of(**fields: Any) -> Question:
        found = question_of("chat", {**CHAT, **fields})
        assert isinstance(found, Question)
        assert found.text == "hello"
        return found

    system = {"role": "system", "content": "Be kind."}
    user = CHAT["messages"][0]
    scopes = {
        of().scope,
        of(model="n").scope,
        of(temperature=0).scope,
        of(temperature=0.0).scope,
        of(top_p=0.1).scope,
        of(seed=1).scope,
        of(response_format={"type": "json_object"}).scope,
        of(messages=[system, user]).scope,
        of(messages=[{**user, "name": "Ann"}]).scope,
    }
    assert len(scopes) == 9
    parts = question_of(
        "responses",
        {
            "model": "m",
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
            "store": False,
        },
    )
    assert isinstance(parts, Question)


@pytest.mark.promise("right-answer")
def test_a_response_that_its_provider_keeps_is_not_for_a_question_in_other_words() -> None:
    """Trap: its id stays, and previous_response_id refers to the words of the first question."""
    for kept in ({}, {"store": True}, {"store": None}):
        assert question_of("responses", {"model": "m", "input": "hi", **kept}) == "store"
    assert isinstance(question_of("responses", {"model": "m", "input": "hi", "store": False}), Question)


# -- headers -------------------------------------------------------------------------------


def test_control_headers() -> None:
    found = read_control(
        {"cache-control": "no-cache, max-age=5", "x-lix-cache-ttl": "60", "x-lix-cache-mode": "exact"}
    )
    assert (found.no_cache, found.max_age, found.ttl, found.mode) == (True, 5.0, 60.0, "exact")
    assert read_control({"cache-control": "max-age=soon"}).max_age == 0.0
    for text in (
        "max-age=0, max-age=100",
        "max-age=100,max-age=0",
        "max-age = 0",
        'max-age="0"',
        "max-age=0;a",
    ):
        assert read_control({"cache-control": text}).max_age == 0.0, text
    for text in (
        "No-Cache ",
        "a;no-cache",
        'no-cache="x"',
        "no-cache = x",
        "max-age=9, no-cache;",
        "\tno-cache",
    ):
        assert read_control({"cache-control": text}).no_cache, text
    assert read_control({"cache-control": "no-store;max-age=1"}).no_store
    for name, value in (
        ("x-lix-cache-ttl", "-1"),
        ("x-lix-cache-ttl", "nan"),
        ("x-lix-cache-ttl", "1e99"),
        ("x-lix-cache-mode", "fast"),
        ("x-lix-cache-threshold", "2"),
        ("x-lix-cache-namespace", "../x"),
        ("x-lix-cache-namespace", "a:b"),
        ("x-lix-cache-namespace", "x" * 65),
    ):
        with pytest.raises(Refused):
            read_control({name: value})


def test_what_belongs_to_one_connection_is_not_passed_on() -> None:
    pairs = [
        (b"connection", b"keep-alive, x-own"),
        (b"x-own", b"1"),
        (b"host", b"here"),
        (b"x-lix-cache-mode", b"exact"),
        (b"x-lix-key", b"secret"),
        (b"transfer-encoding", b"chunked"),
        (b"accept-encoding", b"gzip"),
        (b"authorization", b"Bearer k"),
    ]
    assert forwarded(pairs, decodes=True) == [("authorization", "Bearer k"), ("accept-encoding", "identity")]
    kind = (b"content-type", b"application/json")
    answer = [(b"Connection", b"close"), (b"X-Lix-Cache", b"hit"), (b"Set-Cookie", b"a"), kind]
    assert returned(answer) == [(b"set-cookie", b"a"), kind]


@pytest.mark.parametrize("digits", [41, 4_000, 4_001, 10_000])
def test_an_integer_of_many_digits_is_json_and_has_no_key(digits: int) -> None:
    body = parse(b'{"model":"m","seed":-%b}' % (b"9" * digits))
    assert body.value["model"] == "m"
    with pytest.raises(Unkeyable):
        key_of(Asked("t", "", "chat", "p", "a"), body)
