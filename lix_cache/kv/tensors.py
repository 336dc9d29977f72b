"""Tensors between engines and files: a dtype, a shape and bytes, without any framework. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

__all__ = ["ITEM_SIZE", "State", "Tensor", "u8"]

#: Bytes of an element, by the names of safetensors.
ITEM_SIZE = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}


@dataclass(frozen=True)
class Tensor:
    """An array as it lies in a file.

    Attributes:
        dtype: a name of :data:`ITEM_SIZE`.
        shape: of the array, rows first.
        data: its bytes, without holes; maybe those of a mapped file.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Any

    @property
    def size(self) -> int:
        return ITEM_SIZE[self.dtype] * prod(self.shape)

    @property
    def view(self) -> memoryview:
        return memoryview(self.data).cast("B")

    def array(self, kind: str) -> np.ndarray[Any, np.dtype[Any]]:
        """Return the bytes as an array of that numpy dtype and this shape, without a copy."""
        return np.frombuffer(self.data, dtype=kind).reshape(self.shape)


#: The tensors of a state, by name.
State = Mapping[str, Tensor]


def u8(data: bytes | memoryview) -> Tensor:
    """Return bytes as a tensor."""
    return Tensor("U8", (len(data),), data)
