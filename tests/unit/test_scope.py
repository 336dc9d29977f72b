"""The scope of an answer: one digest for what must match exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import OrderedDict
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache.errors import InvalidContext, InvalidInput
from lix_cache.semantic.scope import canonical, embedder_word, item_digests, merged, scope_of
from tests.support.meaning import spelled

pytestmark = pytest.mark.promise("isolation")

ROOT = Path(__file__).resolve().parents[2]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
contexts = st.dictionaries(st.text(max_size=4), values, max_size=4)


@given(contexts, contexts)
def test_two_contexts_have_one_form_if_and_only_if_they_are_the_same(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert (canonical(one) == canonical(other)) == (spelled(one) == spelled(other))
    assert (scope_of(one, "e", 4) == scope_of(other, "e", 4)) == (spelled(one) == spelled(other))


@given(values, values)
def test_no_value_can_be_written_so_that_it_passes_for_another(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (spelled(one) == spelled(other))


@given(contexts, st.randoms())
def test_the_order_of_keys_and_the_kind_of_mapping_do_not_matter(
    context: dict[str, Any], random: Any
) -> None:
    items = list(context.items())
    random.shuffle(items)
    assert scope_of(OrderedDict(items), "e", 4) == scope_of(context, "e", 4)
    assert scope_of(MappingProxyType(dict(items)), "e", 4) == scope_of(context, "e", 4)
    assert item_digests(dict(items)) == item_digests(context)


DIFFERENT = [
    1,
    1.0,
    True,
    "1",
    b"1",
    [1],
    {"1": None},
    None,
    0,
    0.0,
    -0.0,
    False,
    "",
    b"",
    [],
    {},
    [[]],
    [None],
    "é",
    "e\u0301",
    float("inf"),
    -1,
    10**30,
    "a" * 300,
]


def test_what_python_calls_equal_is_not_always_the_same() -> None:
    scopes = [scope_of({"x": value}, "e", 4) for value in DIFFERENT]
    assert len(set(scopes)) == len(DIFFERENT)
    assert scope_of({}, "e", 4) not in scopes


def test_lists_and_tuples_are_the_same_as_in_json() -> None:
    assert scope_of({"x": [1, (2, 3)]}, "e", 4) == scope_of({"x": (1, [2, 3])}, "e", 4)
    context = {"tools": [{"name": "search", "limit": 3}], "temperature": 0.7, "ok": None}
    assert scope_of(json.loads(json.dumps(context)), "e", 4) == scope_of(context, "e", 4)


def test_embedder_dimension_and_version_belong_to_the_scope() -> None:
    scopes = {
        scope_of({"a": 1}, *more)
        for more in [("e", 4), ("e", 8), ("f", 4), ("e", 4, "2"), ("e4", 4), ("e", 44), ("", 4)]
    }
    assert len(scopes) == 7


def test_a_scope_is_the_same_in_every_process() -> None:
    source = (
        "from lix_cache.semantic.scope import scope_of\n"
        "print(scope_of({'tenant': 'a', 'tools': ['x', {'y': 1.5}], 'n': None}, 'e', 4))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", source],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    # And in every release: what is stored must be found again.
    assert seen == {"4IV-DwbLiE7yp_aM19VWW9wZI0w"}


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        object(),
        Decimal("1.5"),
        np.int64(3),
        np.zeros(2),
        float("nan"),
        {"a": {3: 4}},
        [b"x", {"y": {"z": {1}}}],
        range(3),
        bytearray(b"x"),
    ],
)
def test_what_identifies_nothing_is_refused(value: Any) -> None:
    with pytest.raises(InvalidContext):
        scope_of({"x": value}, "e", 4)


def test_the_error_says_where_it_is_and_what_may_be_there() -> None:
    with pytest.raises(InvalidContext, match=r"\['tools'\]\[1\]\[…\] holds a set.*mappings") as caught:
        canonical({"tools": [1, {"when": {2}}]})
    assert isinstance(caught.value, InvalidInput)
    with pytest.raises(InvalidContext, match=r"\['a'\] has a key of type int; keys must be str"):
        canonical({"a": {3: 1}})


def test_a_context_that_holds_itself_is_refused() -> None:
    inner: list[Any] = []
    inner.append(inner)
    with pytest.raises(InvalidContext, match="64 levels"):
        canonical({"x": inner})


def test_a_call_may_add_to_the_caches_context_and_not_change_it() -> None:
    base = {"tenant": "a", "limits": [1, 2]}
    assert merged(base, None) == base
    assert merged(base, {"url": "u", "tenant": "a", "limits": (1, 2)})["url"] == "u"
    for other in ("b", None, 1, ["a"]):
        with pytest.raises(InvalidContext, match="may add"):
            merged(base, {"tenant": other})
    with pytest.raises(InvalidContext, match="may add"):
        merged({"n": 1}, {"n": True})
    with pytest.raises(InvalidContext, match="must be a mapping, got list"):
        merged(base, ["tenant"])  # type: ignore[arg-type]


@given(contexts)
def test_a_scope_is_found_by_each_item_of_its_context(context: dict[str, Any]) -> None:
    words = item_digests(context)
    assert len(words) == len(context)
    for key, value in context.items():
        assert item_digests({key: value}) <= words
    assert embedder_word("e", 4) not in words


def test_an_item_that_another_context_does_not_have_is_not_found_in_it() -> None:
    words = item_digests({"a": 1, "b": [1]})
    for other in ({"a": 1.0}, {"a": "1"}, {"b": 1}, {"a": [1]}, {"c": 1}):
        assert not item_digests(other) <= words
