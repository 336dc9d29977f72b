"""Any sequence of operations, outages included, by two processes: the model is a list."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lix_cache.config import CacheConfig
from lix_cache.errors import RedisUnavailable, RevisionMismatch
from lix_cache.messages.turn import Turn
from lix_cache.session import changes, read, rounds, whole
from tests.support import CountingProxy, RedisServer
from tests.support.lab import Process, fast_folder

pytestmark = pytest.mark.promise("no-loss")

WHO = st.sampled_from(["behind", "direct"])


class SessionMachine(RuleBasedStateMachine):
    """Two processes on one session; one of them may be cut off from Redis.

    Under ``durability="disk"`` Redis may also go back to an older state, at any time.
    """

    server: RedisServer
    proxy: CountingProxy
    policy = "archive"
    durability = "redis"

    def __init__(self) -> None:
        super().__init__()
        self.folder = fast_folder(tempfile.gettempdir())
        self.config: CacheConfig = self.server.config(
            redis_key_prefix=f"t{uuid.uuid4().hex}",
            archive_dir=self.folder,
            hot_window_size=3,
            archive_batch_turns=1,
            redis_retry_seconds=0,
            evictor_enabled=False,
            on_redis_error=self.policy,
            durability=self.durability,
        )
        self.proxy.allow()
        self.cut_off = False
        self.number = 0
        #: What must come back, in order.
        self.model: list[str] = []
        #: What is certain to be on disk.
        self.on_disk: set[str] = set()
        #: How many of the newest are the context; the rest was cleared.
        self.since_clear = 0
        self.processes: dict[str, Process] = {}
        #: What Redis held when a snapshot was made.
        self.saved: dict[bytes, tuple[Any, int]] | None = None

    @initialize()
    def begin(self) -> None:
        for who in ("behind", "direct"):
            self._open(who)

    def _open(self, who: str) -> None:
        port = self.proxy.port if who == "behind" else self.server.port
        self.processes[who] = Process(self.config.replace(redis_port=port))

    def _reaches(self, who: str) -> bool:
        return who == "direct" or not self.cut_off

    @rule(who=WHO, many=st.integers(1, 6))
    def add(self, who: str, many: int) -> None:
        for _ in range(many):
            self.number += 1
            text = f"{self.number}"
            if self._reaches(who) or self.policy == "archive":
                self.processes[who].add(text)
                self.model.append(text)
                self.since_clear += 1
                if self.durability == "disk" or not self._reaches(who):
                    self.on_disk.add(text)
            else:
                with pytest.raises(RedisUnavailable):
                    self.processes[who].add(text)
        # Within a millisecond, messages of two that cannot talk have no order.
        time.sleep(0.002)

    @rule(who=WHO)
    def get_full(self, who: str) -> None:
        if self._reaches(who):
            assert self.processes[who].full() == self.model
        else:
            self._partial(self.processes[who].full)

    @rule(who=WHO)
    def get_context(self, who: str) -> None:
        if not self._reaches(who):
            self._partial(self.processes[who].context)
            return
        # What another has archived without Redis is in the context once it is reconciled.
        self._reconcile()
        expected = self.model[len(self.model) - min(3, self.since_clear) :]
        assert self.processes[who].context() == expected

    def _partial(self, read: Any) -> None:
        """Without Redis: what is on disk, or an error, and never as if there were nothing."""
        try:
            found = read()
        except RedisUnavailable:
            return
        assert self.policy == "archive"
        assert found
        assert found == [text for text in self.model if text in set(found)]

    def _reconcile(self) -> None:
        direct = self.processes["direct"]
        direct.drive(rounds.reconcile_all_pending(direct.store))

    @rule(who=WHO)
    def flush(self, who: str) -> None:
        if self._reaches(who):
            self.processes[who].flush()
            self.on_disk = set(self.model)
        else:
            with pytest.raises(RedisUnavailable):
                self.processes[who].flush()

    @rule(who=WHO, step=st.sampled_from(["spill", "evict", "reconcile"]))
    def daemon(self, who: str, step: str) -> None:
        process = self.processes[who]
        running = {
            "spill": lambda: rounds.spill_overflow(process.store),
            "evict": lambda: rounds.offload_idle(process.store, 0),
            "reconcile": lambda: rounds.reconcile_all_pending(process.store),
        }[step]
        try:
            try:
                process.drive(running())
            except RedisUnavailable:
                if not self._reaches(who):
                    raise
                # A connection that was cut before may be found so only now; the next round has a new one.
                process.drive(running())
        except RedisUnavailable:
            assert not self._reaches(who)
        else:
            if step == "evict":
                self.on_disk = set(self.model)

    @rule(who=WHO)
    def clear(self, who: str) -> None:
        process = self.processes[who]
        try:
            process.drive(whole.clear(process.session))
        except RedisUnavailable:
            assert not self._reaches(who)
            return
        assert self.processes["direct"].full() == self.model
        assert self.processes["direct"].context() == []
        self.on_disk = set(self.model)
        self.since_clear = 0

    @rule(who=WHO)
    def delete(self, who: str) -> None:
        process = self.processes[who]
        try:
            there = process.drive(whole.delete(process.session))
        except RedisUnavailable:
            assert not self._reaches(who)
            return
        assert there or not self.model
        self.model, self.on_disk, self.since_clear = [], set(), 0

    def _changed(self, who: str, change: Any) -> Any:
        """Run a change; RedisUnavailable where it could not be made."""
        process = self.processes[who]
        done = process.drive(change(process))
        if not self._reaches(who):
            assert self.policy == "archive"
            # Redis hears of it when it is there.
            self._reconcile()
        return done

    def _take_out(self, text: str, *instead: str) -> None:
        place = self.model.index(text)
        in_context = place >= len(self.model) - self.since_clear
        self.model[place : place + 1] = instead
        self.on_disk.discard(text)
        self.since_clear -= in_context and not instead

    @rule(who=WHO)
    def pop_last(self, who: str) -> None:
        there = self.model if self._reaches(who) else self.processes["direct"].archived()
        try:
            popped = self._changed(who, lambda process: changes.pop_last(process.session))
        except RedisUnavailable:
            assert not self._reaches(who)
            assert self.policy == "raise" or not there
            return
        if popped is None:
            assert not there
            return
        assert popped.body["content"] == there[-1]
        self._take_out(there[-1])

    @precondition(lambda self: self.model)
    @rule(who=WHO, at=st.integers(0, 20), edits=st.booleans())
    def delete_or_edit(self, who: str, at: int, edits: bool) -> None:
        text = self.model[-1 - at % len(self.model)]
        direct = self.processes["direct"]
        turns = direct.drive(read.get_full(direct.session))
        message_id = next(turn.id for turn in turns if turn.body["content"] == text)
        self.number += 1
        new = f"{self.number}"

        def edited(turn: Turn) -> Turn:
            return Turn(turn.id, {**turn.body, "content": new}, turn.vector)

        def change(process: Process) -> Any:
            if edits:
                return changes.edit(process.session, message_id, edited)
            return changes.delete_message(process.session, message_id)

        try:
            assert self._changed(who, change)
        except RedisUnavailable:
            assert not self._reaches(who)
            assert self.policy == "raise" or text not in direct.archived()
            return
        self._take_out(text, *([new] if edits else []))

    @rule(who=WHO, many=st.integers(0, 5), stale=st.booleans())
    def replace_all(self, who: str, many: int, stale: bool) -> None:
        process = self.processes[who]
        texts = [f"{self.number + i + 1}" for i in range(many)]
        self.number += many
        try:
            revision = process.drive(changes.revision(process.session)) if self.model else None
            if stale and self.model:
                self.processes["direct"].drive(changes.pop_last(self.processes["direct"].session))
                self._take_out(self.model[-1])
            turns = [process.turn(text) for text in texts]
            self._changed(who, lambda process: changes.replace_all(process.session, turns, revision))
        except RedisUnavailable:
            assert not self._reaches(who)
            return
        except RevisionMismatch:
            assert stale
            return
        assert revision is None or not stale
        self.model, self.on_disk, self.since_clear = list(texts), set(texts), many

    @precondition(lambda self: self.durability == "disk")
    @rule()
    def save(self) -> None:
        """A snapshot is made, or a replica stops following."""
        with self.server.client(db=2) as client:
            keys = list(client.scan_iter(f"{self.config.redis_key_prefix}*", count=1000))
            self.saved = {key: (client.dump(key), max(0, client.pttl(key))) for key in keys}

    @precondition(lambda self: self.saved is not None)
    @rule()
    def go_back(self) -> None:
        """The server starts from the snapshot, or the replica takes over: all connections end."""
        with self.server.client(db=2) as client:
            for key in client.scan_iter(f"{self.config.redis_key_prefix}*", count=1000):
                client.delete(key)
            for key, (value, ttl) in (self.saved or {}).items():
                client.restore(key, ttl, value)
            client.client_kill_filter(_type="normal", skipme=True)

    @rule(who=WHO)
    def reopen(self, who: str) -> None:
        """The process ends, and another takes its place: what it remembered of an outage is gone."""
        self._open(who)

    @precondition(lambda self: not self.cut_off)
    @rule()
    def go_away(self) -> None:
        self.proxy.refuse()
        self.cut_off = True

    @precondition(lambda self: self.cut_off)
    @rule()
    def come_back(self) -> None:
        self.proxy.allow()
        self.cut_off = False

    @precondition(lambda self: not self.cut_off)
    @rule(when=st.sampled_from(["before", "after"]), skip=st.integers(0, 3))
    def add_over_a_breaking_connection(self, when: str, skip: int) -> None:
        self.number += 1
        self.proxy._cuts = ["none"] * skip + [when]
        try:
            self.processes["behind"].add(f"{self.number}")
        except RedisUnavailable:
            # Bringing hot and cold together broke, before anything was sent of the message.
            assert self.policy == "raise"
            self.proxy._cuts = []
            return
        self.proxy._cuts = []
        self.model.append(f"{self.number}")
        self.since_clear += 1
        time.sleep(0.002)

    @invariant()
    def everything_is_there_once_and_in_order(self) -> None:
        if self.processes:
            assert self.processes["direct"].full() == self.model

    def teardown(self) -> None:
        self.proxy.allow()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("examples", [10, pytest.param(60, marks=[pytest.mark.exhaustive])])
@pytest.mark.parametrize(
    ("policy", "durability"), [("archive", "redis"), ("raise", "redis"), ("archive", "disk")]
)
def test_whatever_happens_the_history_is_what_was_acknowledged(
    redis_server: RedisServer, proxy: CountingProxy, policy: str, durability: str, examples: int
) -> None:
    machine = type(
        "Machine",
        (SessionMachine,),
        {"server": redis_server, "proxy": proxy, "policy": policy, "durability": durability},
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
