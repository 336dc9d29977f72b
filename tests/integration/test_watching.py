"""What an operator watches: whether a daemon is at work, counters, and what is not known."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lix_cache import CacheConfig, HybridConversationCache, StoreAdmin
from lix_cache.cli.app import app
from lix_cache.session.evictor import Evictor
from tests.support import RedisServer
from tests.support.twins import Twins
from tests.support.waiting import wait_until


def test_a_daemon_that_has_nothing_to_move_is_seen_at_work(redis_config: CacheConfig) -> None:
    config = redis_config.replace(evictor_enabled=True, evictor_interval_seconds=0.05)
    admin = StoreAdmin(config)
    assert not admin.stats().evictor_runs
    session = HybridConversationCache("s", config)
    try:
        session.add_message("user", "x")
        wait_until(lambda: admin.stats().evictor_runs)
        said = {one.name: one.found for one in admin.doctor()}
        assert said["evictor"] == "a process moves idle sessions to disk"
        os.makedirs(config.archive_dir, exist_ok=True)
        options = [
            f"--redis-url=redis://127.0.0.1:{config.redis_port}",
            f"--prefix={config.redis_key_prefix}",
        ]
        top = CliRunner().invoke(app, [*options, f"--archive-dir={config.archive_dir}", "top", "--once"])
        (line,) = [line for line in top.stdout.splitlines() if line.startswith("evictor")]
        assert "at work" in line
    finally:
        session.evictor.stop()
        assert session.evictor.join(30)


def test_a_daemon_with_long_pauses_is_seen_between_its_rounds(redis_config: CacheConfig) -> None:
    config = redis_config.replace(evictor_interval_seconds=300)
    store = HybridConversationCache("s", config)._store
    Evictor(store).run_once()
    from lix_cache.hot.clients import lazy_client

    left = lazy_client(store.endpoint).pttl(store.hot.keys.rounds())
    assert 600_000 < left <= 900_000


@pytest.mark.promise("no-loss")
def test_a_server_that_takes_no_writes_does_not_fail_a_round_that_only_tells(
    redis_config: CacheConfig,
) -> None:
    with RedisServer() as server:
        config = redis_config.replace(redis_port=server.port)
        store = HybridConversationCache("s", config)._store
        Evictor(store).run_once()
        with server.client() as client:
            client.config_set("maxmemory", 1)
        assert Evictor(store).run_once().messages == 0


def test_counters_of_the_process_are_those_of_all_its_objects(twins: Twins, tmp_path: Path) -> None:
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path, evictor_enabled=False)
        one, other = (twins.make("HybridConversationCache", name, config) for name in "ab")
        one.add_message("user", "x")
        server.kill()
        for cache in (one, other, other):
            cache.add_message("user", "y")
        assert [cache.get_stats()["counters"]["archived_adds"] for cache in (one, other)] == [1, 2]
        third = twins.make("HybridConversationCache", "c", config)
        for cache in (one, other, third):
            assert cache.get_stats()["process_counters"]["archived_adds"] == 3


@pytest.mark.promise("no-false-empty")
def test_stats_of_a_session_whose_archive_is_away_know_no_size(
    twins: Twins, redis_config: CacheConfig, tmp_path: Path
) -> None:
    place = tmp_path / "archive"
    cache: Any = twins.make("HybridConversationCache", "s", redis_config.replace(archive_dir=str(place)))
    stats = cache.get_stats()
    assert (stats["disk_turns"], stats["disk_size_bytes"], stats["archive"]) == (0, 0, "ok")
    cache.add_message("user", "x")
    cache.flush_to_disk()
    aside = tmp_path / "aside"
    place.rename(aside)
    place.write_text("not a folder")
    stats = cache.get_stats()
    assert (stats["disk_turns"], stats["disk_size_bytes"]) == (None, None)
    assert stats["archive"] != "ok"


def test_what_is_said_of_a_log_fits_a_log(redis_config: CacheConfig, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/log"
    config = redis_config.replace(archive_url=url, evictor_enabled=False)
    HybridConversationCache("s", config).add_message("user", "x")
    options = [f"--redis-url=redis://127.0.0.1:{config.redis_port}", f"--prefix={config.redis_key_prefix}"]

    def cli(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*options, f"--archive-dir={url}", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "1 session moved to the archive, 1 message" in cli("offload", "--all")
    shown = cli("stats")
    assert "archived sessions" in shown
    assert "archive files" not in shown
    assert "on disk" not in shown
    assert "1 session in file://" in cli("verify")
    assert "of 1 sessions compacted" in cli("compact", "--idle-minutes", "0")
    names = {one.name: one.found for one in StoreAdmin(config).doctor()}
    assert names["archive"] == f"{url} can be written to"
    assert "archive folder" not in names
