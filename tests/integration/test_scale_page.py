"""docs/scale.md says what ``scripts/simulate_scale.py`` prints; its unit costs are those of the library."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from lix_cache.archive.objects.tier import ObjectTier
from tests.contract.cold_tier import delete, long_after, turn
from tests.fault.test_object_faults import Memory
from tests.support.large_shard import put_large_shard

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "simulate_scale.py"
PAGE = (ROOT / "docs" / "scale.md").read_text("utf-8")


def printed(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def simulation() -> Iterator[Any]:
    pytest.importorskip("obstore")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("simulate_scale")


@pytest.fixture(scope="module")
def costs(simulation: Any) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("_scale_costs")


def test_the_page_shows_what_the_script_prints() -> None:
    pytest.importorskip("obstore")
    shown = re.search(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert shown[1] == printed()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--sessions", "0", "0 is not at least 1"),
        ("--daemons", "0", "0 is not at least 1"),
        ("--processes", "0", "0 is not at least 1"),
        ("--fill", "0", "0 is not more than 0 and at most 1"),
        ("--fill", "1.5", "1.5 is not more than 0 and at most 1"),
        ("--peak", "0.5", "0.5 is not at least 1"),
        ("--buckets", "70000", "70000 is not at least 1 and at most 65536"),
        ("--messages-per-second", "0", "0 is not more than 0"),
        ("--idle-minutes", "-1", "-1 is not at least 0"),
        ("--sessions", "nan", "nan is not at least 1"),
        ("--interval-seconds", "inf", "inf is not more than 0"),
        ("--replicas", "some", "invalid number value: 'some'"),
    ],
)
def test_what_there_cannot_be_is_refused_by_the_name_of_its_option(
    option: str, value: str, said: str
) -> None:
    pytest.importorskip("obstore")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), f"{option}={value}"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"argument {option}: {said}" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_figure_of_the_text_is_one_of_those_that_are_printed(simulation: Any) -> None:
    said = printed()
    text = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    figures = re.findall(r"\*\*([^*]*\d[^*]*)\*\*", text)
    assert figures
    for figure in figures:
        assert figure in said, figure


#: Not compared: the server's time, which is another on each machine.
TIMES = {"add_us", "read_us", "evictions_per_second"}
#: What is counted, or of the library's own form, is the same everywhere. Python's memory differs by version.
EXACT, NEARLY = 0.002, {"piece_memory": 0.3, "put_memory": 0.3}


@pytest.fixture(scope="module")
def texts(costs: Any) -> Any:
    return costs.load_texts(costs.DEMO)


@pytest.fixture(scope="module")
def found(costs: Any, texts: Any) -> dict[int, dict[str, float]]:
    """What an archive takes with so many sessions in a log.

    In a process of its own: what threads that other tests have left behind allocate would count.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        measured = {
            sessions: pool.submit(costs.measured_objects, texts, sessions) for sessions in costs.SIZES
        }
        return {sessions: one.result() for sessions, one in measured.items()}


def test_the_unit_costs_are_those_of_the_library(simulation: Any, costs: Any, texts: Any, found: Any) -> None:
    known = dataclasses.asdict(simulation.MEASURED)
    for by_size in found.values():
        measured = {
            "message_bytes": costs.message_bytes(texts),
            **by_size,
        }
        assert known.keys() - measured.keys() == TIMES | {"hot_session_bytes", "hot_message_bytes"}
        assert not measured.keys() - known.keys()
        for name in measured:
            assert measured[name] == pytest.approx(known[name], rel=NEARLY.get(name, EXACT)), name


def test_the_windows_in_redis_take_what_the_page_says(simulation: Any, costs: Any, texts: Any) -> None:
    known, measured = dataclasses.asdict(simulation.MEASURED), costs.measured_redis(texts, 100)
    for messages in (10, 30):
        said, found = (
            of["hot_session_bytes"] + messages * of["hot_message_bytes"] for of in (known, measured)
        )
        # Servers differ by version.
        assert found == pytest.approx(said, rel=0.25)


@pytest.mark.parametrize("sessions", [300, 2_500, 12_000])
def test_what_grows_with_the_sessions_of_a_log_is_worked_out_as_the_library_does_it(
    simulation: Any, sessions: int
) -> None:
    bucket = Memory()
    names = put_large_shard(bucket, sessions, 18)
    index = simulation.log_index(sessions, 18, simulation.MEASURED)
    tier = ObjectTier(bucket)
    tier.pending_sessions()
    header = tier._numbered(0)._base.header
    assert index.pieces == pytest.approx(len(header.blocks) + len(header.runs), rel=0.02)
    size = sum(piece.length for piece in (*header.blocks, *header.runs))
    assert index.bytes == pytest.approx(size, rel=0.01)

    def sent(work: Callable[[], object]) -> Counter[str]:
        before = Counter(bucket.requests)
        work()
        return Counter(bucket.requests) - before

    assert sent(lambda: list(tier.all_metadata()))["get"] == 1 + index.scan_gets
    # Each in a block of its own.
    due = names[:: sessions // 6][:6]
    for name in due:
        delete(tier, turn(1).id, session_id=name)
    # Made of the one before.
    assert sent(tier._numbered(0).snapshot) == Counter(get=index.gets, put=1)
    tidier = ObjectTier(bucket)
    tidier.pending_sessions()
    turned = sent(lambda: list(tidier.tidy(long_after(0), 7, turn(2).id.ms)))
    expected = simulation.turn_of(index, len(due), 0)
    assert turned["put"] == expected.puts
    assert turned["get"] == expected.gets
    # The log is listed once there are objects that can go.
    assert turned["list"] == expected.lists


@pytest.mark.parametrize(
    ("change", "what", "grows"),
    [
        ({"idle_minutes": 240.0}, "hot_bytes", True),
        ({"messages_per_second": 2000.0}, "masters", True),
        ({"interval_seconds": 5.0}, "puts", True),
        ({"buckets": 16.0}, "puts", False),
        ({"visit_messages": 20.0}, "puts", False),
    ],
)
def test_the_arithmetic_goes_the_right_way(
    simulation: Any, change: dict[str, float], what: str, grows: bool
) -> None:
    assumed = simulation.Assumptions()
    before = getattr(simulation.simulate(assumed, simulation.MEASURED), what)
    after = getattr(simulation.simulate(dataclasses.replace(assumed, **change), simulation.MEASURED), what)
    assert (after > before) is grows
