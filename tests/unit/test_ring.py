"""The packed vectors of one scope: pure functions against a naive model of them."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lix_cache.compat.ring import HEADER_BYTES, Match, best_match, make_slot, unit_vector
from lix_cache.errors import DimensionMismatch, InvalidVector, RedisCommandError

NOW_MS = 1_700_000_000_000.0


@dataclass
class Entry:
    """An entry of the model: what went in, in plain numbers."""

    number: int
    vector: list[float]
    nonce: bytes
    expires_ms: float


def packed(entries: list[Entry], dim: int, capacity: int, following: int) -> bytes:
    """Lay entries out as docs/redis-layout.md says, with nothing of the library's but slots."""
    header = b"LXS1%010d%010d%020d%020d" % (dim, capacity, following, 0)
    assert len(header) == HEADER_BYTES
    size = 16 + 4 * dim
    ring = bytearray(size * min(following, capacity))
    for entry in entries:
        slot = struct.pack("<d8s", entry.expires_ms, entry.nonce) + struct.pack(f"<{dim}f", *entry.vector)
        at = entry.number % capacity * size
        ring[at : at + size] = slot
    return header + bytes(ring)


def unit(numbers: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in numbers))
    return [x / length for x in numbers]


def directions(dim: int) -> st.SearchStrategy[list[float]]:
    whole = st.lists(st.integers(-50, 50).map(float), min_size=dim, max_size=dim)
    return whole.filter(any).map(unit)


@st.composite
def rings(draw: st.DrawFn) -> tuple[int, int, list[Entry], list[float]]:
    dim = draw(st.integers(1, 9))
    capacity = draw(st.integers(1, 7))
    following = draw(st.one_of(st.integers(1, 20), st.integers(10**15, 10**15 + 20)))
    ttls = st.sampled_from([-1e12, -1.0, 0.0, 1.0, 1e9])
    entries = [
        Entry(n, draw(directions(dim)), draw(st.binary(min_size=8, max_size=8)), NOW_MS + draw(ttls))
        for n in range(max(0, following - capacity), following)
    ]
    return capacity, following, entries, draw(directions(dim))


@given(rings())
def test_the_nearest_live_entry_is_found_whatever_the_ring(
    ring: tuple[int, int, list[Entry], list[float]],
) -> None:
    capacity, following, entries, query = ring
    dim = len(query)
    found = best_match(packed(entries, dim, capacity, following), np.array(query, dtype=np.float32), NOW_MS)
    alive = [e for e in entries if e.expires_ms > NOW_MS]
    if not alive:
        assert found is None
        return
    assert found is not None
    near = {e.number: sum(a * b for a, b in zip(e.vector, query, strict=True)) for e in alive}
    # Where two are equally near either will do; float32 cannot tell them apart.
    assert found.number in near
    assert found.similarity == pytest.approx(near[found.number], abs=1e-5)
    assert found.similarity == pytest.approx(max(near.values()), abs=1e-5)
    assert found.nonce == next(e.nonce for e in alive if e.number == found.number)


@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=200).map(b"LXS1".__add__),
        st.builds(
            lambda head, rest: b"LXS1%010d%010d%020d%020d" % (*head, 0) + rest,
            st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 99)),
            st.binary(max_size=200),
        ),
    )
)
@settings(max_examples=500)
@example(data=b"LXS1" + b"0" * 60)
@example(data=b"LXS1" + b"x" * 60 + b"y" * 24)
@example(data=b"LXS1%010d%010d%020d%020d" % (2, 3, 1, 0) + struct.pack("<dQff", 9e99, 1, math.nan, 0.0))
@example(data=b"LXS1%010d%010d%020d%020d" % (2, 3, 1, 0) + struct.pack("<dQff", 9e99, 1, math.inf, 0.0))
@example(data=b"LXS1%010d%010d%020d%020d" % (2, 3, 1, 0) + struct.pack("<dQff", 9e99, 1, 3e38, 3e38))
def test_foreign_bytes_end_in_a_typed_error_or_a_sound_answer(data: bytes) -> None:
    query = np.array([0.6, 0.8], dtype=np.float32)
    try:
        found = best_match(data, query, NOW_MS)
    except (RedisCommandError, DimensionMismatch):
        return
    if found is not None:
        assert -1.001 <= found.similarity <= 1.0
        assert found.number >= 0
        assert len(found.nonce) == 8


def test_a_ring_cut_in_the_middle_of_a_slot_loses_that_slot_alone() -> None:
    entries = [
        Entry(n, vector, bytes([n]) * 8, NOW_MS + 1) for n, vector in enumerate(([1.0, 0.0], [0.0, 1.0]))
    ]
    data = packed(entries, 2, 5, 2)
    query = np.array([0.0, 1.0], dtype=np.float32)
    whole = best_match(data, query, NOW_MS)
    assert whole == Match(1, b"\1" * 8, 1.0)
    for cut in range(1, 24):
        found = best_match(data[:-cut], query, NOW_MS)
        assert found is not None
        assert (found.number, found.similarity) == (0, 0.0)


def test_a_query_of_another_dimension_is_refused_with_both_named() -> None:
    data = packed([Entry(0, [1.0, 0.0], b"t" * 8, NOW_MS + 1)], 2, 5, 1)
    with pytest.raises(DimensionMismatch, match=r"dimension 2\b.*dimension 3\b") as caught:
        best_match(data, np.array([1.0, 0.0, 0.0], dtype=np.float32), NOW_MS)
    assert (caught.value.expected, caught.value.got) == (2, 3)


def test_an_entry_is_dead_from_the_moment_it_expires() -> None:
    data = packed([Entry(0, [1.0], b"t" * 8, NOW_MS)], 1, 5, 1)
    query = np.array([1.0], dtype=np.float32)
    assert best_match(data, query, NOW_MS - 1) is not None
    assert best_match(data, query, NOW_MS) is None


@pytest.mark.parametrize("nonce", [b"\x00" * 8, b"\xff" * 8, b"\x80" + b"\x00" * 7, b"\x00" * 7 + b"\x80"])
def test_a_nonce_of_64_bits_comes_back_bit_for_bit(nonce: bytes) -> None:
    slot = make_slot(np.array([1.0], dtype=np.float32), nonce, NOW_MS + 1)
    header = packed([], 1, 1, 0)
    found = best_match(header[:24] + b"%020d" % 1 + header[44:] + slot, np.ones(1, dtype=np.float32), NOW_MS)
    assert found is not None
    assert found.nonce == nonce


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(hnp.arrays(np.float32, st.integers(1, 400), elements=FINITE))
@example(np.full(8, 3.4e38, dtype=np.float32))
@example(np.full(8, 1e-45, dtype=np.float32))
@example(np.array([3.4e38, 1e-45], dtype=np.float32))
def test_every_finite_vector_but_zero_gets_length_one(vector: np.ndarray) -> None:
    assume(vector.any())
    result = unit_vector(vector)
    assert result.dtype == np.float32
    assert result.shape == vector.shape
    exact = vector.astype(np.float64)
    exact /= np.linalg.norm(exact)
    assert np.linalg.norm(result.astype(np.float64)) == pytest.approx(1.0, abs=1e-6)
    assert result == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("dim", [1, 3, 384])
def test_a_vector_of_zeros_has_no_direction_and_is_refused(dim: int) -> None:
    with pytest.raises(InvalidVector, match=rf"dimension {dim} is all zeros"):
        unit_vector(np.zeros(dim))
