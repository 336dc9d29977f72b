"""Where the objects are: whole objects by name, put if absent. obstore's stores, or a local folder."""

from __future__ import annotations

import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol, TypeVar

from lix_cache.errors import ArchiveUnavailable, ConfigError, MissingExtra
from lix_cache.storage.files import Files

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Bucket", "FolderBucket", "Listed", "ObjectBucket", "open_bucket"]

T = TypeVar("T")

#: Beyond it an object store is away: the messages stay in Redis.
_ANSWER_SECONDS = 20
_SCHEMES = ("s3://", "gs://", "az://", "azure://", "abfs://", "abfss://", "https://", "file://")


class Listed(NamedTuple):
    """An object in a listing.

    Attributes:
        name: below the root.
        size: bytes.
        modified: Unix seconds, by the store's clock.
    """

    name: str
    size: int
    modified: float


class Bucket(Protocol):
    """Objects below one root. Every method raises ArchiveUnavailable where the store refuses or is away.

    Attributes:
        location: names the root: two buckets of one location have the same objects.
        requests: how many were sent, by ``get``, ``put``, ``delete`` and ``list``.
    """

    location: str
    requests: Counter[str]

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        """Return an object or a part of it, which may be shorter than asked for; None if there is none."""

    def create(self, name: str, data: bytes) -> bool:
        """Put an object, durably, if there is none of the name; else return False.

        Where the answer is lost it may say False of an own object.
        """

    def put(self, name: str, data: bytes) -> None:
        """Put an object, durably, in the place of another or none."""

    def remove(self, name: str) -> None:
        """Remove an object; harmless if there is none."""

    def modified(self, name: str) -> float | None:
        """Return when an object was put, in Unix seconds by the store's clock; None if there is none."""

    def names(self, start: str, after: str = "") -> Iterator[Listed]:
        """Yield the objects below ``start``, which ends in ``/``, with names larger than ``after``."""


