"""Whole objects by name, in a folder or in an object store. For what is written once and read as a whole.

A put replaces all of an object or nothing of it, and what it put is there when it returns.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from lix_cache.errors import ArchiveUnavailable, ConfigError, MissingExtra
from lix_cache.storage.files import Files
from lix_cache.storage.opening import try_folder

__all__ = ["FolderObjects", "Objects", "RemoteObjects", "objects_at", "try_place"]

_URL = re.compile(r"(?:s3|s3a|gs|az|adl|abfss?|azure|https?|file)://")
_NEW = ".new"
_RETRY_SECONDS = 30


class Objects(Protocol):
    """Where objects are. All methods block.

    Raises:
        ArchiveUnavailable: from all of them: the place does not answer, or refuses.
    """

    def get(self, name: str) -> bytes | None:
        """Return an object; None if there is none."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Store an object, in the place of an older one."""
        ...

    def names(self) -> list[str]:
        """Return the names of all objects."""
        ...

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        ...


def objects_at(place: str) -> Objects:
    """Return what stores objects: a folder, or a URL such as ``s3://bucket/path`` (extra ``object-store``).

    Raises:
        ConfigError: the URL makes no sense.
        MissingExtra: ``obstore`` is not installed.
    """
    if _URL.match(place):
        return RemoteObjects(place)
    if "://" in place:
        raise ConfigError("an object store is named by s3://, gs://, az:// or file://, a folder by its path")
    return FolderObjects(os.path.expanduser(place))


def try_place(place: str, name: str) -> None:
    """Try to put an object, and leave nothing behind.

    Args:
        place: see :func:`objects_at`.
        name: of the object, which no other one has.

    Raises:
        ArchiveUnavailable: it cannot be put, or not be removed.
        ConfigError, MissingExtra: see :func:`objects_at`.
    """
    objects = objects_at(place)
    if isinstance(objects, FolderObjects) or place.startswith("file://"):
        folder = unquote(urlsplit(place).path) if place.startswith("file://") else os.path.expanduser(place)
        try_folder(folder)
        return
    objects.put(name, b"")
    objects.remove(name)


class FolderObjects:
    """Objects as files of one folder, made when the first one is put."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files = Files()

    def get(self, name: str) -> bytes | None:
        return self._files.read(f"{self._folder}/{name}")

    def put(self, name: str, data: bytes) -> None:
        path = f"{self._folder}/{name}"
        self._files.make_folder(self._folder)
        # Whole on disk before it has its name, and its name on disk before this returns.
        self._files.write_synced(path + _NEW, data)
        self._files.rename(path + _NEW, path)
        self._files.sync_folder(self._folder)

    def names(self) -> list[str]:
        return list(self._files.names(self._folder))

    def remove(self, name: str) -> None:
        self._files.remove(f"{self._folder}/{name}")


class RemoteObjects:
    """Objects in a store of S3's, Google's or Azure's kind. Credentials come from their usual variables."""

    def __init__(self, url: str) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise MissingExtra("obstore", "object-store", "an object store") from None
        self._api: Any = obstore
        try:
            # No options of its client: they would take the place of what its variables say, all of them.
            retries = {"max_retries": 3, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)}
            more: dict[str, Any] = {} if url.startswith("file://") else {"retry_config": retries}
            self._store: Any = from_url(url, **more)
        except Exception as error:  # noqa: BLE001 - its kinds are its own; its text may quote credentials
            raise ConfigError(f"the object store cannot be used ({type(error).__name__})") from None

    def get(self, name: str) -> bytes | None:
        try:
            return bytes(self._api.get(self._store, name).bytes())
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001
            raise _unavailable("reading", error) from None

    def put(self, name: str, data: bytes) -> None:
        try:
            self._api.put(self._store, name, data)
        except Exception as error:  # noqa: BLE001
            raise _unavailable("writing", error) from None

    def names(self) -> list[str]:
        try:
            return [str(one["path"]) for some in self._api.list(self._store) for one in some]
        except FileNotFoundError:
            return []
        except Exception as error:  # noqa: BLE001
            raise _unavailable("listing", error) from None

    def remove(self, name: str) -> None:
        try:
            self._api.delete(self._store, name)
        except FileNotFoundError:
            return
        except Exception as error:  # noqa: BLE001
            raise _unavailable("removing", error) from None


def _unavailable(what: str, error: Exception) -> ArchiveUnavailable:
    return ArchiveUnavailable(f"the object store failed at {what} ({type(error).__name__})")
