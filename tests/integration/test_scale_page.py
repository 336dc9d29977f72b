"""docs/scale.md says what ``scripts/simulate_scale.py`` prints; its unit costs are those of the library."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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


def test_the_unit_costs_are_those_of_the_library(simulation: Any, costs: Any) -> None:
    known = dataclasses.asdict(simulation.MEASURED)
    # Requests are counted: they are the same on any machine.
    found = costs.measured_objects(costs.load_texts(str(ROOT / "lix_cache" / "cli" / "data")), 512)
    for name in ("commit_puts", "commit_gets", "commit_lists", "return_puts", "return_gets", "look_gets"):
        assert found[name] == pytest.approx(known[name], abs=0.02), name
    # Bytes depend on the texts, and on the server's version.
    redis = costs.measured_redis(costs.load_texts(str(ROOT / "lix_cache" / "cli" / "data")), 50)
    assert 0 < redis["hot_session_bytes"] < 3 * known["hot_session_bytes"]
    assert 0 < redis["hot_message_bytes"] < 3 * known["hot_message_bytes"]


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
