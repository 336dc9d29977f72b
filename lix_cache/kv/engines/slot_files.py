"""Slot files of llama.cpp and the folder for them, its stream of events, and what it takes to start it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator
from typing import Any

from lix_cache.errors import ConfigError
from lix_cache.storage.locks import FileLock, file_lock

__all__ = [
    "events",
    "file_digest",
    "free_port",
    "new_slot_folder",
    "private",
    "set_up",
    "tokens_of",
]

_MAGIC = 0x67677371
#: What the server writes before its tokens where it writes more than them.
_STRUCTURED = 0xFFFFFFFF
_DIGEST_BYTES = 8 << 20
_FOLDER = "lix-kv-"
_LOCK = "in-use.lock"


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


def new_slot_folder(home: str | None = None) -> tuple[str, FileLock]:
    """Make a folder for slot files, in memory where there is such a place.

    A process that is killed leaves its folder, and in it maybe a conversation that no purge finds. So the
    folder of one that is gone is removed by the next one that makes its own.

    Returns:
        The folder, and a lock that says that it is in use as long as it is held.
    """
    shm = "/dev/shm"  # the server writes into it, and this process reads at once  # noqa: S108
    home = home or (shm if os.path.isdir(shm) else tempfile.gettempdir())
    for entry in os.scandir(home):
        if entry.name.startswith(_FOLDER) and _is_left(entry):
            shutil.rmtree(entry.path, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=_FOLDER, dir=home)
    # Locked before it has its name: who finds it without its lock may remove the folder.
    lock = file_lock(os.path.join(folder, "new.lock"))
    lock.try_lock()
    os.rename(os.path.join(folder, "new.lock"), os.path.join(folder, _LOCK))
    return folder, lock


def _is_left(entry: os.DirEntry[str]) -> bool:
    """Whether a folder is ours, and the process that made it is gone."""
    path = os.path.join(entry.path, _LOCK)
    try:
        owner = entry.stat(follow_symlinks=False).st_uid
        if not entry.is_dir(follow_symlinks=False) or owner != os.geteuid() or not os.path.isfile(path):
            return False
        lock = file_lock(path)
        with lock:
            return lock.try_lock()
    except OSError:
        return False


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


def set_up(parameters: Any, gguf: str, folder: str, context_tokens: int, slots: int) -> None:
    """Set what a server of this process needs: a port of the loopback interface, slots that can be saved."""
    parameters.model.path = gguf
    parameters.n_ctx = context_tokens * slots
    parameters.n_parallel = slots
    parameters.kv_unified = False
    # The server's own cache of prompts knows no tenants.
    parameters.cache_ram_mib = 0
    parameters.slot_save_path = folder + os.sep
    parameters.endpoint_slots = True
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = free_port()
    parameters.verbosity = -1


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def private(path: str, flags: int) -> int:
    """Open a file that is its owner's alone."""
    return os.open(path, flags, 0o600)
