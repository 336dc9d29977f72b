"""What a policy keeps out of the cache, and for how long it lets the rest in."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from lix_cache.errors import ConfigError, InvalidInput, MissingExtra
from lix_cache.semantic.policy import CachePolicy, Refusal


def rule(refusal: Refusal | None) -> str | None:
    return refusal.rule if refusal else None


@pytest.mark.parametrize(
    ("policy", "query", "expected"),
    [
        (CachePolicy(), "what is entropy", None),
        (CachePolicy(min_query_chars=5), "  abc ", "too_short"),
        (CachePolicy(max_query_chars=10), "what is entropy", "too_long"),
        (CachePolicy(), "a" * 8_001, "too_long"),
        (CachePolicy(exclude=(r"\bpassword\b",)), "reset my PASSWORD now", "excluded"),
        (CachePolicy(exclude=(r"\bpassword\b",)), "passwords are old", None),
        (CachePolicy(max_query_chars=20_000, exclude=("secret",)), "a " * 8_000 + "secret", "excluded"),
        (CachePolicy(), "yes please", "follow_up"),
        (CachePolicy(follow_ups=True), "yes please", None),
        (CachePolicy(), "hello", None),
    ],
)
def test_some_queries_are_not_cached(policy: CachePolicy, query: str, expected: str | None) -> None:
    assert rule(policy.check_lookup(query, {})) == expected
    assert rule(policy.check_store(query, "an answer", {})) == expected


def test_a_follow_up_may_be_cached_where_the_scope_says_what_was_said_before() -> None:
    assert CachePolicy().check_lookup("yes please", {"conversation": {"turn": 2, "history": "x"}}) is None


def chat(reason: str = "stop", content: object = "Paris.", **message: object) -> dict[str, object]:
    return {
        "choices": [
            {"finish_reason": reason, "message": {"role": "assistant", "content": content, **message}}
        ]
    }


def claude(reason: str = "end_turn", *parts: object) -> dict[str, object]:
    return {"type": "message", "role": "assistant", "stop_reason": reason, "content": list(parts)}


def gemini(reason: str, *parts: object) -> dict[str, object]:
    return {"candidates": [{"finishReason": reason, "content": {"role": "model", "parts": list(parts)}}]}


def responses(status: str, *output: object, **more: object) -> dict[str, object]:
    return {"object": "response", "status": status, "output": list(output), **more}


TEXT = {"type": "text", "text": "Paris."}
OUTPUT = {"type": "message", "content": [{"type": "output_text", "text": "Paris."}]}


@pytest.mark.parametrize(
    "response",
    [
        "Paris.",
        b"Paris.",
        0,
        False,
        3.5,
        {"answer": ""},
        {"answer": "Paris.", "error": None},
        ["a", "b"],
        [0],
        chat(),
        claude("end_turn", TEXT),
        claude("stop_sequence", TEXT),
        gemini("STOP", {"text": "Paris."}),
        responses("completed", OUTPUT),
        {"role": "assistant", "content": "Paris."},
        [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Paris."}],
        claude("end_turn", {"type": "image", "source": {}}),
        {"choices": [{"text": "Paris.", "finish_reason": "stop"}]},
        "The error: a comma is missing",
        chat(content=None, refusal="I cannot."),
        claude("end_turn", {"type": "thinking", "thinking": "hm"}, TEXT),
        claude("end_turn", {**TEXT, "type": ["text"]}),
    ],
)
def test_whole_answers_are_stored(response: object) -> None:
    assert CachePolicy().check_store("capital of France", response, {}) is None


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (None, "empty"),
        ("", "empty"),
        (" \n", "empty"),
        (b"", "empty"),
        ([], "empty"),
        ({}, "empty"),
        (chat(content=""), "empty"),
        (chat(content=None), "empty"),
        ({"choices": []}, "empty"),
        (claude("end_turn"), "empty"),
        (gemini("STOP"), "empty"),
        ({"role": "assistant", "content": "  "}, "empty"),
        (responses("completed"), "empty"),
        (chat(content=None, reasoning_content="hm"), "empty"),
        (claude("end_turn", {"type": "thinking", "thinking": "hm"}, {"type": "redacted_thinking"}), "empty"),
        (gemini("STOP", {"text": "hm", "thought": True}), "empty"),
        (responses("completed", {"type": "reasoning", "content": [{"type": "reasoning_text"}]}), "empty"),
        (ValueError("no"), "error"),
        ({"error": {"message": "overloaded"}}, "error"),
        ({"type": "error", "message": "x"}, "error"),
        ("Error: too many requests", "error"),
        ("\n EXCEPTION: too many requests", "error"),
        ("Traceback (most recent call last):\n  File", "error"),
        (responses("failed", OUTPUT), "error"),
        (chat("length"), "truncated"),
        (chat("content_filter"), "truncated"),
        (claude("max_tokens", TEXT), "truncated"),
        (claude("pause_turn", TEXT), "truncated"),
        (gemini("MAX_TOKENS", {"text": "Par"}), "truncated"),
        (gemini("SAFETY", {"text": "Par"}), "truncated"),
        (responses("incomplete", OUTPUT), "truncated"),
        (responses("in_progress", OUTPUT), "truncated"),
        (chat("tool_calls", None, tool_calls=[{"id": "1"}]), "tool_call"),
        (chat("stop", "let me look", tool_calls=[{"id": "1"}]), "tool_call"),
        (claude("tool_use", TEXT, {"type": "tool_use", "name": "f"}), "tool_call"),
        (claude("end_turn", {"type": "tool_use", "name": "f"}), "tool_call"),
        (gemini("STOP", {"functionCall": {"name": "f"}}), "tool_call"),
        (responses("completed", {"type": "function_call", "name": "f"}), "tool_call"),
        (responses("completed", OUTPUT, {"type": "local_shell_call"}), "tool_call"),
        (responses("completed", {"type": "apply_patch_call"}, OUTPUT), "tool_call"),
        (
            [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [{}], "content": None}],
            "tool_call",
        ),
    ],
)
def test_errors_fragments_and_steps_are_not_stored(response: object, expected: str) -> None:
    assert rule(CachePolicy().check_store("capital of France", response, {})) == expected
    assert CachePolicy(whole_answers_only=False).check_store("capital of France", response, {}) is None


@pytest.mark.parametrize(
    "query",
    [
        "what is the latest stable release",
        "who is the current president",
        "what happened today",
        "was läuft heute im Kino",
        "quelle est la météo aujourd'hui",
        "qué hay de nuevo hoy",
        "che ore sono adesso",
        "o que está aberto agora",
        "wat is er vandaag te doen",
        "что нового сегодня",
        "今天有什么新闻",
        "今日の天気は",
        "오늘 날씨 어때",
        "bugün hava nasıl",
        "berita terbaru tentang gempa",
    ],
)
def test_what_is_asked_about_now_expires_soon(query: str) -> None:
    assert CachePolicy().ttl_for(query, 3_600.0) == 60.0
    assert CachePolicy().ttl_for(query, 10.0) == 10.0
    assert CachePolicy(builtin_time_words=False).ttl_for(query, 3_600.0) == 3_600.0


def test_other_questions_live_as_long_as_they_may() -> None:
    assert CachePolicy().ttl_for("what is entropy", 3_600.0) == 3_600.0


def test_an_application_names_its_own_words_for_now() -> None:
    policy = CachePolicy(time_words=("in stock", "Lagerbestand", "库存"), time_sensitive_seconds=5)
    assert policy.ttl_for("is it IN STOCK?", 100) == 5
    assert policy.ttl_for("wie ist der lagerbestand", 100) == 5
    assert policy.ttl_for("还有库存吗", 100) == 5
    assert policy.ttl_for("within stockholm", 100) == 100


@pytest.mark.parametrize(
    "changes",
    [
        {"min_query_chars": -1},
        {"max_query_chars": 0},
        {"max_query_chars": 20_001},
        {"min_query_chars": True},
        {"min_query_chars": 10, "max_query_chars": 9},
        {"exclude": "abc"},
        {"exclude": ("(",)},
        {"exclude": ("",)},
        {"exclude": (5,)},
        {"exclude": (r"(?=a)",)},
        {"error_patterns": (r"(",)},
        {"time_words": (" ",)},
        {"time_sensitive_seconds": 0},
        {"time_sensitive_seconds": math.inf},
        {"time_sensitive_seconds": True},
        {"follow_ups": 1},
        {"history": "no"},
        {"whole_answers_only": None},
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        CachePolicy(**changes)  # type: ignore[arg-type]


def test_a_policy_is_data() -> None:
    policy = CachePolicy(exclude=("a.b", "ä"), time_words=("x",), max_query_chars=77, history=True)
    assert CachePolicy.from_json(policy.to_json()) == policy
    assert CachePolicy.from_json("{}") == CachePolicy()
    assert hash(policy) == hash(CachePolicy.from_json(policy.to_json()))


@pytest.mark.parametrize("text", ["", "[]", "nul", '{"excludes": []}', '{"exclude": ["("]}', "[" * 100_000])
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        CachePolicy.from_json(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("foo", "a FOO b"),
        ("foo.*bar", "foo and bar"),
        (r"\b\d{4}[- ]?\d{4}[- ]?\d{4}[- ]?\d{4}\b", "is 4111 1111 1111 1111 safe"),
        (r"[\w.+-]+@[\w-]+\.\w+", "write to a.b@c.org"),
        ("^my pin", "  My PIN is 1\n"),
        ("1$", "my pin is 1\n"),
        ("(a+)+$", "aaa"),
        ("(?P<n>ab)c*?", "ab"),
        (r"(^|[^\pL])clé($|[^\pL])", "ma CLÉ ici"),
        ("пароль", "мой ПАРОЛЬ тут"),
        ("passwo\u0308rt", "mein Passwört"),
        ("passwört", "mein passwo\u0308rt"),
        (r"C:\\bé", "in C:\\bé"),
        ("x", "\ud800 x"),
    ],
)
def test_a_pattern_is_found_whatever_its_case_and_encoding(pattern: str, text: str) -> None:
    assert (
        rule(CachePolicy(exclude=("no such", pattern)).check_lookup(text, {"conversation": 1})) == "excluded"
    )


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a)\1",
        "(?P<x>a)(?P=x)",
        "(a)?(?(1)b|c)",
        "(?=a+)b",
        "(?<!x)y",
        "(?x)a b",
        "(?>a)b",
        "a++",
        r"a\Z",
        "a**",
        "(",
        "a{1,2000}",
        "((a{0,9}){0,99}){0,99}",
        r"\pL{1,300}",
        "x" * 1_001,
        "\ud800",
        r"\bпароль\b",
        r"\b\x{43f}",
        r"\Bé",
    ],
)
def test_a_pattern_that_would_not_do_what_it_says_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"^CachePolicy\.exclude"):
        CachePolicy(exclude=(pattern,))


def test_patterns_are_bounded_together() -> None:
    with pytest.raises(ConfigError, match="of at most"):
        CachePolicy(exclude=tuple(f"[^{c}]{{99}}" for c in "abcdefgh"))


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*z",
        ".*.*.*x",
        "(.*,)*x",
        "(a?){40}a{40}z",
        "((a{0,9}){0,9}){0,9}x",
        "(a|b)*a(a|b){12}c",
        "(?:(?:a+ #)|(b\n)+)+$",
        r"(\w+\s?)*;",
        "^(([a-z])+.)+[A-Z]([a-z])+$",
    ],
)
@pytest.mark.parametrize("text", ["a", "ab", "a ", "a,", "aé"])
def test_a_search_ends_whatever_the_pattern(pattern: str, text: str) -> None:
    # Python's own matcher would take longer than the universe has: there is nothing to time.
    text = text * (20_000 // len(text) - 1) + "!"
    assert CachePolicy(max_query_chars=20_000, exclude=(pattern,)).check_lookup(text, {}) is None


def test_without_re2_a_pattern_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    assert CachePolicy().check_store("capital of France", "Error: none", {}) is not None
    with pytest.raises(MissingExtra, match=r"lix-cache\[patterns\]"):
        CachePolicy(exclude=("not compiled by any other test",))


def test_a_pattern_sees_all_of_a_long_text() -> None:
    policy = CachePolicy(max_query_chars=20_000, exclude=("needle", "^b"))
    for place in (0, 2_999, 3_998, 9_000, 19_990):
        text = "a" * place + "needle" + "b" * (20_000 - place - 6)
        assert rule(policy.check_lookup(text, {})) == "excluded"
    assert policy.check_lookup("a" * 3_000 + "b" * 3_000, {}) is None


@pytest.mark.promise("no-stall")
def test_the_length_is_looked_at_before_anything_else() -> None:
    class Counted(str):
        __slots__ = ()

        def strip(self, *args: object) -> str:
            raise AssertionError("looked at each character")

    policy = CachePolicy(max_query_chars=10, exclude=("a",), time_words=("now",))
    assert rule(policy.check_lookup(Counted("\r" * 11), {})) == "too_long"


# -- prompts -------------------------------------------------------------------------------

POLICY = CachePolicy()


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def assistant(content: object, **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": content, **more}


@pytest.mark.parametrize(
    ("prompt", "query", "context"),
    [
        ("what is entropy", "what is entropy", {}),
        ([user(" what is entropy ")], " what is entropy ", {}),
        ("User: is a role\nin many systems", "User: is a role\nin many systems", {}),
        ("User: who?\nAssistant: me\nUser: why?", "User: who?\nAssistant: me\nUser: why?", {}),
    ],
)
def test_a_question_that_stands_alone_has_no_context(
    prompt: object, query: str, context: dict[str, object]
) -> None:
    assert POLICY.extract_query(prompt) == (query, context)  # type: ignore[arg-type]


CONVERSATIONS: list[list[dict[str, object]]] = [
    [user([{"type": "text", "text": "what is entropy"}])],
    [user([{"type": "input_text", "text": "what is entropy"}])],
    [user(["what is entropy"])],
    [user(("what is entropy",))],
    [user({"type": "text", "text": "what is entropy"})],
    [user(["in physics", "what is entropy"])],
    [user(["in", "physics", "what is entropy"])],
    [user([{"type": "text", "text": "what is entropy"}, {"type": "text", "text": " "}])],
    [{**user("what is entropy"), "name": "bob"}],
    [{**user("what is entropy"), "role": "human"}],
    [{"content": "what is entropy"}],
    [user("hi"), assistant("hello"), user("what is entropy")],
    [user("hi"), assistant("hello "), user("what is entropy")],
    [user("hi"), {"role": "system", "content": "hello"}, user("what is entropy")],
    [{"role": "system", "content": "hello"}, user("hi"), user("what is entropy")],
    [{"role": "system", "content": "hello"}, user("what is entropy")],
    [{"role": "developer", "content": "hello"}, user("what is entropy")],
    [user("what is entropy"), {"role": "system", "content": "hello"}],
    [user("what is entropy"), assistant("hello")],
    [user("what is entropy"), assistant(None)],
    [user("what is entropy"), assistant(None, tool_calls=[{"id": 1}])],
    [user("what is entropy"), assistant(None, tool_calls=[{"id": "1"}])],
    [user("what is entropy"), assistant(None, tool_calls=[{"id": True}])],
    [user([{"type": "text", "text": "what is entropy"}, {"type": "image", "data": b"A"}])],
    [user([{"type": "image", "data": b"A"}, {"type": "text", "text": "what is entropy"}])],
    [user([{"type": "text", "text": "what is entropy"}, {"type": "image", "data": "A"}])],
    [user([{"type": "text", "text": "what is entropy"}, {"type": "image", "data": "b'A'"}])],
    [user([{"type": "text", "text": "what is entropy"}, {1: "a"}])],
    [user([{"type": "text", "text": "what is entropy"}, {"1": "a"}])],
    [user([{"type": "text", "text": "what is entropy"}, {1.0: "a"}])],
]


@pytest.mark.promise("right-answer")
def test_all_but_the_question_counts_exactly() -> None:
    found = [POLICY.extract_query(messages) for messages in CONVERSATIONS]
    assert {query for query, _ in found} == {"what is entropy"}
    assert all("messages_digest" in context for _, context in found)
    assert len({str(context) for _, context in found}) == len(CONVERSATIONS)


@pytest.mark.promise("right-answer")
def test_two_pictures_of_one_shape_are_two() -> None:
    dark = np.zeros((224, 224, 3), np.uint8)
    bright = dark.copy()
    bright[50:170, 50:170] = 255
    pictures = [dark, bright, dark.astype(np.int8), dark.reshape(3, 224, 224), dark[:1]]
    contexts = [
        POLICY.extract_query(
            [user([{"type": "text", "text": "what is this"}, {"type": "image", "data": p}])]
        )[1]
        for p in pictures
    ]
    assert len({str(c) for c in contexts}) == len(pictures)


@pytest.mark.parametrize(
    ("prompt", "query", "context"),
    [
        (
            "User: who was Bach?\nAssistant: a composer.\nUser: what is entropy in physics?",
            "what is entropy in physics?",
            {"conversation": {"turn": 2}},
        ),
        (
            "<|im_start|>user\nwhat is entropy<|im_end|>\n<|im_start|>assistant\n",
            "what is entropy",
            {},
        ),
        ("User: is a role\nin many systems", "User: is a role\nin many systems", {}),
        (
            [user("hi there bot"), assistant("hello"), user("what is entropy")],
            "what is entropy",
            {"conversation": {"turn": 2}},
        ),
        ([user(["what is", "entropy"])], "what is\nentropy", {}),
    ],
)
def test_conveniences_are_asked_for(prompt: object, query: str, context: dict[str, object]) -> None:
    lenient = CachePolicy(history=False, transcripts=True)
    assert lenient.extract_query(prompt) == (query, context)  # type: ignore[arg-type]
    strict = POLICY.extract_query(prompt)  # type: ignore[arg-type]
    assert strict != (query, context) or prompt == query


def test_a_follow_up_brings_what_was_said_before() -> None:
    one = [user("who was Bach"), assistant("a composer"), user("yes please")]
    other = [user("who was Kant"), assistant("a philosopher"), user("yes please")]
    assert POLICY.extract_query(one)[0] == POLICY.extract_query(other)[0]
    assert POLICY.extract_query(one)[1] != POLICY.extract_query(other)[1]
    assert POLICY.check_lookup(*POLICY.extract_query(one)) is None


def test_history_belongs_to_the_scope_unless_the_policy_says_otherwise() -> None:
    one = [user("who was Bach"), assistant("a composer"), user("what is entropy")]
    other = [user("who was Kant"), assistant("a philosopher"), user("what is entropy")]
    assert POLICY.extract_query(one) != POLICY.extract_query(other)
    lenient = CachePolicy(history=False)
    assert lenient.extract_query(one) == lenient.extract_query(other)


OPENAI_LOOP = [
    user("weather in Rome"),
    assistant(None, tool_calls=[{"id": "1", "function": {"name": "weather", "arguments": "{}"}}]),
    {"role": "tool", "tool_call_id": "1", "content": "18 degrees"},
]
ANTHROPIC_LOOP = [
    user("weather in Rome"),
    assistant([{"type": "tool_use", "id": "1", "name": "weather", "input": {}}]),
    user([{"type": "tool_result", "tool_use_id": "1", "content": "18 degrees"}]),
]
RESPONSES_LOOP = [
    user("weather in Rome"),
    {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": "18 degrees"},
]


@pytest.mark.parametrize("loop", [OPENAI_LOOP, ANTHROPIC_LOOP, RESPONSES_LOOP])
def test_no_step_of_a_tool_loop_can_hit_another_one(loop: list[dict[str, object]]) -> None:
    contexts = [POLICY.extract_query(loop[:n])[1] for n in (1, 2, 3)]
    assert {POLICY.extract_query(loop[:n])[0] for n in (1, 2, 3)} == {"weather in Rome"}
    assert contexts[0] == {}
    assert len({repr(context) for context in contexts}) == 3
    changed = [*loop[:2], {**loop[2], "content": "30 degrees", "output": "30 degrees"}]
    if "tool_result" in repr(loop[2]):
        changed[2] = user([{"type": "tool_result", "tool_use_id": "1", "content": "30 degrees"}])
    assert POLICY.extract_query(changed)[1] != contexts[2]


def test_system_prompt_and_attachments_belong_to_the_scope() -> None:
    plain = POLICY.extract_query([user("what is this")])[1]
    system = POLICY.extract_query([{"role": "system", "content": "be brief"}, user("what is this")])[1]
    beside = POLICY.extract_query([user("what is this")], system="be brief")[1]
    image = POLICY.extract_query(
        [user([{"type": "text", "text": "what is this"}, {"type": "image", "data": "A"}])]
    )[1]
    other = POLICY.extract_query(
        [user([{"type": "text", "text": "what is this"}, {"type": "image", "data": "B"}])]
    )[1]
    assert len({repr(c) for c in (plain, system, beside, image, other)}) == 5


def test_a_message_that_holds_itself_is_refused() -> None:
    loop: dict[str, object] = {"type": "image"}
    loop["self"] = loop
    with pytest.raises(InvalidInput, match="holds itself"):
        POLICY.extract_query([user([{"type": "text", "text": "what is this"}, loop])])


@pytest.mark.parametrize(
    "prompt", [[], [assistant("hi")], [user("  ")], [user(5)], 5, {"role": "user"}, ["hi"], [user(b"hi")], ""]
)
def test_what_is_no_prompt_is_refused(prompt: object) -> None:
    with pytest.raises(InvalidInput):
        POLICY.extract_query(prompt)  # type: ignore[arg-type]
