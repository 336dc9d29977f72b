"""A model that is still loading is not said to have failed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from lix_cache.gateway.health import Health
from lix_cache.gateway.warming import Warming


@pytest.mark.parametrize(
    ("state", "status", "upstream"),
    [("loading", "loading", "loading"), ("ok", "ok", "ok"), ("not loaded: x", "down", "failing")],
)
def test_a_model_that_loads_is_said_to_load(state: str, status: str, upstream: str) -> None:
    route = SimpleNamespace(name="local", breaker=SimpleNamespace(is_open=False))
    core: Any = SimpleNamespace(
        redis=None,
        warming=Warming(None, None),
        snapshot=SimpleNamespace(state="none", hydrated=0),
        routes=SimpleNamespace(routes=[route]),
        local={"local": SimpleNamespace(state=state)},
    )
    told = asyncio.run(Health(core).state())
    assert (told["status"], told["upstreams"]) == (status, {"local": upstream})
