"""The files of the KV store, against docs/kv-layout.md: written by hand here, and damaged in every way."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xxhash

from lix_cache.errors import CodecError, InvalidInput
from lix_cache.kv import block_file, encodings
from lix_cache.kv.block_file import Description, NotThisState, decode, described, encode
from lix_cache.kv.identity import as_ids, chain_of, fingerprint_of, partial_name, session_name, tenant_digest
from lix_cache.kv.manifest import Manifest, Mark, Part, decode_manifest, encode_manifest
from lix_cache.kv.tensors import Tensor
from tests.support.kv import FINGERPRINT, pieces_of, state_of, tokens

pytestmark = pytest.mark.promise("bad-bytes")

IDS = tokens(256)
PIECE = pieces_of(IDS)[0]


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def by_hand(header: dict[str, Any], body: bytes, *, pad: int = 4096, checksum: bool = True) -> bytes:
    """Return a file as the document says it."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % pad)
    data = len(text).to_bytes(8, "little") + text + body
    if checksum:
        digest = xxhash.xxh3_128_hexdigest(data).encode()
        data = data.replace(b'"checksum":"' + b"0" * 32, b'"checksum":"' + digest, 1)
    return data


def header_of(body_entries: dict[str, Any], **metadata: str) -> dict[str, Any]:
    about = {**PIECE.about.metadata(), "checksum": "0" * 32, **metadata}
    return {"__metadata__": about, **body_entries}


def test_a_file_written_by_hand_is_read_and_written_alike() -> None:
    values = np.arange(256 * 8, dtype="<f4")
    body = values.tobytes() + IDS.tobytes()
    entries = {
        "0.k": {"dtype": "F32", "shape": [1, 256, 8], "data_offsets": [0, 8192]},
        "ids": {"dtype": "U32", "shape": [256], "data_offsets": [8192, 9216]},
    }
    data = by_hand(header_of(entries), body)
    found = decode(memoryview(data), PIECE.about, IDS)
    assert list(found) == ["0.k"]
    assert (found["0.k"].array("<f4").ravel() == values).all()
    assert encode(PIECE.about, IDS, found) == data
    assert len(data) == 4096 + len(body)


def test_the_official_reader_takes_a_file_of_ours() -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    found = safetensors.load(encode(PIECE.about, IDS, state_of(IDS)))
    assert (found["ids"] == IDS).all()
    assert (found["0.k"] == state_of(IDS)["0.k"].array("<f4")).all()


def test_the_chain_is_the_one_of_the_document() -> None:
    ids = tokens(600)
    root = sha(b"lix-kv/1 root\0", bytes.fromhex(FINGERPRINT.hex), sha(b"lix-kv/1 tenant\0ann"))
    first = sha(b"lix-kv/1 block\0", root, ids[:256].tobytes())
    second = sha(b"lix-kv/1 block\0", first, ids[256:512].tobytes())
    chain = chain_of(FINGERPRINT, "ann", ids)
    assert chain == [root.hex(), first.hex(), second.hex()]
    rest = sha(b"lix-kv/1 rest\0", second, ids[512:600].tobytes())[:16]
    assert partial_name(chain[2], ids, 600) == f"{chain[2]}-600-{rest.hex()}"
    assert session_name("ann", "s") == sha(b"lix-kv/1 session\0", sha(b"lix-kv/1 tenant\0ann"), b"s").hex()


@pytest.mark.promise("isolation")
def test_another_model_tenant_or_token_is_another_chain() -> None:
    other = fingerprint_of({"weights": "two", "engine": "none"})
    changed = IDS.copy()
    changed[255] += 1
    names = {
        chain_of(fingerprint, tenant, ids)[1]
        for fingerprint, tenant, ids in (
            (FINGERPRINT, "", IDS),
            (other, "", IDS),
            (FINGERPRINT, "ann", IDS),
            (FINGERPRINT, "bob", IDS),
            (FINGERPRINT, "", changed),
        )
    }
    assert len(names) == 5


