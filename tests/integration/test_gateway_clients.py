"""The clients that applications use, each with the gateway as its ``base_url``, beside the same calls direct.

`make clients` installs what is not in the tests' own environment; what is absent is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lix_cache import CacheConfig
from tests.support.clients import Client
from tests.support.meaning import Meanings
from tests.support.provider import Provider, RunningGateway

CLIENTS = ("sdk", "node", "langchain", "pydantic_ai", "llama_index", "openai_agents")
#: What makes two answers to one request different, wherever it stands.
_OWN = frozenset({"id", "created", "created_at", "item_id", "completed_at", "_request_id", "run_id"})
_STREAMS = {f"{name} whole": f"{name} stream" for name in ("chat", "messages", "responses")}
#: One turn in words: what another wording may be served for.
_IN_WORDS = {*_STREAMS, *_STREAMS.values()}


class Wordings(Meanings):
    """A question means the same with and without a polite word."""

    def _one(self, text: str) -> np.ndarray:
        return super()._one(text.replace(" please", ""))


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with Client(request.param) as running:
        yield running


def plain(value: Any) -> Any:
    """Return what a client said without ids and times."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if name not in _OWN}
    return [plain(item) for item in value] if isinstance(value, list) else value


def asked(case: str, more: str = "") -> str:
    return f"Where is the billing page of {case}{more}?"


class Beside:
    """A client, the provider and the gateway before it."""

    def __init__(self, client: Client, provider: Provider, gateway: RunningGateway) -> None:
        self.client, self.provider, self.gateway = client, provider, gateway

    def direct(self, case: str, question: str) -> Any:
        return plain(self.client.ask(case, self.provider.url, question))

    def through(self, case: str, question: str) -> tuple[Any, int]:
        """Return what the client got by the gateway, and how many calls that made upstream."""
        before = len(self.provider.calls)
        said = plain(self.client.ask(case, self.gateway.url, question))
        self.gateway.settle()
        return said, len(self.provider.calls) - before

    def check_replays(self, case: str) -> None:
        """A miss, a hit in memory, in Redis and by meaning."""
        direct = self.direct(case, asked(case))
        assert "ok" in direct, (case, direct)
        missed, calls = self.through(case, asked(case))
        assert missed == direct, case
        assert calls > 0 or case in _STREAMS.values(), case
        if case == "messages count":  # passed on each time
            return
        assert self.through(case, asked(case)) == (direct, 0), case
        self.gateway.forget()
        assert self.through(case, asked(case)) == (direct, 0), (case, "Redis")
        if case in _IN_WORDS:
            assert self.through(case, asked(case, " please")) == (direct, 0), (case, "by meaning")

    def check_forms(self, case: str, stream: str) -> None:
        """What came unstreamed is served as a stream with the same words; and the other way round."""
        question = asked(case, " at once")
        words = _words(self.through(case, question)[0])
        streamed, calls = self.through(stream, question)
        assert (words in json.dumps(streamed), calls) == (True, 0), (case, "streamed from unstreamed")
        question = asked(case, " in pieces")
        self.through(stream, question)
        # A chat's stream tells its tokens only if it was asked to: without them it does not serve a body.
        is_enough = not stream.startswith("chat") or b'"include_usage":true' in self.provider.calls[-1].body
        direct = self.direct(case, question)
        expected = (direct, 0 if is_enough else 1)
        assert self.through(case, question) == expected, (case, "unstreamed from streamed")

    def check_errors(self, case: str) -> None:
        for act in ("400", "429", "500") if case.endswith("whole") else ("429",):
            self.provider.do(act, act)
            refused = self.direct(case, asked(case, act))
            assert self.through(case, asked(case, act))[0] == refused, (case, act)
            self.provider.acts.clear()


@pytest.mark.slow
@pytest.mark.promise("right-answer")
def test_every_call_is_the_same_direct_and_through_the_gateway(
    client: Client, provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, embedder=Wordings(dim=64), retries=0) as gateway:
        beside = Beside(client, provider, gateway)
        for case in client.cases:
            beside.check_replays(case)
            if _STREAMS.get(case) in client.cases:
                beside.check_forms(case, _STREAMS[case])
            beside.check_errors(case)


def _words(said: Any) -> str:
    found = json.dumps(said)
    start = found.index("Scripted answer")
    return found[start : found.index('"', start)].rstrip("\\")
