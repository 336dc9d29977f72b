"""Smaller states, at a price: lossless shuffle and zstd, or groups of 8 or 4 bits. Pure.

``native`` is the default: bit by bit what the engine had. docs/kv-layout.md, "Encodings".
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from lix_cache.errors import CodecError, ConfigError, MissingExtra
from lix_cache.kv.tensors import ITEM_SIZE, State, Tensor, u8

__all__ = ["ENCODINGS", "check_encoding", "decoded", "encoded", "is_sound"]

ENCODINGS = ("native", "zstd", "q8", "q4")
_LEVEL = 3
_FLOATS = {"F16": "<f2", "F32": "<f4", "BF16": "<u2"}
_BITS = {"q8": 8, "q4": 4}
#: Shares of a group's range that four bits may be spent on.
_RANGES = (0.95, 0.9, 0.85, 0.8, 0.75)

_Original = dict[str, tuple[str, tuple[int, ...]]]
_Array = np.ndarray[Any, np.dtype[Any]]


def check_encoding(encoding: str) -> None:
    """Refuse an encoding that there is not, or that needs a package that is not here.

    Raises:
        ConfigError: there is no such encoding.
        MissingExtra: its package is not installed.
    """
    if encoding not in ENCODINGS:
        raise ConfigError(f"encoding is one of {', '.join(ENCODINGS)}, not {encoding!r}")
    if encoding == "zstd":
        _zstd()


def encoded(state: State, encoding: str) -> tuple[dict[str, Tensor], _Original]:
    """Return the tensors to store, and what they were."""
    if encoding == "native":
        return dict(state), {}
    original = {name: (tensor.dtype, tensor.shape) for name, tensor in state.items()}
    return {name: _smaller(tensor, encoding) for name, tensor in state.items()}, original


def decoded(stored: State, encoding: str, original: _Original) -> dict[str, Tensor]:
    """Return the tensors as they were, or nearly so."""
    if encoding == "native":
        return dict(stored)
    return {name: _larger(tensor, encoding, *original[name]) for name, tensor in stored.items()}


def is_sound(stored: Tensor, encoding: str, dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether what is stored can be a tensor of that dtype and shape: asked before anything is allocated."""
    if dtype not in ITEM_SIZE or encoding not in ENCODINGS:
        return False
    if encoding == "zstd":
        # zstd makes at most some 2¹⁷ bytes of each block header; what claims more is not what it says.
        return stored.dtype == "U8" and len(stored.shape) == 1 and _size(dtype, shape) <= stored.size << 17
    if (stored.dtype, stored.shape) == (dtype, shape):
        return True
    return bool(_group(dtype, shape)) and (stored.dtype, stored.shape) == (
        "U8",
        (_packed(encoding, dtype, shape),),
    )


def _smaller(tensor: Tensor, encoding: str) -> Tensor:
    if encoding == "zstd":
        item = ITEM_SIZE[tensor.dtype]
        shuffled = np.frombuffer(tensor.view, np.uint8).reshape(-1, item).T.tobytes()
        return u8(_zstd().ZstdCompressor(level=_LEVEL).compress(shuffled))
    if encoding not in _BITS:
        raise CodecError(f"there is no encoding {encoding!r}")
    group = _group(tensor.dtype, tensor.shape)
    packed = _quantised(_as_float(tensor).reshape(-1, group), _BITS[encoding]) if group else None
    return tensor if packed is None else u8(packed)