@pytest.mark.parametrize("ids", [[-1], [1 << 32], ["x"], [[1, 2]], [None]])
def test_what_is_no_token_id_is_refused(ids: Any) -> None:
    with pytest.raises(InvalidInput):
        as_ids(ids)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "tail"},
        {"fingerprint": "0" * 64},
        {"tenant": tenant_digest("bob").hex()},
        {"parent": "0" * 64},
        {"first": 256},
        {"tokens": 255},
        {"encoding": "q8"},
    ],
)
@pytest.mark.promise("right-answer")
def test_a_file_of_something_else_is_not_taken_whatever_its_name(change: dict[str, Any]) -> None:
    data = memoryview(encode(PIECE.about, IDS, state_of(IDS)))
    with pytest.raises(NotThisState):
        decode(data, replace(PIECE.about, **change), IDS)


@pytest.mark.promise("right-answer")
def test_the_ids_are_compared_and_not_the_hash_alone() -> None:
    data = memoryview(encode(PIECE.about, IDS, state_of(IDS)))
    for place in (0, 100, 255):
        other = IDS.copy()
        other[place] += 1
        with pytest.raises(NotThisState, match="other tokens"):
            decode(data, PIECE.about, other)


def test_every_flipped_byte_of_the_header_and_many_of_the_body_are_seen() -> None:
    data = encode(PIECE.about, IDS, state_of(IDS))
    assert decode(memoryview(data), PIECE.about, IDS)
    places = [*range(4096), *range(4096, len(data), 997), len(data) - 1]
    for place in places:
        bad = bytearray(data)
        bad[place] ^= 0x01
        with pytest.raises(NotThisState):
            decode(memoryview(bad), PIECE.about, IDS)


def test_every_length_of_a_torn_file_is_seen() -> None:
    data = encode(PIECE.about, IDS, state_of(IDS))
    for size in [*range(0, 4200, 7), *range(4200, len(data), 501), len(data) - 1]:
        with pytest.raises(NotThisState):
            decode(memoryview(data)[:size], PIECE.about, IDS)
    with pytest.raises(NotThisState):
        decode(memoryview(data + b"x"), PIECE.about, IDS)


BODY = bytes(8192) + IDS.tobytes()
K = {"dtype": "F32", "shape": [1, 256, 8], "data_offsets": [0, 8192]}
I = {"dtype": "U32", "shape": [256], "data_offsets": [8192, 9216]}  # noqa: E741


@pytest.mark.parametrize(
    "entries",
    [
        {"ids": {"dtype": "U32", "shape": [256], "data_offsets": [8192, 9216]}},  # a hole before
        {"0.k": {**K, "shape": [1, 256, 9]}, "ids": I},
        {"0.k": {**K, "shape": [1 << 62, 1 << 62]}, "ids": I},
        {"0.k": {**K, "shape": [-1, -2048]}, "ids": I},
        {"0.k": {**K, "shape": [True, 2048]}, "ids": I},
        {"0.k": {**K, "shape": "2048"}, "ids": I},
        {"0.k": {**K, "shape": [1] * 9 + [2048]}, "ids": I},
        {"0.k": {**K, "dtype": "F33"}, "ids": I},
        {"0.k": {**K, "dtype": ["F32"]}, "ids": I},
        {"0.k": {**K, "data_offsets": [0, 8192.0]}, "ids": I},
        {"0.k": {**K, "data_offsets": [8192, 0]}, "ids": I},
        {"0.k": {**K, "data_offsets": [0]}, "ids": I},
        {"0.k": None, "ids": I},
        {"0.k": [], "ids": I},
        {"0.k": K},
        {"0.k": K, "jds": I},
        {"0.k": K, "ids": {**I, "dtype": "I32"}},
        {"0.k": K, "ids": {**I, "shape": [1, 256]}},
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_made_of_it(entries: dict[str, Any]) -> None:
    data = by_hand(header_of(entries), BODY)
    with pytest.raises(NotThisState):
        decode(memoryview(data), PIECE.about, IDS)
    with pytest.raises(NotThisState):
        described(memoryview(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 4096,
        (1 << 63).to_bytes(8, "little") + bytes(8192),
        (4088).to_bytes(8, "little") + b"[" * 4088,
        (4088).to_bytes(8, "little") + b"null".ljust(4088),
        (4088).to_bytes(8, "little") + b"[]".ljust(4088),
        (4088).to_bytes(8, "little") + b'{"__metadata__":[]}'.ljust(4088),
        (4088).to_bytes(8, "little") + b'{"__metadata__":{"format":1}}'.ljust(4088),
        (4088).to_bytes(8, "little") + b'{"__metadata__":{"format":"lix-kv/1"}}'.ljust(4088),
        (4088).to_bytes(8, "little") + b"\xff" * 4088,
    ],
)
def test_what_is_no_state_file_is_refused(data: bytes) -> None:
    for read in (lambda: decode(memoryview(data), PIECE.about, IDS), lambda: described(memoryview(data))):
        with pytest.raises(NotThisState):
            read()


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "lix-kv/2"},
        {"more": "fields"},
        {"checksum": "0" * 31},
        {"checksum": "x" * 32},
        {"original": "{}"},
        {"first": "00"},
        {"tokens": "256 "},
        {"tokens": "many"},
    ],
)
def test_metadata_of_another_form_is_refused(metadata: dict[str, str]) -> None:
    data = by_hand(header_of({"0.k": K, "ids": I}, **metadata), BODY)
    with pytest.raises(NotThisState):
        decode(memoryview(data), PIECE.about, IDS)
    with pytest.raises(NotThisState):
        described(memoryview(data))


