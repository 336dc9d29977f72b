"""Vectors are checked at the door and come back as they went in."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest

from lix_cache import DimensionMismatch, InvalidVector
from lix_cache.vectors import Vector, as_array, as_float32, check_dimension, pack_vector, unpack_vector


@pytest.mark.parametrize(
    "value",
    [
        [0.5, -1.25, 3.0],
        (0.5, -1.25, 3.0),
        np.array([0.5, -1.25, 3.0]),
        np.array([0.5, -1.25, 3.0], dtype=np.float32),
        np.array([0.5, -1.25, 3.0], dtype=np.float16),
        np.array([0.5, -1.25, 3.0], dtype=">f8"),
        np.array([[0.5, -1.25, 3.0]]),
        np.array([[0.5], [-1.25], [3.0]]),
        np.array([0.5, 9, -1.25, 9, 3.0, 9])[::2],
    ],
    ids=["list", "tuple", "float64", "float32", "float16", "big-endian", "row", "column", "strided"],
)
def test_every_form_of_a_vector_is_the_same_vector(value: Any) -> None:
    packed = pack_vector(value)
    assert packed == Vector(0, struct.pack("<3f", 0.5, -1.25, 3.0))
    assert packed.dim == 3
    assert unpack_vector(packed) == [0.5, -1.25, 3.0]
    array = as_float32(value)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert array.tolist() == [0.5, -1.25, 3.0]


def test_numbers_that_float32_would_change_are_kept_as_float64() -> None:
    packed = pack_vector([0.1, 1e300])
    assert packed == Vector(1, struct.pack("<2d", 0.1, 1e300))
    assert packed.dim == 2
    assert unpack_vector(packed) == [0.1, 1e300]


def test_a_float32_array_stays_float32() -> None:
    value = np.array([0.1], dtype=np.float32)
    assert pack_vector(value).kind == 0
    assert unpack_vector(pack_vector(value)) == value.tolist()


def test_whole_numbers_become_floats() -> None:
    assert unpack_vector(pack_vector([1, 2, 3])) == [1.0, 2.0, 3.0]
    assert unpack_vector(pack_vector(np.array([7, 255], dtype=np.uint8))) == [7.0, 255.0]


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize(
    "value",
    [
        [1, 2, 2**53 + 1],
        (2**53 + 1,),
        [[2**53 + 1, 0]],
        [0.5, 2**53 + 1],
        np.array([2**63 - 1]),
        np.array([2**64 - 1], dtype=np.uint64),
    ],
)
def test_an_integer_that_no_float_is_equal_to_is_refused_and_not_changed(value: Any) -> None:
    with pytest.raises(InvalidVector, match="an integer at position"):
        pack_vector(value)


@pytest.mark.parametrize("value", [[1, 2**53], [0.5, -(2**60)], np.array([2**62]), [0.1, 1e308]])
def test_long_integers_that_a_float_is_equal_to_keep_their_value(value: Any) -> None:
    assert unpack_vector(pack_vector(value)) == [float(number) for number in value]


def test_an_array_of_a_stored_vector_copies_nothing() -> None:
    packed = pack_vector([1.0, 2.0])
    array = as_array(packed)
    assert array.tolist() == [1.0, 2.0]
    assert not array.flags.writeable


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "not empty"),
        (np.zeros((2, 2)), r"shape \(2, 2\)"),
        (np.zeros((1, 1, 3)), "flat"),
        (1.0, "flat"),
        ([[1.0, 2.0], [3.0]], "flat sequence of numbers"),
        ("0.5 0.5", "flat"),
        (["a", "b"], "real numbers"),
        ([1 + 2j], "real numbers"),
        ([True, False], "real numbers"),
        ([None, 1.0], "real numbers"),
        ([2**70], "real numbers"),
        ([10**400, 0.5], "real numbers"),
        ([b"x"], "real numbers"),
        ({"a": 1}, "flat"),
    ],
)
@pytest.mark.parametrize("check", [pack_vector, as_float32])
def test_what_is_not_a_vector_is_refused(check: Any, value: Any, reason: str) -> None:
    with pytest.raises(InvalidVector, match=reason):
        check(value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("check", [pack_vector, as_float32])
def test_what_is_not_finite_is_refused_and_the_error_says_where(check: Any, bad: float) -> None:
    with pytest.raises(InvalidVector, match=rf"of dimension 3 holds {bad} at position 1"):
        check([1.0, bad, bad])


def test_what_becomes_infinite_in_float32_is_refused_where_float32_is_asked_for() -> None:
    with pytest.raises(InvalidVector, match="holds inf at position 1"):
        as_float32([1.0, 1e39])


@pytest.mark.skipif(
    np.finfo(np.longdouble).max == np.finfo(np.float64).max, reason="no number here is larger than a float64"
)
def test_what_becomes_infinite_in_float64_is_refused() -> None:
    with pytest.raises(InvalidVector, match="holds inf at position 0"):
        pack_vector(np.array(["1e400"], dtype=np.longdouble))


def test_the_error_names_what_was_offered() -> None:
    with pytest.raises(InvalidVector, match=r"^the query embedding must"):
        as_float32([], "the query embedding")


def test_another_dimension_is_refused_with_both_numbers() -> None:
    check_dimension(3, 3, "the cache")
    check_dimension(3, None, "the cache")
    with pytest.raises(
        DimensionMismatch, match="the cache holds vectors of dimension 384, but got one of dimension 3"
    ):
        check_dimension(3, 384, "the cache")


@pytest.mark.parametrize("text", ["text", "", b"text", bytearray(b"x")])
@pytest.mark.parametrize("check", [as_float32, pack_vector])
def test_text_is_said_to_be_text(check: Any, text: Any) -> None:
    with pytest.raises(
        InvalidVector, match=rf"must be a flat sequence of numbers, got .*{type(text).__name__}"
    ):
        check(text)
