"""Fixtures that every test may use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import lix_cache
from lix_cache.config import CacheConfig
from tests.support import CountingProxy, RedisServer
from tests.support.coverage_forks import guard_forks
from tests.support.lab import fast_folder
from tests.support.sampling import mark_the_rest
from tests.support.stores import own_store
from tests.support.twins import Twins

if TYPE_CHECKING:
    from tests.support.dropping import Keeper
    from tests.support.provider import Provider, RunningGateway


def pytest_configure() -> None:
    guard_forks()
    if "CI" not in os.environ:  # there Hypothesis loads a profile of its own
        slow = [HealthCheck.too_slow]  # a machine is, which says nothing of the test
        settings.register_profile("without deadlines", deadline=None, suppress_health_check=slow)
        settings.load_profile("without deadlines")


@pytest.hookimpl(tryfirst=True)  # before any are left out: which case is which is counted
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let ``-k no-loss`` choose the tests of a promise by its name; mark what a sample leaves out."""
    mark_the_rest(items)
    for item in items:
        for marker in item.iter_markers("promise"):
            item.extra_keyword_matches.update(marker.args)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    cache = getattr(session.config, "cache", None)
    if cache is not None and not hasattr(session.config, "workerinput"):
        # For .ci/run: make hides it, and after an internal error not every test was run.
        cache.set("lix_cache/exit_code", int(exitstatus))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One real server per test process, shared by the tests.

    A test that stops, kills or pauses a server, or gives it a password, starts one of
    its own: ``with RedisServer(appendonly=True) as server``.
    """
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_config(redis_server: RedisServer, tmp_path: Path) -> CacheConfig:
    """A config for the shared server whose keys and archive no other test has."""
    return own_store(redis_server, tmp_path)


@pytest.fixture
def new_store(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., CacheConfig]]:
    """Makes stores for tests that stop flows: small windows, and a disk in memory where there is one."""
    folder = fast_folder(tmp_path)
    # The breaker is open only where a test opens it.
    small = {"hot_window_size": 4, "archive_batch_turns": 2, "redis_retry_seconds": 0}
    places = (os.path.join(folder, str(number)) for number in count())
    yield lambda **settings: own_store(redis_server, next(places), **{**small, **settings})
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sync", "async"])
def twins(request: pytest.FixtureRequest) -> Iterator[Twins]:
    """Both variants of every class: a test that asks for it runs once with each."""
    made = Twins(request.param)
    yield made
    made.close()


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[CountingProxy]:
    """A proxy before the shared server that counts round trips and cuts connections."""
    with CountingProxy(redis_server.port) as running:
        yield running


@pytest.fixture
def proxy_config(redis_config: CacheConfig, proxy: CountingProxy) -> CacheConfig:
    """``redis_config``, but through the proxy."""
    return redis_config.replace(redis_port=proxy.port)


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A model provider that no test has asked before."""
    from tests.support.provider import Provider  # with aiohttp, which few tests need

    with Provider() as running:
        yield running


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    """A model provider that keeps responses until it is told to delete them."""
    from tests.support.dropping import Keeper

    running = Keeper()
    with running:
        yield running


@pytest.fixture
def gateway(provider: Provider, redis_config: CacheConfig) -> Iterator[RunningGateway]:
    """A gateway of one tenant before it."""
    from tests.support.provider import RunningGateway

    with RunningGateway(provider, redis_config) as running:
        yield running


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with the evaluation data: ``LIX_CACHE_SHARED``, or ``shared`` beside the project."""
    named = os.environ.get("LIX_CACHE_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        if named:
            pytest.fail(f"LIX_CACHE_SHARED names {folder}, which is not a folder")
        pytest.skip(f"no evaluation data at {folder}; set LIX_CACHE_SHARED to its folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_audit_by_chance() -> None:
    """Let no hit be a miss because it was drawn for an audit, where a test does not ask for audits."""
    defaults = lix_cache.SemanticSettings.__init__.__kwdefaults__
    assert defaults is not None
    defaults["audit_rate"] = 0
