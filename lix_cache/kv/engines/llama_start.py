"""A `llama-server` in this process, through xllamacpp."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from dataclasses import dataclass
from typing import Any

from lix_cache.errors import ConfigError, EngineError, MissingExtra
from lix_cache.kv.engines.slot_files import SlotFolder, new_slot_folder
from lix_cache.storage.locks import FileLock

__all__ = ["Started", "free_port", "started"]

#: A slot file is written by the server and read at once, so best in memory. Containers have little of it.
_HOMES = ("/dev/shm", tempfile.gettempdir())  # noqa: S108

#: The least version that has what is set below; pyproject.toml asks for it.
_LEAST = "2026.10"


@dataclass
class Started:
    """A server of this process.

    Attributes:
        server: of xllamacpp; it ends with its last reference.
        slots: where it puts its slots.
        key: without which it answers nothing.
        build: of llama.cpp, and the version of xllamacpp that has it.
        homes: folders that were made for it, with the locks that say that they are in use.
    """

    server: Any
    slots: SlotFolder
    key: str
    build: str
    homes: list[tuple[str, FileLock]]

    @staticmethod
    def remove(homes: list[tuple[str, FileLock]]) -> None:
        """Remove folders that were made for a server."""
        for folder, lock in homes:
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


def started(gguf: str, context_tokens: int, slots: int, threads: int | None, cache_type: str) -> Started:
    """Start a server, on a port of the loopback interface.

    Raises:
        ConfigError, MissingExtra, EngineError: there is no such type; xllamacpp is not there; it refused.
    """
    try:
        import xllamacpp
    except ImportError:
        raise MissingExtra("xllamacpp", "llama-cpp", "LlamaServerEngine.load") from None
    kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{cache_type.upper()}", None)
    if kind is None:
        raise ConfigError(f"llama.cpp has no cache type {cache_type!r}")
    homes: list[tuple[str, FileLock]] = []
    try:
        homes.extend(map(new_slot_folder, dict.fromkeys(one for one in _HOMES if os.path.isdir(one))))
        parameters, key = xllamacpp.CommonParams(), secrets.token_hex(32)
        try:
            _set_up(parameters, os.path.abspath(gguf), homes[0][0], context_tokens, slots, key)
        except (AttributeError, TypeError) as error:
            raise ConfigError(
                f"xllamacpp {xllamacpp.__version__} does not fit this library ({error}); install one that "
                f"does: pip install -U 'xllamacpp>={_LEAST}'"
            ) from None
        parameters.cache_type_k = parameters.cache_type_v = kind
        if threads is not None:
            parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        try:
            server = xllamacpp.Server(parameters)
        except Exception as error:
            raise EngineError(f"llama.cpp cannot load {gguf!r}: {error}") from error
        folder = SlotFolder(homes[0][0], homes[-1][0] if len(homes) > 1 else "")
        return Started(server, folder, key, _build(xllamacpp), homes)
    except BaseException:
        Started.remove(homes)
        raise


def _build(xllamacpp: Any) -> str:
    """Return what tells the build of llama.cpp from others: its own numbers are 0 in most packages."""
    info = dict(xllamacpp.BUILD_INFO)
    own = [
        str(info[name]) for name in ("build_number", "commit") if info.get(name) not in (None, 0, "unknown")
    ]
    return " ".join(["xllamacpp", str(xllamacpp.__version__), *own])


def _set_up(parameters: Any, gguf: str, folder: str, context_tokens: int, slots: int, key: str) -> None:
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
    # Every user of the machine reaches the port, and any web page that one of them looks at.
    parameters.api_keys = [key]
    parameters.ui = False
    parameters.port = free_port()
    parameters.verbosity = -1


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
