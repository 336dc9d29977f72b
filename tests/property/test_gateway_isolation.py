"""A real gateway to which all questions mean the same: what differs in anything but words shares nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lix_cache.gateway.request import EXCLUDED
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support import RedisServer
from tests.support.meaning import Meanings, mix
from tests.support.provider import Provider, RunningGateway
from tests.support.wire import CHAT, MESSAGE, Reply, post

KEYS = {"ann": "ann-key-0123456789abcdef", "bob": "bob-key-0123456789abcdef"}
RESPONSE = "/v1/responses"
_numbers = itertools.count()
_slowly = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
_VALUES = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-2, 2) | st.text("ab", max_size=2)
_NAMES = st.sampled_from(
    ["temperature", "top_p", "seed", "max_tokens", "stop", "best_of", "logprobs", "brand_new", "é"]
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    everything = Meanings()
    everything._one = lambda text: mix(a=1.0)  # type: ignore[method-assign]
    tenants = tuple(TenantSettings(name, (digest_of_key(key),)) for name, key in KEYS.items())
    with RedisServer() as server, Provider() as provider:
        config = server.config(archive_dir=tmp_path_factory.mktemp("archive"))
        with RunningGateway(provider, config, embedder=everything, tenants=tenants) as running:
            yield running


#: A request: who asks, where, with which headers and what in the body.
_REQUESTS = st.fixed_dictionaries(
    {
        "tenant": st.sampled_from(sorted(KEYS)),
        "path": st.sampled_from([CHAT, MESSAGE, RESPONSE]),
        "query": st.sampled_from(["", "?beta=true", "?api-version=1", "?api-version=2"]),
        "model": st.sampled_from(["m-1", "m-2"]),
        "system": st.sampled_from([None, "Be brief.", "Be kind."]),
        "account": st.sampled_from([None, "Bearer sk-1", "Bearer sk-2"]),
        "headers": st.dictionaries(
            st.sampled_from(["anthropic-beta", "openai-beta", "anthropic-version", "openai-project"]),
            st.sampled_from(["a", "b"]),
            max_size=2,
        ),
        "namespace": st.sampled_from([None, "one", "two"]),
        "fields": st.dictionaries(_NAMES, _VALUES, max_size=2),
    }
)


def ask(gateway: RunningGateway, request: dict[str, Any], run: int, words: str) -> Reply:
    # Each example has a part of the cache of its own.
    headers = {"x-lix-key": KEYS[request["tenant"]], "x-lix-cache-namespace": f"{request['namespace']}-{run}"}
    headers |= request["headers"] | ({"authorization": request["account"]} if request["account"] else {})
    body: dict[str, Any] = {"model": request["model"], **request["fields"]}
    turn = [{"role": "user", "content": words}]
    if request["path"] == RESPONSE:
        body |= {"input": words, "store": False, "instructions": request["system"]}
    elif request["path"] == MESSAGE:
        body |= {"messages": turn, "system": request["system"]}
    else:
        body["messages"] = [
            *([{"role": "system", "content": request["system"]}] if request["system"] else []),
            *turn,
        ]
    return post(
        gateway.url,
        json.dumps(body).encode(),
        request["path"] + request["query"],
        **{name.replace("-", "_"): value for name, value in headers.items()},
    )


def spelled(request: dict[str, Any]) -> str:
    """Tell what makes another question: 1, 1.0 and true are three things."""
    plain = {**request, "query": request["query"].replace("?beta=true", "")}
    parts = {name: sorted(item.items()) if isinstance(item, dict) else item for name, item in plain.items()}
    return repr(sorted(parts.items()))


@pytest.mark.promise("isolation")
@_slowly
@given(_REQUESTS, _REQUESTS)
def test_requests_that_differ_in_anything_share_no_answer(
    gateway: RunningGateway, one: dict[str, Any], other: dict[str, Any]
) -> None:
    run = next(_numbers)
    first = ask(gateway, one, run, "Where is the billing page?")
    assert first.state in ("miss", "bypass")
    gateway.settle()
    second = ask(gateway, other, run, "Where is the billing page please?")
    if spelled(one) != spelled(other):
        assert second.state in ("miss", "bypass"), (one, other)
    third = ask(gateway, one, run, "Where is the billing page?")
    assert third.state in ("hit-l1-exact", "hit-l2-semantic", "bypass") or third.status != 200, one


@pytest.mark.promise("isolation")
@_slowly
@given(_REQUESTS, st.data())
def test_one_difference_is_enough(gateway: RunningGateway, one: dict[str, Any], data: st.DataObject) -> None:
    """The requests are alike but for one part, in which they differ."""
    name = data.draw(st.sampled_from(sorted(one)))
    other = {**one, name: data.draw(_REQUESTS)[name]}
    run = next(_numbers)
    ask(gateway, one, run, "Where is the billing page?")
    gateway.settle()
    for words in ("Where is the billing page?", "Where is the billing page please?"):
        reply = ask(gateway, other, run, words)
        if spelled(one) != spelled(other) and words.endswith("page?"):
            assert reply.state in ("miss", "bypass"), (one, other)


def test_fields_that_change_no_answer_are_few() -> None:
    """Each of them was looked at; a new one is to be, too."""
    assert len(EXCLUDED) == 8