# -- encodings -------------------------------------------------------------------------


def floats(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Tensor(dtype, shape, encodings._from_float(values, dtype))


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("encoding", ["native", "zstd"])
def test_lossless_encodings_give_back_every_bit(dtype: str, encoding: str) -> None:
    pytest.importorskip("zstandard")
    about = replace(PIECE.about, encoding=encoding)
    state = {"0.k": floats(dtype, (2, 256, 64)), "0.v": floats(dtype, (2, 256, 64), 1)}
    data = encode(about, IDS, state)
    found = decode(memoryview(data), about, IDS)
    assert all(bytes(found[name].view) == bytes(state[name].view) for name in state)
    assert {name: (one.dtype, one.shape) for name, one in found.items()} == {
        name: (one.dtype, one.shape) for name, one in state.items()
    }


@pytest.mark.parametrize(("encoding", "share", "error"), [("q8", 0.54, 0.02), ("q4", 0.29, 0.75)])
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("dim", [64, 96, 128])
def test_quantised_states_are_as_small_and_as_near_as_promised(
    encoding: str, share: float, error: float, dtype: str, dim: int
) -> None:
    tensor = floats(dtype, (4, 256, dim))
    about = replace(PIECE.about, encoding=encoding)
    data = encode(about, IDS, {"0.k": tensor})
    found = decode(memoryview(data), about, IDS)["0.k"]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    wanted, got = encodings._as_float(tensor), encodings._as_float(found)
    # Four bits cut off what lies far out: it is near on the whole, not everywhere.
    assert np.abs(wanted - got).max() <= error
    assert np.sqrt(((wanted - got) ** 2).mean()) <= (0.01 if encoding == "q8" else 0.12)
    if dim % 64 == 0 and dtype != "F32":
        stored = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["0.k"]["shape"][0]
        assert stored <= share * tensor.size


@pytest.mark.parametrize("encoding", ["q8", "q4"])
def test_what_cannot_be_quantised_stays_as_it_is(encoding: str) -> None:
    state = {
        "odd": floats("F32", (1, 256, 20)),
        "wide": Tensor("F32", (1, 64), np.full(64, 1e9, "<f4").tobytes()),
        "nan": Tensor("F32", (64,), np.full(64, np.nan, "<f4").tobytes()),
        "whole": Tensor("I64", (64,), np.arange(64).tobytes()),
        "none": Tensor("F32", (0, 64), b""),
        "same": Tensor("F32", (64,), np.full(64, 0.5, "<f4").tobytes()),
    }
    about = replace(PIECE.about, encoding=encoding)
    found = decode(memoryview(encode(about, IDS, state)), about, IDS)
    for name, tensor in state.items():
        assert bytes(found[name].view) == bytes(tensor.view), name


@pytest.mark.parametrize(
    "original",
    [
        "",
        "[]",
        "{}",
        '{"0.k":["F32",[1,256,8]],"1.k":["F32",[1]]}',
        '{"0.k":["F33",[1,256,8]]}',
        '{"0.k":["F32",[1099511627775,1099511627775]]}',
        '{"0.k":["F32",[1,256,-8]]}',
        '{"0.k":"F32"}',
        "[" * 2000,
    ],
)
@pytest.mark.parametrize("encoding", ["zstd", "q8", "q4"])
def test_a_size_that_lies_is_refused_before_it_is_decoded(encoding: str, original: str) -> None:
    pytest.importorskip("zstandard")
    entries = {
        "0.k": {"dtype": "U8", "shape": [100], "data_offsets": [0, 100]},
        "ids": {"dtype": "U32", "shape": [256], "data_offsets": [100, 1124]},
    }
    data = by_hand(header_of(entries, encoding=encoding, original=original), bytes(100) + IDS.tobytes())
    about = replace(PIECE.about, encoding=encoding)
    with pytest.raises(NotThisState):
        decode(memoryview(data), about, IDS)


def test_bytes_that_zstd_refuses_are_no_state() -> None:
    pytest.importorskip("zstandard")
    entries = {
        "0.k": {"dtype": "U8", "shape": [100], "data_offsets": [0, 100]},
        "ids": {"dtype": "U32", "shape": [256], "data_offsets": [100, 1124]},
    }
    metadata = {"encoding": "zstd", "original": '{"0.k":["F32",[1,256,8]]}'}
    data = by_hand(header_of(entries, **metadata), bytes(100) + IDS.tobytes())
    with pytest.raises(NotThisState, match="decoded"):
        decode(memoryview(data), replace(PIECE.about, encoding="zstd"), IDS)


# -- manifests -------------------------------------------------------------------------

MANIFEST = Manifest(
    'a "session"\ud800',
    "ann",
    {PIECE.name: "", PIECE.name + "-300-" + "0" * 32: PIECE.name},
    IDS,
    [Mark(10, 3, "ab")],
    [Part(3, "system")],
    True,
)


def test_a_manifest_comes_back() -> None:
    data = encode_manifest(MANIFEST)
    found = decode_manifest(data)
    assert found == MANIFEST
    assert (found.ids == IDS).all()
    checksum = data[41:49]
    assert data[29:41] == b'"checksum":"'
    assert zlib.crc32(data.replace(checksum, b"00000000", 1)) == int(checksum, 16)


def test_a_damaged_manifest_is_refused() -> None:
    data = encode_manifest(MANIFEST)
    for place in range(len(data)):
        bad = bytearray(data)
        bad[place] ^= 0x01
        with pytest.raises(CodecError):
            decode_manifest(bytes(bad))
    for size in range(len(data)):
        with pytest.raises(CodecError):
            decode_manifest(data[:size])


@pytest.mark.promise("isolation")
@pytest.mark.parametrize(
    "name", ["../" * 21 + "x", "/etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "-1-x", "é" * 64]
)
def test_a_manifest_that_names_another_path_is_refused(name: str) -> None:
    for files in ({name: ""}, {PIECE.name: name}):
        with pytest.raises(CodecError):
            decode_manifest(encode_manifest(MANIFEST.with_files(files)))


def test_no_error_holds_a_byte_of_what_was_read() -> None:
    data = encode(PIECE.about, IDS, state_of(IDS)).replace(b"lix-kv/1", b"secret!!")
    with pytest.raises(NotThisState) as caught:
        decode(memoryview(data), PIECE.about, IDS)
    assert "secret" not in str(caught.value)
    assert block_file.FORMAT == "lix-kv/1"
    assert isinstance(PIECE.about, Description)
