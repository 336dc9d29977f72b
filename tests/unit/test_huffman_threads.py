"""Large inputs let other threads run; a table that many threads meet at once serves them all."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from lix_cache.huffman_codec import _backend
from lix_cache.huffman_codec._dictionary import Dictionary
from tests.support.kernels import kernel, native_or_skip  # noqa: F401 - a fixture
from tests.support.tables import SAMPLE, small_table

LARGE = SAMPLE.encode() * 2000


@pytest.fixture
def slow_to_switch() -> object:
    """A thread that runs Python keeps the GIL for a minute unless it lets go of it itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(before)


@cache
def calls() -> dict[str, Callable[[], object]]:
    native, table = native_or_skip(), Dictionary.parse(small_table())
    v1, coded = native.encode_v1(LARGE), native.encode_bytecode(LARGE, 1 << 40) or b""
    phrases, copies = native.encode_phrases(table, LARGE)[0], native.encode_copies(table, LARGE)
    return {
        "encode_v1": lambda: native.encode_v1(LARGE),
        "decode_v1": lambda: native.decode_v1(v1),
        "encode_bytecode": lambda: native.encode_bytecode(LARGE, 1 << 40),
        "decode_bytecode": lambda: native.decode_bytecode(coded, len(LARGE)),
        "encode_phrases": lambda: native.encode_phrases(table, LARGE),
        "decode_phrases": lambda: native.decode_phrases(table, phrases, len(LARGE)),
        "encode_copies": lambda: native.encode_copies(table, LARGE),
        "decode_copies": lambda: native.decode_copies(table, copies, len(LARGE)),
    }


NAMES = ["v1", "bytecode", "phrases", "copies"]


@pytest.mark.usefixtures("slow_to_switch")
@pytest.mark.parametrize("name", [f"{way}_{what}" for what in NAMES for way in ("encode", "decode")])
def test_another_thread_runs_while_c_works_on_a_large_input(name: str) -> None:
    work = calls()[name]
    ready, stop = threading.Event(), threading.Event()
    ticks: list[float] = []

    def other() -> None:
        ready.set()
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0002)  # lets go of the GIL, and must get it back to go on

    thread = threading.Thread(target=other)
    thread.start()
    try:
        ready.wait()
        during = 0
        deadline = time.perf_counter() + 60
        # A machine with one busy core may give the other thread no time during one call.
        while not during and time.perf_counter() < deadline:
            begin = time.perf_counter()
            work()
            end = time.perf_counter()
            # Not at the edges: there the interpreter is between two calls.
            margin = (end - begin) / 10
            during = sum(begin + margin < tick < end - margin for tick in ticks)
            ticks.clear()
    finally:
        stop.set()
        thread.join()
    assert during


def test_threads_that_meet_a_new_table_at_once_all_get_what_is_right(kernel: _backend.Kernel) -> None:  # noqa: F811
    data = SAMPLE.encode()
    expected = _backend.PURE.encode_phrases(Dictionary.parse(small_table()), data)
    copied = _backend.PURE.encode_copies(Dictionary.parse(small_table()), data)
    for _ in range(5):
        table = Dictionary.parse(small_table())  # nothing has been worked out for it yet
        barrier = threading.Barrier(8)

        def use(number: int, table: Dictionary = table, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            if number % 2:
                return kernel.encode_phrases(table, data) == expected
            return (
                kernel.encode_copies(table, data) == copied
                and kernel.decode_phrases(table, expected[0], len(data)) == data
            )

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(use, range(8)))


def test_threads_that_load_one_file_at_once_get_equal_tables(tmp_path: Path) -> None:
    path = tmp_path / "t.lixt"
    path.write_bytes(small_table())
    barrier = threading.Barrier(8)

    def load(_: int) -> Dictionary:
        barrier.wait()
        return Dictionary.load(path)

    with ThreadPoolExecutor(8) as pool:
        tables = list(pool.map(load, range(8)))
    assert {table.number for table in tables} == {Dictionary.load(path).number}