class ObjectBucket:
    """A bucket of S3, GCS, Azure, R2 or whatever else obstore speaks to. See :class:`Bucket`.

    Args:
        store: of obstore.
        root: what all names begin with.
        location: names the bucket and the root.
    """

    def __init__(self, store: ObjectStore, root: str, location: str) -> None:
        self.location = location
        self.requests: Counter[str] = Counter()
        self._store = store
        self._root = root.strip("/") + "/" if root.strip("/") else ""

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        import obstore

        options: Any = None if length is None and not start else {"range": {"offset": start}}
        if length is not None:
            options = {"range": (start, start + length)}

        def read() -> bytes:
            return bytes(obstore.get(self._store, self._root + name, options=options).bytes())

        try:
            return self._sent("get", name, read)
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        def put() -> bool:
            try:
                obstore.put(self._store, self._root + name, data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

        return self._sent("put", name, put)

    def put(self, name: str, data: bytes) -> None:
        import obstore

        self._sent(
            "put", name, lambda: obstore.put(self._store, self._root + name, data, use_multipart=False)
        )

    def remove(self, name: str) -> None:
        import obstore

        try:
            self._sent("delete", name, lambda: obstore.delete(self._store, self._root + name))
        except FileNotFoundError:
            return

    def modified(self, name: str) -> float | None:
        import obstore

        try:
            found = self._sent("get", name, lambda: obstore.head(self._store, self._root + name))
        except FileNotFoundError:
            return None
        return found["last_modified"].timestamp()

    def names(self, start: str, after: str = "") -> Iterator[Listed]:
        import obstore

        root = self._root + start
        offset = self._root + after if after else None

        def listed() -> list[list[Any]]:
            # By pages of a thousand, each a request.
            return list(obstore.list(self._store, root, offset=offset, chunk_size=1000))

        pages = self._sent("list", start, listed)
        self.requests["list"] += max(0, len(pages) - 1)
        for page in pages:
            for one in page:
                yield Listed(one["path"][len(self._root) :], one["size"], one["last_modified"].timestamp())

    def _sent(self, kind: str, name: str, call: Callable[[], T]) -> T:
        from obstore.exceptions import BaseError

        self.requests[kind] += 1
        try:
            return call()
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            _refused(error, kind, name)


def _refused(error: Exception, kind: str, name: str) -> NoReturn:
    # Not its words: they may hold what was sent, with a signature or a token.
    status = re.search(r"\b(?:status|code|error)\D{0,20}?([45]\d\d)\b", str(error), re.IGNORECASE)
    said = f" ({status[1]})" if status else ""
    raise ArchiveUnavailable(
        f"the object store did not {kind} {name!r}: {type(error).__name__}{said}; look at archive_url, "
        "at the credentials in the environment, and at whether the store can be reached"
    ) from None


class FolderBucket:
    """A bucket that is a local folder, for one machine or a shared file system. See :class:`Bucket`.

    obstore's own does not sync what it writes.
    """

    def __init__(self, folder: str, files: Files | None = None) -> None:
        self.location = "file://" + os.path.abspath(folder)
        self.requests: Counter[str] = Counter()
        self._folder = os.path.abspath(folder)
        self._files = files or Files()
        self._made: set[str] = set()

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, *name.split("/"))

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        self.requests["get"] += 1
        if length is None and not start:
            return self._files.read(self._path(name))
        return self._files.read_at(self._path(name), start, (1 << 40) if length is None else length)

    def _written(self, name: str, data: bytes) -> tuple[str, str, str]:
        self.requests["put"] += 1
        path = self._path(name)
        folder = os.path.dirname(path)
        if folder not in self._made:
            self._files.make_folder(folder)
            self._made.add(folder)
        temporary = os.path.join(folder, f".{uuid.uuid4().hex}.tmp")
        self._files.write_synced(temporary, data)
        return temporary, path, folder

    def create(self, name: str, data: bytes) -> bool:
        temporary, path, folder = self._written(name, data)
        # Synced before it has the name, which it gets only if no other file has it.
        is_new = self._files.name_new(temporary, path)
        self._files.sync_folder(folder)
        self._files.remove(temporary)
        return is_new

    def put(self, name: str, data: bytes) -> None:
        temporary, path, folder = self._written(name, data)
        self._files.rename(temporary, path)
        self._files.sync_folder(folder)

    def remove(self, name: str) -> None:
        self.requests["delete"] += 1
        self._files.remove(self._path(name))

    def modified(self, name: str) -> float | None:
        self.requests["get"] += 1
        return self._files.modified(self._path(name))

    def names(self, start: str, after: str = "") -> Iterator[Listed]:
        self.requests["list"] += 1
        folder = self._path(start.rstrip("/"))
        for own in sorted(self._files.names(folder)):
            name = start + own
            modified = self._files.modified(os.path.join(folder, own))
            if modified is not None and name > after and not own.startswith("."):
                yield Listed(name, 0, modified)


def open_bucket(url: str, files: Files | None = None) -> Bucket:
    """Open the bucket of an ``archive_url``. Nothing is sent.

    Args:
        url: ``s3://bucket/prefix``, ``gs://…``, ``az://…``, ``https://…`` of one of them, or ``file:///folder``.
            Credentials, region and endpoint come from the environment, as the providers' own tools read it.
        files: the file system, for ``file://``.

    Raises:
        ConfigError: no such URL.
        MissingExtra: obstore is not installed.
    """
    if not url.startswith(_SCHEMES):
        raise ConfigError(f"archive_url must begin with one of {', '.join(_SCHEMES)}")
    scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise ConfigError(
            "archive_url holds no credentials and no parameters: they come from the environment"
        )
    if scheme == "file":
        return FolderBucket(rest, files)
    try:
        import obstore.store
    except ImportError:
        raise MissingExtra("obstore", "object-store", "archive_url") from None
    options: Any = {"timeout": f"{_ANSWER_SECONDS} seconds", "connect_timeout": "5 seconds"}
    if os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes"):
        options["allow_http"] = True
    from datetime import timedelta

    retry: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=_ANSWER_SECONDS)}
    bucket, _, root = rest.strip("/").partition("/") if scheme != "https" else (rest, "", "")
    try:
        store = obstore.store.from_url(f"{scheme}://{bucket}", client_options=options, retry_config=retry)
    except Exception as error:  # noqa: BLE001 - of whatever kind: it is about the settings
        raise ConfigError(f"archive_url cannot be used: {type(error).__name__}") from None
    return ObjectBucket(store, root, url.rstrip("/"))
