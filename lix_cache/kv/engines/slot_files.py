"""Slot files of llama.cpp, its stream of events, and what it takes to start it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from lix_cache.errors import ConfigError

__all__ = ["events", "file_digest", "free_port", "private", "tokens_of"]

_MAGIC = 0x67677371
#: What the server writes before its tokens where it writes more than them.
_STRUCTURED = 0xFFFFFFFF
_DIGEST_BYTES = 8 << 20


def tokens_of(data: bytes | memoryview) -> list[int]:
    """Return the tokens that a slot file says it holds, which may be none."""
    if len(data) < 12:
        return []
    magic, _, count = struct.unpack_from("<3I", data)
    if magic != _MAGIC or 12 + 4 * count > len(data):
        return []
    words = struct.unpack_from(f"<{count}I", data, 12)
    if count >= 3 and words[0] == _STRUCTURED:
        return list(words[3 : 3 + words[2]])
    return list(words)


def events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream."""
    for line in response:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def file_digest(path: str) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while data := file.read(_DIGEST_BYTES):
                digest.update(data)
    except OSError:
        raise ConfigError(
            f"the weights {path!r} cannot be read; name them with weights=, or states of others may be used"
        ) from None
    return digest.hexdigest()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def private(path: str, flags: int) -> int:
    """Open a file that is its owner's alone."""
    return os.open(path, flags, 0o600)
