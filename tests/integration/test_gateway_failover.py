"""A Redis that lost what it was told last: nobody goes on with what was dropped."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lix_cache.gateway import keeping
from tests.support import RedisServer
from tests.support.dropping import Keeper, drop, held, is_served, made
from tests.support.provider import RunningGateway
from tests.support.redis_server import wait_until

pytestmark = pytest.mark.promise("right-answer")


class Lagging:
    """What a replica has that does not get the next writes, and what it is when it becomes the master."""

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client()
        self._had = {key: (self._client.dump(key), self._client.pttl(key)) for key in self._keys()}

    def _keys(self) -> list[Any]:
        return list(self._client.scan_iter("*"))

    def promote(self) -> None:
        for key in self._keys():
            self._client.delete(key)
        for key, (data, milliseconds) in self._had.items():
            self._client.restore(key, max(0, milliseconds), data)
        # It takes a history of its own, as every replica does that becomes a master.
        self._client.replicaof("127.0.0.1", "1")
        self._client.replicaof("NO", "ONE")


@pytest.mark.parametrize("what", ["deletion", "purge"])
def test_what_was_dropped_is_dropped_again_after_a_failover_that_lost_it(
    what: str, keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_LOOK_SECONDS", 0.1)
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path, redis_retry_seconds=0.1)
        with RunningGateway(keeper.url, config) as one, RunningGateway(keeper.url, config) as other:
            identity = made(one)
            assert is_served(other)
            replica = Lagging(server)
            with monkeypatch.context() as patch:
                patch.setattr(other.core, "look", lambda _: asyncio.sleep(0))
                drop(one, identity, what)
                assert held(other), "it has not heard of it"
                replica.promote()
            wait_until(lambda: not held(other), what="a look at the new master")
            assert not is_served(one), "it knows itself what was dropped"
            wait_until(lambda: not is_served(other), what="that it is dropped again")
            later = made(one)
            assert later != identity
            wait_until(lambda: not len(one.core.undone), what="the end of it")
            other.forget()
            assert is_served(other), "what came later stays"
