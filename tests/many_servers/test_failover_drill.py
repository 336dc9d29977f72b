"""`make failover`, as short as it gets: kills, a partition, slots that move; every message compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.promise("no-loss"), pytest.mark.slow, pytest.mark.exhaustive]

ROOT = Path(__file__).resolve().parents[2]


def test_a_short_drill_keeps_every_promise(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    words = ("--kills", "1", "--partitions", "1", "--slots", "60", "--json", str(figures))
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "failover.py"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert figures.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(figures.read_text())
    # Also that of what the default has lost each message is told of: every writer goes on to the end.
    assert found["broken"] == [], done.stdout[-3000:]
    assert done.returncode == 0
    for name in ("replica", "default"):
        assert found[name]["faults"] == {"kill": 1, "partition": 1}
        assert found[name]["acknowledged"] > 0
    assert found["replica"]["lost"] == 0
    assert found["default"]["doubled"] == 0
    assert found["default"]["lost_as_get_stats_says"] == found["default"]["lost"]
    if found["partition"].startswith("two network namespaces"):
        # Seconds of adds on the side that loses: where nothing is lost, nothing was tried.
        assert found["default"]["lost"] > 50
    assert found["resharding"]["faults"] == {"slots moved": 60}
    assert found["resharding"]["calls_that_failed"] == {}
