"""Whatever differs in a request that may change its answer has another key; two tenants never share one."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lix_cache.gateway.answer import Answer
from lix_cache.gateway.request import EXCLUDED, Asked, key_of, parse
from lix_cache.gateway.tiers import Entry, Memory

# Other work on the machine must not decide whether these pass.
_calmly = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)
_NAMES = _TEXT.filter(lambda name: name not in EXCLUDED)
_BODIES = st.dictionaries(_NAMES, _JSON, max_size=4).map(
    lambda extra: {"model": "m", "messages": [], **extra}
)
_PLACES = st.builds(
    Asked,
    tenant=st.sampled_from("ab"),
    namespace=st.sampled_from(["", "n"]),
    protocol=st.sampled_from(["chat", "messages"]),
    provider=st.sampled_from("pq"),
    account=st.sampled_from("xy"),
)


def key(place: Asked, body: Any) -> bytes:
    return key_of(place, parse(json.dumps(body, ensure_ascii=False).encode()))


def spelled(value: Any) -> Any:
    """Tell what models tell apart: 1, 1.0 and true are three, and names have an order below the top."""
    if isinstance(value, dict):
        return [(name, spelled(item)) for name, item in value.items()]
    return (
        [spelled(item) for item in value] if isinstance(value, list) else (type(value).__name__, repr(value))
    )


@pytest.mark.promise("right-answer")
@_calmly
@given(_PLACES, _BODIES, _PLACES, _BODIES)
def test_equal_keys_are_equal_requests(one: Asked, body: Any, other: Asked, another: Any) -> None:
    are_equal = one == other and sorted(spelled(body), key=repr) == sorted(spelled(another), key=repr)
    if any(_has_marks(value) for value in (body, another)):
        return  # a list named system, tools or messages, whose marks are no part of the key
    assert (key(one, body) == key(other, another)) == are_equal


def _has_marks(body: Any) -> bool:
    return any(name in body for name in ("system", "tools")) or body.get("messages") != []


@pytest.mark.promise("right-answer")
@_calmly
@given(_PLACES, _BODIES, st.sampled_from(sorted(EXCLUDED)), _JSON)
def test_listed_fields_and_the_order_of_names_are_no_part(
    place: Asked, body: Any, name: str, value: Any
) -> None:
    turned = dict(reversed([*copy.deepcopy(body).items(), (name, value)]))
    assert key(place, body) == key(place, turned)


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("seed", range(20))
def test_the_memory_stays_within_its_bytes(seed: int) -> None:
    chance = random.Random(seed)
    memory, kept = Memory(3_000), {}
    for _ in range(200):
        number = chance.randrange(6)
        answer = Answer("chat", "i", "m", ("stop",), None, False, False, b"x" * chance.randrange(4_000))
        entry = kept[number] = Entry("t", answer, 0.0, 10.0)
        memory.put(b"%d" % number, entry)
        assert memory.bytes <= 3_000
        assert memory.bytes == sum(one.answer.size for one in memory._entries.values())
    for number, entry in kept.items():
        assert memory.get(b"%d" % number, 1.0) in (entry, None)
        assert memory.get(b"%d" % number, 10.0) is None
    assert (len(memory), memory.bytes) == (0, 0)
