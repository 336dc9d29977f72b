"""A command as it is sent: the words of RESP, packed in C where hiredis is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Packer", "pack"]


def _pack_in_python(words: tuple[bytes, ...]) -> bytes:
    parts = b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
    return b"*%d\r\n%b" % (len(words), parts)


def _packer() -> Callable[[tuple[bytes, ...]], bytes]:
    try:
        from hiredis import pack_command
    except ImportError:  # pragma: no cover - hiredis before 2.1
        return _pack_in_python
    return cast("Callable[[tuple[bytes, ...]], bytes]", pack_command)


_pack_bytes = _packer()


def _as_bytes(word: Any) -> bytes:
    if isinstance(word, bytes):
        return word
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, (int, float)) and not isinstance(word, bool):
        return repr(word).encode()
    if isinstance(word, (bytearray, memoryview)):
        return bytes(word)
    kind = type(word).__name__
    raise DataError(f"Invalid input of type: {kind!r}. Convert to bytes, str, int or float first.")


def pack(words: Iterable[Any]) -> bytes:
    """Return the words of one command as they are sent."""
    # hiredis gets bytes only: a signal that comes while it turns a number into text, which
    # may run the handler, crashes the process. Spelt out, because a call for each word costs
    # as much as all the rest.
    return _pack_bytes(
        tuple(
            [
                word
                if type(word) is bytes
                else word.encode()
                if type(word) is str
                else b"%d" % word
                if type(word) is int
                else _as_bytes(word)
                for word in words
            ]
        )
    )


class Packer:
    """:func:`pack` for redis-py, whose commands may have two words in one (``CONFIG GET``)."""

    @staticmethod
    def pack(*words: Any) -> list[bytes]:
        return [pack((*_as_bytes(words[0]).split(), *words[1:]))]
