"""The suite of outages with servers of its own, which hang all together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.test_session_outages import *  # noqa: F403
from tests.support.redis_cluster import RedisCluster, RedisSentinel

#: So long that none takes over from one that hangs.
_PATIENT_MS = 120_000


@pytest.fixture(scope="module", params=["cluster", "sentinel"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    kind = RedisCluster if request.param == "cluster" else RedisSentinel
    with kind(node_timeout_ms=_PATIENT_MS) as running:
        yield running
