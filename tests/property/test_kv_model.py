"""LocalModel against a model without a store: a reply is the one it would have been, whatever came before."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.store import KvStore
from tests.support.kv_engine import ToyEngine

pytestmark = pytest.mark.promise("right-answer")

SYSTEMS = ["You are kind. " * 30, "You are short.", "You are kind. " * 29 + "It is 12:31."]
ACTION = st.tuples(
    st.sampled_from(
        ["say", "say", "say", "again", "edit", "swap", "drop", "flush", "restart", "kill", "forget"]
    ),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(1, 60),
)


class _World:
    """Conversations with a model that has a store, each reply compared with a cold model's."""

    def __init__(self, folder: str, exports: Any, cuts: bool, budget: int) -> None:
        self.engine = ToyEngine(exports, most_live=3, cuts=cuts)
        self.folder = folder
        self.budget = budget
        self.talks: dict[int, list[dict[str, str]]] = {}
        #: The other branch of a conversation, as of one who goes back and forth.
        self.others: dict[int, list[dict[str, str]]] = {}
        self.restart()

    def restart(self) -> None:
        # After a kill the engine's memory is gone as well.
        self.engine = ToyEngine(self.engine.exports, most_live=3, cuts=self.engine.cuts)
        store = KvStore(self.folder, budget_bytes=self.budget)
        self.model = LocalModel(self.engine, store, fewest_tokens=8, memory_bytes=20_000)

    def ask(self, number: int, most: int) -> None:
        talk = self.talks[number]
        cold = LocalModel(ToyEngine()).generate(talk, max_tokens=most)
        expected = cold.all()
        before = self.engine.evaluated
        # Every other conversation goes without a session of its own.
        session = f"s{number}" if number % 2 else None
        reply = self.model.generate(talk, session=session, tenant=f"t{number // 2}", max_tokens=most)
        assert reply.all() == expected
        assert reply.ids == cold.ids
        usage = reply.usage
        assert usage.prompt_tokens == cold.usage.prompt_tokens
        assert 0 <= usage.cached_tokens < usage.prompt_tokens
        computed = self.engine.evaluated - before
        assert computed == usage.prompt_tokens - usage.cached_tokens + max(0, usage.completion_tokens - 1)
        talk += [{"role": "assistant", "content": expected}]

    def do(self, what: str, number: int, system: int, most: int) -> None:
        if what in ("say", "edit") or number not in self.talks:
            talk = self.talks.setdefault(number, [{"role": "system", "content": SYSTEMS[system]}])
            if what == "edit" and len(talk) > 2:
                del talk[2 + system :]
            talk.append({"role": "user", "content": f"Word {most}. " * (1 + most // 20)})
            self.ask(number, most)
        elif what == "swap":
            other = self.others.get(number, self.talks[number][:1])
            self.others[number], self.talks[number] = self.talks[number], [*other]
            self.talks[number].append({"role": "user", "content": f"Word {most % 3}."})
            self.ask(number, 20)
        elif what == "drop":
            # Begun and never read, as by one who has hung up.
            talk = [*self.talks[number], {"role": "user", "content": f"Word {most}."}]
            session = f"s{number}" if number % 2 else None
            self.model.generate(talk, session=session, tenant=f"t{number // 2}").close()
        elif what == "again":
            del self.talks[number][-1:]
            self.ask(number, most)
        elif what == "flush":
            self.model.flush()
        elif what == "forget":
            self.model.forget(f"t{number // 2}")
        else:
            if what == "restart":
                self.model.close()
                assert self.engine.live == 0
            self.restart()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(ACTION, max_size=25),
    st.sampled_from([("blocks", True), ("snapshots", True), ("snapshots", False)]),
    st.sampled_from([1 << 30, 60_000, 9_000]),
)
def test_a_reply_is_the_one_it_would_have_been(
    actions: list[Any], kind: tuple[Any, bool], budget: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = _World(folder, *kind, budget)
        for action in actions:
            world.do(*action)
            assert world.engine.live <= world.engine.most_live
        assert world.model.counters["failed_restores"] == 0
        assert KvStore(folder, budget_bytes=budget).catalogue().total <= budget
