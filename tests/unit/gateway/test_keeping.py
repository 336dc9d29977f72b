"""Forgetting what was dropped of what is under way: the right answers, at a cost that is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.core import Core
from lix_cache.gateway.deletions import Drop
from lix_cache.gateway.relay import Flight
from lix_cache.gateway.settings import GatewaySettings, UpstreamSettings

pytestmark = pytest.mark.promise("right-answer")


@pytest.fixture
def core(tmp_path: Path) -> Core:
    settings = GatewaySettings(upstreams=(UpstreamSettings("d", "http://127.0.0.1:1"),), redis=False)
    return Core(settings, CacheConfig(archive_dir=tmp_path), environ={})


class Counted(list[bytes]):
    """Chunks, and how many of them were read."""

    reads = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in super().__iter__():
            self.reads += 1
            yield chunk

    def __getitem__(self, of: Any) -> Any:
        found = super().__getitem__(of)
        self.reads += len(found) if isinstance(of, slice) else 1
        return found


def flight_of(core: Core, key: bytes, *chunks: bytes) -> Flight:
    flight = core.new_flight(key, core.tenants.find({}))
    flight.chunks = Counted(chunks)
    flight.size = sum(map(len, chunks))
    return flight


def deleted(core: Core, *ids: str, tenant: str = "local") -> None:
    core.heed([Drop(tenant, 1.0, one) for one in ids])


def test_the_id_of_an_answer_is_looked_for_once_however_long_it_is_and_many_are_deleted(core: Core) -> None:
    flight = flight_of(core, b"key", b'{"id": "resp_1", "x": "', *[b"x" * 1024] * 1000)
    for number in range(10):
        deleted(core, *(f"resp_other_{number}_{i}" for i in range(100)))
    assert core.flights
    chunks = flight.chunks
    assert isinstance(chunks, Counted)
    assert chunks.reads <= 5, "four thousand bytes of it"
    deleted(core, "resp_1", tenant="other")
    assert core.flights
    deleted(core, "resp_2", "resp_1")
    assert not core.flights


def test_the_id_is_found_in_pieces_as_it_comes_and_with_escapes(core: Core) -> None:
    flight = flight_of(core, b"key", b'data: {"response": {"i', b'd" :"resp')
    deleted(core, "resp_1")
    assert core.flights
    flight.chunks.append(b'_1"}}\n\n')
    flight.size += len(flight.chunks[-1])
    deleted(core, "resp_1")
    assert not core.flights
    flight_of(core, b"key", b'{"id":"a\\"b"}')
    deleted(core, 'a"b')
    assert not core.flights