def _larger(stored: Tensor, encoding: str, dtype: str, shape: tuple[int, ...]) -> Tensor:
    if encoding == "zstd":
        size, item = _size(dtype, shape), ITEM_SIZE[dtype]
        zstd = _zstd()
        if zstd.frame_content_size(stored.view) != size:
            raise CodecError("it decompresses to another size")
        data = zstd.ZstdDecompressor().decompress(stored.view)
        return Tensor(dtype, shape, np.frombuffer(data, np.uint8).reshape(item, -1).T.tobytes())
    if (stored.dtype, stored.shape) == (dtype, shape):
        return stored
    group = _group(dtype, shape)
    values = _dequantised(stored.view, _BITS[encoding], prod(shape) // group, group)
    return Tensor(dtype, shape, _from_float(values, dtype))


def _quantised(groups: _Array, bits: int) -> bytes | None:
    """Return groups packed; None where they do not fit a float16, and stay as they are."""
    low, high = groups.min(axis=1), groups.max(axis=1)
    q, scale, bias, error = _rounded(groups, low, high, bits)
    if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
        return None
    for share in _RANGES if bits == 4 else ():
        # Few steps: to cut off what lies far out makes all others nearer. Half the divergence, measured.
        margin = (high - low) * np.float32((1 - share) / 2)
        found = _rounded(groups, low + margin, high - margin, bits)
        better = found[3] < error
        for kept, new in zip((q, scale, bias, error), found, strict=True):
            kept[better] = new[better]
    if bits == 4:
        q = q[:, 0::2] | q[:, 1::2] << 4
    return b"".join((q.tobytes(), scale.tobytes(), bias.tobytes()))


def _rounded(groups: _Array, low: _Array, high: _Array, bits: int) -> tuple[_Array, _Array, _Array, _Array]:
    """Return numbers, scales and biases of groups, and the square of what was lost."""
    most = (1 << bits) - 1
    with np.errstate(over="ignore", invalid="ignore"):
        scale, bias = ((high - low) / most).astype("<f2"), low.astype("<f2")
        # With the numbers that are stored, not those they were rounded from.
        step = np.where(scale > 0, scale, np.float16(1)).astype(np.float32)[:, None]
        start = bias.astype(np.float32)[:, None]
        q = np.clip(np.rint((groups - start) / step), 0, most)
        error = ((groups - q * step - start) ** 2).sum(axis=1)
        return q.astype(np.uint8), scale, bias, error


def _dequantised(data: memoryview, bits: int, rows: int, group: int) -> _Array:
    packed = rows * group * bits // 8
    q = np.frombuffer(data[:packed], np.uint8).reshape(rows, -1)
    if bits == 4:
        halves = np.empty((rows, group), np.uint8)
        np.bitwise_and(q, 15, out=halves[:, 0::2])
        np.right_shift(q, 4, out=halves[:, 1::2])
        q = halves
    scale = np.frombuffer(data[packed : packed + 2 * rows], "<f2").astype(np.float32)
    bias = np.frombuffer(data[packed + 2 * rows :], "<f2").astype(np.float32)
    values: _Array = q.astype(np.float32)
    values *= scale[:, None]
    values += bias[:, None]
    return values


def _group(dtype: str, shape: tuple[int, ...]) -> int:
    if dtype not in _FLOATS or not shape or not prod(shape):
        return 0
    return next((group for group in (64, 32) if shape[-1] % group == 0), 0)


def _packed(encoding: str, dtype: str, shape: tuple[int, ...]) -> int:
    count = prod(shape)
    return count * _BITS[encoding] // 8 + 4 * (count // _group(dtype, shape))


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return ITEM_SIZE[dtype] * prod(shape)


def _as_float(tensor: Tensor) -> _Array:
    values = np.frombuffer(tensor.view, _FLOATS[tensor.dtype])
    if tensor.dtype == "BF16":
        # bfloat16 is the upper half of a float32; numpy does not know it.
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _from_float(values: _Array, dtype: str) -> bytes:
    if dtype != "BF16":
        return values.astype(_FLOATS[dtype]).tobytes()
    bits = values.view(np.uint32)
    # To the nearest, ties to even.
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()


def _zstd() -> Any:
    try:
        import zstandard
    except ImportError:
        raise MissingExtra("zstandard", "kv", "The encoding zstd") from None
    return zstandard
