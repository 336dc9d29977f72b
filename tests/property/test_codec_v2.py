"""Both kernels of the codec on arbitrary bytes: round trips, equal bytes, equal errors."""

from __future__ import annotations

import os
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lix_cache import CodecError
from lix_cache.huffman_codec import _backend, _v2
from lix_cache.huffman_codec._backend import Kernel
from lix_cache.huffman_codec._dictionary import Dictionary
from tests.support.kernels import kernel, native_or_skip  # noqa: F401 - a fixture
from tests.support.tables import SAMPLE, lixt, pack, small_table, table_of

pytestmark = [pytest.mark.usefixtures("kernel"), pytest.mark.promise("bad-bytes")]

EXAMPLES = int(os.environ.get("LIX_CACHE_FUZZ_EXAMPLES", "150"))
#: The fixture is the same for every example of a test.
common = settings(
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@cache
def table() -> Dictionary:
    return Dictionary.parse(small_table())


_PIECES = [SAMPLE.encode()[at : at + 7] for at in range(0, 400, 5)]
#: Noise, text that the table knows, few symbols, runs, and all of them at once.
contents = st.one_of(
    st.binary(max_size=300),
    st.lists(st.sampled_from(_PIECES), max_size=80).map(b"".join),
    st.lists(st.sampled_from(b"ab\0\xff"), max_size=400).map(bytes),
    st.tuples(st.binary(min_size=1, max_size=3), st.integers(1, 3000)).map(lambda pair: pair[0] * pair[1]),
    st.lists(st.one_of(st.binary(max_size=20), st.sampled_from(_PIECES)), max_size=60).map(b"".join),
    st.tuples(st.binary(min_size=1, max_size=60), st.integers(60, 400)).map(lambda pair: pair[0] * pair[1]),
)


@given(contents)
@common
def test_arbitrary_bytes_come_back(data: bytes) -> None:
    current = _backend.kernel
    assert current.decode_v1(current.encode_v1(data)) == data
    for named, level in ((None, 1), (table(), 1), (None, 2), (table(), 2)):
        encoded = _v2.encode_v2(data, named, level=level)
        assert len(encoded) <= len(data) + (5 if len(data) <= 1024 else 8)
        assert _v2.decode_v2(encoded, named) == data


@given(contents)
@common
def test_both_kernels_write_the_same(data: bytes) -> None:
    native, pure = native_or_skip(), _backend.PURE
    assert native.encode_v1(data) == pure.encode_v1(data)
    assert native.encode_phrases(table(), data) == pure.encode_phrases(table(), data)
    assert native.encode_copies(table(), data) == pure.encode_copies(table(), data)
    assert native.count_repeats(data) == pure.count_repeats(data)
    for limit in (0, len(data) // 2, len(data), 1 << 40):
        assert native.encode_bytecode(data, limit) == pure.encode_bytecode(data, limit)


def _outcome(kernel: Kernel, what: str, payload: bytes, size: int) -> bytes | str:  # noqa: F811
    try:
        if what == "v1":
            return kernel.decode_v1(payload)
        if what == "bytes":
            return kernel.decode_bytecode(payload, size)
        if what == "copies":
            return kernel.decode_copies(table(), payload, size)
        return kernel.decode_phrases(table(), payload, size)
    except CodecError as error:
        return str(error)


_DAMAGE = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "add", "drop"]), st.integers(0, 10**6), st.integers(0, 255)),
    max_size=4,
)


def _damaged(data: bytes, steps: list[tuple[str, int, int]]) -> bytes:
    out = bytearray(data)
    for kind, at, value in steps:
        at %= len(out) + 1
        if kind == "cut":
            del out[at:]
        elif kind == "add":
            out.insert(at, value)
        elif at < len(out):
            if kind == "set":
                out[at] = value
            else:
                del out[at]
    return bytes(out)


@given(contents, st.sampled_from(["v1", "bytes", "phrases", "copies"]), _DAMAGE, st.integers(-3, 3))
@common
def test_both_kernels_say_the_same_of_a_damaged_stream(
    data: bytes, what: str, steps: list[tuple[str, int, int]], more: int
) -> None:
    native, pure = native_or_skip(), _backend.PURE
    if what == "v1":
        whole = pure.encode_v1(data)
    elif what == "bytes":
        whole = pure.encode_bytecode(data, 1 << 40) or b""
    elif what == "copies":
        whole = pure.encode_copies(table(), data)
    else:
        whole = pure.encode_phrases(table(), data)[0]
    stream = _damaged(whole, steps)
    size = max(0, len(data) + more)
    assert _outcome(native, what, stream, size) == _outcome(pure, what, stream, size)


@given(st.binary(max_size=200), st.sampled_from(["v1", "bytes", "phrases", "copies"]), st.integers(0, 5000))
@common
def test_both_kernels_say_the_same_of_noise(data: bytes, what: str, size: int) -> None:
    native, pure = native_or_skip(), _backend.PURE
    head = b"HCv1" if what == "v1" else b""
    assert _outcome(native, what, head + data, size) == _outcome(pure, what, head + data, size)


@given(contents, _DAMAGE)
@common
def test_a_damaged_stream_is_refused_or_means_the_same(
    data: bytes, steps: list[tuple[str, int, int]]
) -> None:
    for named, level in ((None, 1), (table(), 1), (None, 2), (table(), 2)):
        whole = _v2.encode_v2(data, named, level=level)
        stream = _damaged(whole, steps[:1])
        if not stream:
            continue
        try:
            assert _v2.decode_v2(stream, named) == data
        except CodecError:
            assert stream != whole


@given(
    st.dictionaries(st.binary(min_size=2, max_size=64), st.integers(1, 10**6), max_size=60),
    st.lists(st.integers(0, 1000), max_size=60),
    st.integers(9, 24),
)
@settings(common, max_examples=max(20, EXAMPLES // 3))
def test_any_table_serves_both_kernels(weights: dict[bytes, int], picks: list[int], longest: int) -> None:
    native, pure = native_or_skip(), _backend.PURE
    phrases, lengths = table_of(weights, longest)
    loaded = Dictionary.parse(lixt("any", pack(phrases, lengths), len(phrases)))
    data = b"".join(phrases[-(pick % len(phrases))] for pick in picks) + b"".join(weights)
    copies = pure.encode_copies(loaded, data)
    assert native.encode_copies(loaded, data) == copies
    assert (
        native.decode_copies(loaded, copies, len(data))
        == data
        == pure.decode_copies(loaded, copies, len(data))
    )
    bits, count = pure.encode_phrases(loaded, data)
    assert native.encode_phrases(loaded, data) == (bits, count)
    assert (
        native.decode_phrases(loaded, bits, len(data)) == data == pure.decode_phrases(loaded, bits, len(data))
    )


@given(st.binary(min_size=4, max_size=60), st.integers(256, 300))
@settings(common, max_examples=max(20, EXAMPLES // 3))
def test_both_kernels_refuse_the_same_tables(noise: bytes, count: int) -> None:
    native, pure = native_or_skip(), _backend.PURE
    good = table().raw
    for raw, number in ((noise * 20, count), (noise + good[len(noise) :], table().count)):
        loaded = Dictionary("noise", raw, number)
        results = []
        for one in (native, pure):
            try:
                results.append(one.encode_phrases(loaded, b"text")[0])
            except CodecError as error:
                results.append(str(error).encode())
        assert results[0] == results[1]
