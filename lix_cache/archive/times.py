"""Timestamps as small numbers, where that loses nothing."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import ldexp

from lix_cache.errors import CodecError
from lix_cache.storage.varints import Reader, put_varint

__all__ = ["get", "put"]

_F64 = struct.Struct("<d")
_AS_THEY_ARE = 0
#: Ticks in a second, by the number of the unit: whole seconds, milliseconds, microseconds, and
#: what separates two neighbouring float64 from 2004 to 2038, so that every clock's times fit.
_TICKS = (0, 1, 1000, 1_000_000, 1 << 22)
#: Times beyond are written as they are; within, ticks are integers that a float64 holds exactly.
_LARGEST = float(1 << 31)


def put(columns: bytearray, times: Sequence[tuple[int, float]]) -> None:
    """Append timestamps: one byte for their unit, and how many of it each is after the one before.

    Args:
        columns: to append to.
        times: (milliseconds of the turn's id, Unix seconds) of each; may be none.
    """
    if not times:
        return
    unit, counts = _AS_THEY_ARE, []
    if all(0 <= time < _LARGEST for _, time in times):
        for unit in range(1, len(_TICKS)):
            counts = [round(time * _TICKS[unit]) for _, time in times]
            # By their bytes: -0.0 equals 0.0 and is not the same.
            if all(
                _F64.pack(_seconds(count, unit)) == _F64.pack(time)
                for count, (_, time) in zip(counts, times, strict=True)
            ):
                break
        else:
            unit = _AS_THEY_ARE
    columns.append(unit)
    if unit == _AS_THEY_ARE:
        for _, time in times:
            columns += _F64.pack(time)
        return
    last = _ticks_of(times[0][0], unit)
    for count in counts:
        step = count - last
        put_varint(columns, step << 1 if step >= 0 else (-step << 1) - 1)
        last = count


def get(reader: Reader, id_ms: Sequence[int]) -> list[float]:
    """Return the timestamps of turns whose ids have these milliseconds."""
    if not id_ms:
        return []
    unit = reader.take(1)[0]
    if unit == _AS_THEY_ARE:
        return [reader.float64() for _ in id_ms]
    if unit >= len(_TICKS):
        raise CodecError(f"times in the unit {unit}")
    last = _ticks_of(id_ms[0], unit)
    found = []
    for _ in id_ms:
        value = reader.varint()
        last += value >> 1 if not value & 1 else -(value + 1 >> 1)
        if not 0 <= last <= _LARGEST * _TICKS[unit]:
            raise CodecError(f"a time of {last} units")
        found.append(_seconds(last, unit))
    return found


def _ticks_of(ms: int, unit: int) -> int:
    # An id may be of any time at all; a difference must fit into 64 bits.
    return min(ms, int(_LARGEST) * 1000) * _TICKS[unit] // 1000


def _seconds(count: int, unit: int) -> float:
    return ldexp(count, -22) if unit == 4 else count / _TICKS[unit]
