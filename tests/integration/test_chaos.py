"""The chaos test itself: an episode passes, a planted fault is found, and what may be lost is exact."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CacheConfig, HybridConversationCache
from lix_cache.embedded import find_server_binary
from tests.support.chaos import SCRIPTS, schedule, servers, world

#: What no fault is known of, for the time being or for good: the test is of the chaos test.
MILD = "kill_worker,fork,cancel,cut,outage,kill_server,full_disk,full_memory,worker_clock"

#: Python reads this before anything else, in each process: one add in ten is forgotten.
FORGETFUL = """
from lix_cache.session.cache import HybridConversationCache as Cache
calls, real = [0], Cache.add_message
def add_message(self, *args, **kwargs):
    calls[0] += 1
    return 1 if calls[0] % 10 == 0 else real(self, *args, **kwargs)
Cache.add_message = add_message
"""


def chaos(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    root = SCRIPTS.parent
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "chaos.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=400,
        cwd=root,
    )


@pytest.mark.slow
@pytest.mark.promise("no-loss")
def test_an_episode_passes_and_the_table_says_what_happened(tmp_path: Path) -> None:
    done = chaos("--episodes", "1", "--seed", "3", "--seconds", "4", "--events", MILD, "--out", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "seed 3: " in done.stdout
    rows = {
        cells[1].strip(): cells[2].strip()
        for cells in (line.split("│") for line in done.stdout.splitlines())
        if len(cells) == 4
    }
    assert rows["episodes"] == "1"
    assert int(rows["messages acknowledged"]) > 20
    assert rows["lost: acknowledged, and missing"] == "0"
    assert not list(tmp_path.iterdir()), "nothing failed, so nothing is kept"


@pytest.mark.exhaustive
def test_a_planted_fault_is_found_written_down_and_made_small(tmp_path: Path) -> None:
    plant = tmp_path / "plant"
    plant.mkdir()
    (plant / "sitecustomize.py").write_text(FORGETFUL)
    path = f"{plant}{os.pathsep}{SCRIPTS.parent}"
    out = tmp_path / "out"
    done = chaos(
        "--episodes", "1", "--seed", "1", "--seconds", "3", "--events", "cut", "--tries", "1",
        "--out", out, PYTHONPATH=path,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    assert "FAILED, lost" in done.stdout
    assert "failed seeds: 1" in done.stdout
    smallest = out / "smallest-1.json"
    small = schedule.Schedule.from_json(smallest.read_text())
    assert small.events == (), "the fault needs none"
    assert len(small.workers) == 1
    again = chaos("--replay", smallest, "--no-shrink", "--episodes", "1", "--out", out, PYTHONPATH=path)
    assert again.returncode == 1
    mended = chaos("--replay", smallest, "--no-shrink", "--episodes", "1", "--out", tmp_path / "mended")
    assert mended.returncode == 0, mended.stdout[-3000:]


def test_an_unknown_kind_of_event_is_refused() -> None:
    done = chaos("--events", "nonsense", "--episodes", "1")
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "kill_worker" in done.stderr
    assert "Traceback" not in done.stderr


# -- what may be missing -----------------------------------------------------------------------


def _plain(**settings: Any) -> Any:
    """A schedule without workers and without chance, for a world that is driven by hand."""
    drawn = schedule.generate(1)
    known = {"durability": "redis", "on_redis_error": "raise", "redis_buckets": 1, "hot_window_size": 3}
    return replace(
        drawn,
        settings={**known, **settings},
        sessions=("s",),
        wiped=(),
        aof=False,
        server_clock=0.0,
        workers=(),
        events=(schedule.Event(1.0, "failover", {"lag": 0.0, "skew": 0.0, "down": 0.0}),),
    )


@pytest.fixture(params=["redis", "disk"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    binary = find_server_binary()
    assert binary is not None
    made = world.World(_plain(durability=request.param), binary.path, None, tmp_path / "w")
    try:
        made.start()
        yield made
    finally:
        made.close()


def add(stage: Any, *texts: str, flush: bool = False) -> None:
    """Add without a door: as a worker does, and by the public API."""
    cache = HybridConversationCache("s", CacheConfig(**stage.settings()))
    for text in texts:
        cache.add_message("user", text)
    if flush:
        cache.flush_to_disk()


def may_miss(stage: Any, *texts: str) -> None:
    """Compare; under ``durability="disk"`` nothing may be missing."""
    expected = set(texts) if stage.schedule.durability == "redis" else set()
    assert stage.may_miss.get("s", set()) == expected


def test_after_flushall_what_was_in_redis_alone_may_be_missing(stage: Any) -> None:
    add(stage, "on disk 1", "on disk 2", flush=True)
    add(stage, "hot 1", "hot 2")
    stage.happen(schedule.Event(0.0, "flushall"))
    may_miss(stage, "hot 1", "hot 2")
    assert stage.hot() == {"s": set()}


def test_after_a_restart_from_a_snapshot_what_is_younger_may_be_missing(stage: Any) -> None:
    add(stage, "old")
    stage.happen(schedule.Event(0.0, "snapshot"))
    add(stage, "young")
    stage.happen(schedule.Event(0.0, "restore", {"down": 0.0}))
    may_miss(stage, "young")
    assert stage.hot() == {"s": {"old"}}


def test_after_a_kill_without_files_all_that_was_in_redis_alone_may_be_missing(stage: Any) -> None:
    add(stage, "on disk", flush=True)
    add(stage, "hot")
    stage.happen(schedule.Event(0.0, "kill_server", {"down": 0.0}))
    may_miss(stage, "hot")


def test_after_a_failover_what_the_replica_had_not_heard_of_may_be_missing(stage: Any) -> None:
    add(stage, "heard")
    assert stage.master.client().wait(1, 20_000) == 1
    stage.begin_lag()
    add(stage, "not heard")
    stage.happen(schedule.Event(0.0, "failover", {"lag": 0.0, "skew": 0.0, "down": 0.0}))
    may_miss(stage, "not heard")
    assert stage.hot() == {"s": {"heard"}}


def test_a_servers_clock_jumps_and_the_machines_does_not(tmp_path: Path) -> None:
    library = servers.build_clock(tmp_path)
    binary = find_server_binary()
    if library is None:
        pytest.skip("no C compiler")
    assert binary is not None
    node = servers.Node(binary.path, tmp_path / "node", clock=library, shift=3600.0)
    twin = servers.Node(binary.path, tmp_path / "twin", clock=library)
    try:
        node.start()
        twin.start()

        def ahead() -> int:
            return round((node.client().time()[0] - twin.client().time()[0]) / 600) * 10

        assert ahead() == 60
        node.jump(-7200.0)
        assert ahead() == -60
    finally:
        node.kill()
        twin.kill()


def test_a_full_disk_is_full_and_has_room_again(tmp_path: Path) -> None:
    disk = servers.Disk(tmp_path / "archive", small=True)
    try:
        disk.fill()
        if disk.flag is None:
            with pytest.raises(OSError, match="No space left"):
                (disk.folder / "x").write_bytes(b"x" * 8192)
        else:
            assert disk.flag.exists()
        disk.free()
        assert disk.flag is None or not disk.flag.exists()
        (disk.folder / "x").write_bytes(b"x" * 8192)
    finally:
        disk.close()
