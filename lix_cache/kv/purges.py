"""Marks of purges: what another process still holds of a purged session does not come back to disk.

A process that takes a session into memory notes the marks that are there. A mark that it did not see then
is that of a purge since. No clocks are compared: a new mark is another file.
"""

from __future__ import annotations

import os
import secrets
import time

from lix_cache.kv.catalogue import NEW, PURGED
from lix_cache.kv.identity import session_name, tenant_digest
from lix_cache.storage.files import Files

__all__ = ["PurgeMarks", "Seen"]

#: What there was of a session's mark and of its tenant's; None for none.
Seen = tuple[str | None, str | None]

#: The mark of a whole tenant.
_WHOLE = "all"
#: No process holds a state so long without writing it.
_KEPT_SECONDS = 31 * 86_400.0
#: Of a tenant. Ids that nothing has can be purged as well: the oldest marks go, no other tenant's.
_MOST = 10_000
#: One of so many marks has its tenant's looked through.
_TIDIED = 64


class PurgeMarks:
    """The marks below a store's folder.

    Args:
        root: the store's folder.
        files: to change it with.
    """

    def __init__(self, root: str, files: Files) -> None:
        self._folder = os.path.join(root, PURGED)
        self._files = files

    def seen(self, tenant: str, session: str | None) -> Seen:
        """Return what there is now, to be asked about later."""
        of_tenant = self._files.version(self._path(tenant, None))
        return None if session is None else self._files.version(self._path(tenant, session)), of_tenant

    def is_purged(self, tenant: str, session: str, since: Seen) -> bool:
        """Whether a session, or all of its tenant, was purged since then."""
        now = self.seen(tenant, session)
        # A mark that is gone was too old to matter.
        return any(one is not None and one != before for one, before in zip(now, since, strict=True))

    def put(self, tenant: str, session: str | None) -> None:
        """Mark a session, or a whole tenant, as purged. The store's lock is held."""
        path = self._path(tenant, session)
        self._files.make_folder(os.path.dirname(path))
        # Another file each time, so that no mark looks like the one before.
        self._files.write_synced(path + NEW, b"")
        self._files.rename(path + NEW, path)
        if secrets.randbelow(_TIDIED) == 0:
            self._tidy(os.path.dirname(path))

    def tidy(self) -> None:
        """Remove the marks that no process needs. The store's lock is held."""
        for tenant in list(self._files.names(self._folder, folders=True)):
            self._tidy(os.path.join(self._folder, tenant))

    def _tidy(self, folder: str) -> None:
        found = sorted(self._files.listed(folder), key=lambda one: -one[1])
        for number, (name, put) in enumerate(found):
            if number >= _MOST or time.time() - put > _KEPT_SECONDS:
                self._files.remove(os.path.join(folder, name))

    def _path(self, tenant: str, session: str | None) -> str:
        name = _WHOLE if session is None else session_name(tenant, session)
        return os.path.join(self._folder, tenant_digest(tenant).hex(), name)
