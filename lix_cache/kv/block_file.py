"""State files ⇄ bytes (docs/kv-layout.md, "A state file"). Pure: no file is touched here.

A reader believes nothing: sizes before it allocates, what the file says it is, every token id, and the
checksum. What does not hold is :class:`NotThisState`, which the store counts as a miss.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from lix_cache.errors import CodecError, MissingExtra
from lix_cache.kv.encodings import decoded, encoded, is_sound
from lix_cache.kv.identity import Ids, ids_bytes
from lix_cache.kv.tensors import ITEM_SIZE, State, Tensor

__all__ = ["MOST_HEADER", "PAGE", "Description", "NotThisState", "decode", "described", "encode", "hasher"]

FORMAT = "lix-kv/1"
PAGE = 4096
MOST_HEADER = 4 << 20
_CHECKSUM = b'"checksum":"'
_ZEROS = b"0" * 32
_KEYS = {
    "format",
    "kind",
    "fingerprint",
    "tenant",
    "parent",
    "first",
    "tokens",
    "encoding",
    "original",
    "checksum",
}


class NotThisState(CodecError):
    """A file is not the state that was looked for: damaged, foreign, or of another sequence."""


@dataclass(frozen=True)
class Description:
    """What a file must say of itself.

    Attributes:
        kind: ``block``, ``tail`` or ``snapshot``.
        fingerprint: of the model, hex.
        tenant: its salt, hex.
        parent: name of the block before.
        first: position of the first token.
        tokens: number of tokens.
        encoding: ``native``, ``zstd``, ``q8`` or ``q4``.
    """

    kind: str
    fingerprint: str
    tenant: str
    parent: str
    first: int
    tokens: int
    encoding: str

    def metadata(self) -> dict[str, str]:
        return {
            "format": FORMAT,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "tenant": self.tenant,
            "parent": self.parent,
            "first": str(self.first),
            "tokens": str(self.tokens),
            "encoding": self.encoding,
        }


def encode(about: Description, ids: Ids, state: State) -> bytes:
    """Return a state as a file.

    Raises:
        MissingExtra: the encoding, or the checksum, needs a package that is not here.
    """
    stored, original = encoded(state, about.encoding)
    metadata = about.metadata()
    if original:
        metadata["original"] = json.dumps(original, separators=(",", ":"))
    metadata["checksum"] = _ZEROS.decode()
    tensors = {**stored, "ids": Tensor("U32", (len(ids),), ids_bytes(ids))}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.size],
        }
        end += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-(len(text) + 8) % PAGE)
    if len(text) + 8 > MOST_HEADER:
        raise CodecError("a state of so many tensors does not fit into one file")
    head = bytearray(len(text).to_bytes(8, "little") + text)
    parts = [tensor.view for tensor in tensors.values()]
    place = _checksum_place(head)
    head[place : place + 32] = _checksum(head, parts)
    return b"".join((head, *parts))


def decode(data: memoryview, expected: Description, ids: Ids) -> dict[str, Tensor]:
    """Return the tensors of a file, if it is the state looked for; they lie in ``data``.

    Raises:
        NotThisState: it is not.
        MissingExtra: a package is needed to read it.
    """
    head, header = _header(data)
    metadata = header.pop("__metadata__")
    tensors = _tensors(header, data[head:])
    wanted = expected.metadata()
    for key, value in wanted.items():
        if metadata.get(key) != value:
            raise NotThisState(f"its {key} is another")
    found = tensors.pop("ids")
    if found.dtype != "U32" or found.shape != (len(ids),) or bytes(found.view) != ids_bytes(ids):
        raise NotThisState("it is the state of other tokens")
    _check(data, head, metadata["checksum"])
    original = _original(metadata, tensors)
    try:
        return decoded(tensors, expected.encoding, original)
    except MissingExtra:
        raise
    except Exception as error:  # noqa: BLE001 - a codec may raise anything for bytes of another's making
        raise NotThisState(f"it cannot be decoded ({type(error).__name__})") from None


def described(data: memoryview) -> tuple[Description, Ids]:
    """Return what a file says it is, its checksum verified: for `verify`, which looks for nothing.

    Raises:
        NotThisState: it is no state file, or damaged.
        MissingExtra: the checksum needs a package that is not here.
    """
    head, header = _header(data)
    metadata = header.pop("__metadata__")
    tensors = _tensors(header, data[head:])
    try:
        about = Description(
            metadata["kind"],
            metadata["fingerprint"],
            metadata["tenant"],
            metadata["parent"],
            int(metadata["first"]),
            int(metadata["tokens"]),
            metadata["encoding"],
        )
    except (KeyError, ValueError):
        raise NotThisState("its header lacks a field") from None
    if about.metadata() != {name: text for name, text in metadata.items() if name in about.metadata()}:
        raise NotThisState("its header has a field of another form")
    ids = tensors.pop("ids")
    if ids.dtype != "U32" or len(ids.shape) != 1:
        raise NotThisState("its token ids have another form")
    _check(data, head, metadata["checksum"])
    _original(metadata, tensors)
    return about, np.frombuffer(bytes(ids.view), dtype="<u4")


def _header(data: memoryview) -> tuple[int, dict[str, Any]]:
    """Return where the tensors begin, and the header."""
    if len(data) < PAGE:
        raise NotThisState(f"it has {len(data)} bytes")
    head = 8 + int.from_bytes(data[:8], "little")
    if head % PAGE or head > MOST_HEADER or head > len(data):
        raise NotThisState("its header has an impossible length")
    try:
        header = json.loads(bytes(data[8:head]))
    except (ValueError, RecursionError):
        raise NotThisState("its header is not JSON") from None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise NotThisState("its header has no metadata")
    if metadata.get("format") != FORMAT:
        raise NotThisState("it is of another format")
    if not _KEYS - {"original"} <= metadata.keys() <= _KEYS:
        raise NotThisState("its metadata has other fields")
    return head, header


def _tensors(header: Mapping[str, Any], body: memoryview) -> dict[str, Tensor]:
    tensors = {}
    at = 0
    for name, entry in header.items():
        try:
            dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            size = ITEM_SIZE[dtype]
        except (TypeError, KeyError, ValueError):
            raise NotThisState("its header describes no tensor") from None
        if not _is_shape(shape) or type(start) is not int or type(end) is not int:
            raise NotThisState("its header describes no tensor")
        # Python's integers do not overflow, so a product that lies cannot come out right.
        if start != at or end - start != size * prod(shape) or end > len(body):
            raise NotThisState("its tensors do not fit its size")
        tensors[name] = Tensor(dtype, tuple(shape), body[start:end])
        at = end
    if at != len(body) or "ids" not in tensors:
        raise NotThisState("its tensors do not fit its size")
    return tensors


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= 8
        and all(type(side) is int and 0 <= side < 1 << 40 for side in shape)
    )


def _original(metadata: Mapping[str, str], tensors: State) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of each tensor before it was encoded, if what is stored can be that."""
    if metadata["encoding"] == "native":
        if "original" in metadata:
            raise NotThisState("its encoding makes no sense")
        return {}
    try:
        named = json.loads(metadata.get("original", ""))
        found = {name: (dtype, tuple(shape)) for name, (dtype, shape) in named.items() if _is_shape(shape)}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise NotThisState("its encoding makes no sense") from None
    if found.keys() != tensors.keys() or len(found) != len(named):
        raise NotThisState("its encoding makes no sense")
    for name, (dtype, shape) in found.items():
        if not is_sound(tensors[name], metadata["encoding"], dtype, shape):
            raise NotThisState("its encoding makes no sense")
    return found


def _check(data: memoryview, head: int, checksum: str) -> None:
    found = bytearray(data[:head])
    place = _checksum_place(found)
    if bytes(found[place : place + 32]) != checksum.encode("ascii", "replace"):
        raise NotThisState("its checksum is not where it belongs")
    found[place : place + 32] = _ZEROS
    if _checksum(found, [data[head:]]) != checksum.encode("ascii", "replace"):
        raise NotThisState("its checksum is wrong")


def _checksum_place(head: bytearray) -> int:
    place = head.find(_CHECKSUM) + len(_CHECKSUM)
    if place < len(_CHECKSUM) or place + 32 > len(head):
        raise NotThisState("it has no checksum")
    return place


def hasher() -> Any:
    """Return the function that checksums are made with.

    Raises:
        MissingExtra: the package is not here.
    """
    try:
        from xxhash import xxh3_128
    except ImportError:
        raise MissingExtra("xxhash", "kv", "The KV store") from None
    return xxh3_128


def _checksum(head: bytearray, parts: list[memoryview]) -> bytes:
    digest = hasher()(bytes(head))
    for part in parts:
        digest.update(part)
    text: str = digest.hexdigest()
    return text.encode()
