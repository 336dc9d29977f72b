"""What a context keeps: system messages, the newest message, and calls with their results."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lix_cache.session.budget import Budget, estimate_tokens


def message(role: str, content: Any = "", **metadata: Any) -> dict[str, Any]:
    return {"role": role, "content": content, "timestamp": 1.0, "metadata": metadata}


def cost(m: dict[str, Any]) -> int:
    return int(m["metadata"].get("cost", 1))


def openai(call: list[str], results: list[str]) -> list[dict[str, Any]]:
    calls = [{"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in call]
    return [
        message("assistant", None, tool_calls=calls),
        *(message("tool", "18", tool_call_id=i) for i in results),
    ]


def openai_as_content(call: list[str], results: list[str]) -> list[dict[str, Any]]:
    calls = [{"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in call]
    return [
        message("assistant", {"role": "assistant", "content": None, "tool_calls": calls}),
        *(message("tool", {"role": "tool", "tool_call_id": i, "content": "18"}) for i in results),
    ]


def openai_imported(call: list[str], results: list[str]) -> list[dict[str, Any]]:
    """As messages of a file have them: at the top."""
    return [
        {"role": "assistant", "content": None, "tool_calls": [{"id": i} for i in call]},
        *({"role": "tool", "content": "18", "tool_call_id": i} for i in results),
    ]


def openai_responses(call: list[str], results: list[str]) -> list[dict[str, Any]]:
    return [
        message(
            "assistant",
            [{"type": "function_call", "id": f"fc_{i}", "call_id": i, "name": "f"} for i in call],
        ),
        *(
            message("user", [{"type": "function_call_output", "id": f"o_{i}", "call_id": i, "output": "18"}])
            for i in results
        ),
    ]


def openai_functions(call: list[str], results: list[str]) -> list[dict[str, Any]]:
    return [
        message("assistant", None, function_call={"name": call[0], "arguments": "{}"}),
        *({**message("function", "18"), "name": i} for i in results),
    ]


def anthropic(call: list[str], results: list[str]) -> list[dict[str, Any]]:
    """All results in one message of the user."""
    uses = [{"type": "tool_use", "id": i, "name": "f", "input": {}} for i in call]
    parts = [{"type": "tool_result", "tool_use_id": i, "content": "18"} for i in results]
    return [message("assistant", [{"type": "text", "text": "let me see"}, *uses]), message("user", parts)]


def anthropic_apart(call: list[str], results: list[str]) -> list[dict[str, Any]]:
    uses = [{"type": "tool_use", "id": i, "name": "f", "input": {}} for i in call]
    return [
        message("assistant", uses),
        *(message("user", [{"type": "tool_result", "tool_use_id": i, "content": [{}]}]) for i in results),
    ]


def google(call: list[str], results: list[str]) -> list[dict[str, Any]]:
    return [
        message("model", {"parts": [{"functionCall": {"name": i, "args": {}}} for i in call]}),
        *(message("user", {"parts": [{"functionResponse": {"name": i, "response": {}}}]}) for i in results),
    ]


def bedrock(call: list[str], results: list[str]) -> list[dict[str, Any]]:
    return [
        message("assistant", [{"toolUse": {"toolUseId": i, "name": "f", "input": {}}} for i in call]),
        message("user", [{"toolResult": {"toolUseId": i, "content": []}} for i in results]),
    ]


def vercel(call: list[str], results: list[str]) -> list[dict[str, Any]]:
    return [
        message("assistant", [{"type": "tool-call", "toolCallId": i, "toolName": "f"} for i in call]),
        message("tool", [{"type": "tool-result", "toolCallId": i, "output": {}} for i in results]),
    ]


def without_ids(call: list[str], results: list[str]) -> list[dict[str, Any]]:
    return [
        message("assistant", None, tool_calls=[{"function": {"name": "f"}} for _ in call]),
        *(message("tool", "18") for _ in results),
    ]


SHAPES = [
    openai, openai_as_content, openai_imported, openai_responses, openai_functions, anthropic,
    anthropic_apart, google, bedrock, vercel, without_ids,
]  # fmt: skip

shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)


@shapes
@pytest.mark.parametrize("ids", [["a"], ["a", "b", "c"]], ids=["one", "parallel"])
def test_a_count_never_parts_results_from_their_call(shape: Any, ids: list[str]) -> None:
    if shape is openai_functions:
        ids = ids[:1]
    group = shape(ids, ids)
    messages = [message("user", "q"), *group, message("assistant", "18 degrees"), message("user", "thanks")]
    first, end = 1, 1 + len(group)
    for count in range(1, len(messages) + 1):
        start = len(messages) - count
        # Cut within the group: all of it goes.
        assert Budget().kept(messages, count)[0] == (end if first < start < end else start)
        # The window as Redis gives it, without the messages before it.
        window = messages[start:]
        assert Budget().kept(window)[0] == (end - start if first < start < end else 0)


@shapes
def test_a_token_limit_never_parts_results_from_their_call(shape: Any) -> None:
    group = shape(["a"], ["a"])
    messages = [message("system", "s"), message("user", "q"), *group, message("assistant"), message("user")]
    for limit in range(1, 8):
        kept = Budget(limit, lambda m: 1).kept(messages)
        assert kept[0] == 0
        assert (2 in kept) == (3 in kept)
        assert 5 in kept


@shapes
def test_the_newest_result_keeps_its_call_and_the_results_beside_it(shape: Any) -> None:
    ids = ["a"] if shape is openai_functions else ["a", "b"]
    group = shape(ids, ids)
    messages = [message("user", "q"), *group]
    everything = list(range(1, len(messages)))
    assert Budget(1, lambda m: 50).kept(messages) == everything
    assert Budget().kept(messages, 1) == everything


def test_results_whose_call_was_cut_off_go_wherever_they_stand() -> None:
    call, a, b = openai(["a", "b"], ["a", "b"])
    messages = [call, a, message("user", "wait"), b, message("assistant", "done")]
    assert Budget().kept(messages, 3) == [2, 4]
    assert Budget(3, lambda m: 1).kept(messages) == [2, 4]
    assert Budget().kept(messages, 5) == [0, 1, 2, 3, 4]


def test_results_of_calls_that_were_never_kept_stay_but_not_at_the_beginning() -> None:
    alone = message("tool", "18", tool_call_id="elsewhere")
    assert Budget().kept([alone, message("user", "q"), alone]) == [1, 2]
    assert Budget().kept([message("system", "s"), alone, message("user", "q")]) == [0, 2]


def test_tools_that_the_server_runs_answer_in_the_message_that_calls_them() -> None:
    own = message(
        "assistant",
        [
            {"type": "server_tool_use", "id": "s1", "name": "web_search"},
            {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
        ],
    )
    assert Budget().kept([own, message("user", "q")]) == [0, 1]


def test_system_messages_stay_before_any_other() -> None:
    messages = [
        message("system", cost=5),
        message("user", cost=2),
        message("developer", cost=3),
        message("user", cost=2),
        message("assistant", cost=2),
    ]
    assert Budget(14, cost).kept(messages) == [0, 1, 2, 3, 4]
    assert Budget(13, cost).kept(messages) == [0, 2, 3, 4]
    assert Budget(10, cost).kept(messages) == [0, 2, 4]
    # Over the limit by themselves: they stay, and the newest of the others with them.
    assert Budget(1, cost).kept(messages) == [0, 2, 4]


def test_a_system_message_at_the_end_does_not_take_the_place_of_the_newest_question() -> None:
    messages = [message("user", cost=9), message("user", cost=9), message("system", cost=9)]
    assert Budget(3, cost).kept(messages) == [1, 2]


def test_nothing_is_nothing() -> None:
    assert Budget().kept([]) == Budget(1).kept([]) == Budget().kept([message("user")], 0) == []


UNITS = st.lists(
    st.one_of(
        st.sampled_from(["user", "assistant", "system", "developer"]).map(lambda role: [message(role, "x")]),
        st.tuples(st.sampled_from(SHAPES), st.integers(1, 3)).map(
            lambda pair: pair[0](
                *([[f"call{i}" for i in range(1 if pair[0] is openai_functions else pair[1])]] * 2)
            )
        ),
    ),
    max_size=8,
)


@given(UNITS, st.integers(0, 12), st.none() | st.integers(1, 40), st.integers(0, 4), st.data())
@settings(deadline=None, max_examples=300)
@example([], 0, None, 0, None)
@pytest.mark.promise("no-false-empty")
def test_whatever_is_kept_is_whole_in_order_and_within_its_limits(
    units: list[list[dict[str, Any]]], count: int, limit: int | None, lost: int, data: Any
) -> None:
    # Ids that are alike in different units must not confuse: each unit's own.
    messages = [m for unit in units for m in unit]
    unit_of = [number for number, unit in enumerate(units) for _ in unit]
    budget = Budget(limit, lambda m: 2)
    kept = budget.kept(messages, count)
    assert kept == sorted(set(kept))
    for number, unit in enumerate(units):
        members = [i for i, owner in enumerate(unit_of) if owner == number]
        taken = [i for i in members if i in kept]
        assert taken in ([], members) or (len(unit) > 1 and taken == members), (number, taken)
    if messages and count:
        assert kept, "an empty context"
        newest_unit = {i for i, owner in enumerate(unit_of) if owner == unit_of[-1]}
        system = {i for i in kept if messages[i]["role"] in ("system", "developer")}
        others = set(kept) - system
        assert len(kept) <= max(count, len(newest_unit)) or limit is not None
        if limit is not None and 2 * len(kept) > limit:
            last = max((i for i in range(len(messages)) if i in others), default=None)
            assert last is None or others == {i for i, o in enumerate(unit_of) if o == unit_of[last]}
    # Cut somewhere by what the window holds: it never begins with a result.
    window = messages[lost:]
    for start in [i for i in budget.kept(window) if window[i]["role"] not in ("system", "developer")][:1]:
        position = lost + start
        assert position == 0 or unit_of[position] != unit_of[position - 1]


@pytest.mark.parametrize("width", [1, 50])
def test_the_work_grows_no_faster_than_the_window(width: int) -> None:
    class Counted(dict):  # type: ignore[type-arg]
        looks = 0

        def get(self, key: Any, default: Any = None) -> Any:
            Counted.looks += 1
            return super().get(key, default)

    looks = []
    for size in (200, 400):
        ids = [f"c{i}" for i in range(width)]
        messages = [Counted(m) for _ in range(size // (width + 1) + 1) for m in openai(ids, ids)]
        Counted.looks = 0
        Budget(10**9, lambda m: 1).kept(messages, len(messages) - 1)
        looks.append(Counted.looks / len(messages))
    assert looks[1] < looks[0] * 1.2


# -- estimates -------------------------------------------------------------------------------


def test_the_estimate_counts_calls_and_results_and_not_the_bytes_of_images() -> None:
    assert estimate_tokens(message("user", "x" * 400)) == 104
    assert estimate_tokens(message("user", None)) == 4
    arguments = "y" * 4000
    for holds in (
        message("assistant", None, tool_calls=[{"id": "a", "function": {"arguments": arguments}}]),
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": arguments}}]},
        message("assistant", [{"type": "tool_use", "id": "a", "input": {"q": arguments}}]),
        message("user", [{"type": "tool_result", "tool_use_id": "a", "content": [{"text": arguments}]}]),
    ):
        assert 1000 <= estimate_tokens(holds) < 1050
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10**6}}
    assert 1000 <= estimate_tokens(message("user", [image])) < 1050
    # What an application keeps beside a message is not sent to a model.
    assert estimate_tokens(message("user", "hi", note="z" * 4000)) == 5
