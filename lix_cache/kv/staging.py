"""The files of a save while they are written, beside the store's lock.

They lie in ``saving/`` of their model, under names that no reader looks for. A lock of its own, an empty file
beside them, says that the save lives and how much room it was given: others count that as taken. The order of
a save is such that it may be stopped between any two steps:

1. Under the store's lock room is made, and noted in the name of the save's lock. Stopped here: an empty file.
2. Without it the files are written and synced. Stopped here: files that no lock holds, so the next change
   removes them. No reader has seen them, and nothing that was there before is gone but by eviction.
3. Under the store's lock they get their names, and the session its manifest, last. Stopped here: state files
   that no manifest names, which the next change removes as well.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping

from lix_cache.kv.catalogue import SAVING
from lix_cache.kv.identity import session_name, tenant_digest
from lix_cache.storage.files import Files, Write
from lix_cache.storage.locks import FileLock

__all__ = ["Staging", "stem_of"]


def stem_of(tenant: str, session: str | None) -> str:
    """Return how the files of a session that is being saved begin, or those of all sessions of a tenant."""
    # Half of a session's digest: some file systems take no names of more than 143 bytes.
    return f"{tenant_digest(tenant).hex()}-" + (
        f"{session_name(tenant, session)[:32]}-" if session is not None else ""
    )


class Staging:
    """The files of one save.

    Args:
        folder: of the model.
        tenant, session: whose they are.
        files: to write with.

    Attributes:
        stem: how their names begin.
        sizes: of those that are written, by the name of the state.
    """

    def __init__(self, folder: str, tenant: str, session: str, files: Files) -> None:
        self.stem = stem_of(tenant, session) + secrets.token_hex(8)
        self.sizes: dict[str, int] = {}
        self._folder = os.path.join(folder, SAVING)
        self._files = files
        self._lock: FileLock | None = None
        self._lock_path = ""
        self._paths: dict[str, str] = {}

    def reserve(self, room: int) -> None:
        """Note how many bytes all its files may take. The store's lock is held."""
        path = os.path.join(self._folder, f"{self.stem}.{room}.lock")
        if self._lock is None:
            self._files.make_folder(self._folder)
            self._lock_path = path
            self._lock = self._files.try_lock(path)
        elif path != self._lock_path:
            self._files.rename(self._lock_path, path)
            self._lock_path = path

    def write(self, states: Mapping[str, bytes]) -> None:
        """Write files and sync them."""
        writes = []
        for name, data in states.items():
            self._paths[name] = os.path.join(self._folder, f"{self.stem}.{len(self._paths)}.part")
            writes.append(Write(self._paths[name], None, data))
        for refusal in self._files.write_many(writes):
            if refusal is not None:
                raise refusal
        self.sizes.update({name: len(data) for name, data in states.items()})

    def name(self, targets: Mapping[str, str]) -> None:
        """Give files the names that readers look for, durably. The store's lock is held."""
        folders = {os.path.dirname(path) for path in targets.values()}
        for folder in folders:
            self._files.make_folder(folder)
        for name, path in targets.items():
            self._files.rename(self._paths[name], path)
            del self._paths[name]
        for folder in sorted(folders):
            self._files.sync_folder(folder)

    def close(self) -> None:
        """Remove what has no name of its own yet."""
        try:
            for path in self._paths.values():
                self._files.remove(path)
            if self._lock is not None:
                self._files.remove(self._lock_path)
        finally:
            self._paths.clear()
            if self._lock is not None:
                self._lock.release()
                self._lock = None
