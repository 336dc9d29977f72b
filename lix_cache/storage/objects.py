"""Whole objects by name: in an object store, through obstore, or in a local folder.

A put replaces all of an object or nothing of it, and what it put is durable when it returns.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote
from weakref import WeakValueDictionary

from lix_cache.config.places import check_url, is_url
from lix_cache.errors import ArchiveUnavailable, ConfigError, MissingExtra
from lix_cache.storage.files import Files
from lix_cache.storage.opening import try_folder
from lix_cache.storage.presence import Presence

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Bucket", "FolderBucket", "Listed", "ObjectBucket", "bucket_at", "open_bucket", "try_place"]

T = TypeVar("T")

#: No try is repeated after it: the object store is away.
_RETRY_SECONDS = 20
#: A file without a name of its own that is older was left by a process that died.
_ORPHAN_SECONDS = 86_400.0
_UNNAMED = ".tmp"
#: What an error of obstore says where no answer came, or not all of it.
_UNANSWERED = re.compile(
    r"HttpError \{\s+kind: (?:Timeout|Connect|Request|Interrupted)|connection was not ready"
)
_NO_BUCKET = re.compile(r"<Code>(?:NoSuchBucket|ContainerNotFound)</Code>|bucket does not exist")
#: What is said in an error of obstore, and what to do about it; the first that is found.
_CAUSES = (
    (_NO_BUCKET, "its bucket does not exist: make the bucket first"),
    (re.compile("BadScheme"), "its endpoint begins with http://, which AWS_ALLOW_HTTP=true allows"),
    (
        re.compile(r"169\.254\.|metadata\.google"),
        "no credentials are in the environment (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)",
    ),
    (
        re.compile(r"status code: 40[13]\b"),
        "the credentials in the environment are wrong, or lack a right (get, put, delete, list)",
    ),
    (
        re.compile("kind: Connect|ConnectionRefused|dns error"),
        "nothing answers at its endpoint: look at AWS_ENDPOINT in the environment, and at the network",
    ),
    (
        re.compile("kind: Timeout"),
        "it did not answer in time: look at the network, and at how the store itself is",
    ),
    (
        re.compile("InvalidPath|Encountered (?:empty|illegal)"),
        "an object there has an empty part or a control character in its name; it is none of ours, remove it",
    ),
)
_LOOK = "look at its URL, at the credentials in the environment, and at whether the store can be reached"


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
        """Yield the objects below ``start`` (empty, or ends in ``/``) with names larger than ``after``."""


class ObjectBucket:
    """A bucket of S3, GCS, Azure, R2 or whatever else obstore speaks to. See :class:`Bucket`.

    Args:
        store: of obstore.
        root: what all names begin with.
        location: names the bucket and the root.
        presence: shared with others that ask the same store; None for one of its own.
    """

    def __init__(
        self, store: ObjectStore, root: str, location: str, presence: Presence | None = None
    ) -> None:
        self.location = location
        self.requests: Counter[str] = Counter()
        self._store = store
        self._root = _start(root)
        # Of no method of its own: it lives as long as this one does, and a circle would outlive both.
        self._presence = presence or Presence(partial(_is_there, store, self._root))

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

        self._presence.check()
        self.requests.update((kind,))
        try:
            found = call()
        except FileNotFoundError as error:
            self._presence.answers()
            # A bucket that is not there is no archive without messages; and a put makes what is not there.
            if kind == "put" or _NO_BUCKET.search(str(error)):
                raise _refused(error, kind, name) from None
            raise
        except (BaseError, OSError) as error:
            refused = _refused(error, kind, name)
            if refused.unanswered:
                self._presence.fails(str(refused))
            raise refused from None
        self._presence.answers()
        return found


def _start(root: str) -> str:
    return root.strip("/") + "/" if root.strip("/") else ""


def _is_there(store: ObjectStore, root: str) -> bool:
    """Ask for something small; whether the store answered, if only to refuse."""
    import obstore
    from obstore.exceptions import BaseError

    try:
        # Each time another name: one part of a store may be down, and the rest of it answers.
        obstore.head(store, f"{root}probe-{uuid.uuid4().hex}")
    except (BaseError, OSError) as error:
        return not _UNANSWERED.search(str(error))
    return True


def _refused(error: Exception, kind: str, name: str) -> ArchiveUnavailable:
    # Not its words: they may hold what was sent, with a signature or a token.
    text = str(error)
    status = re.search(r"\b(?:status|code|error)\D{0,20}?([45]\d\d)\b", text, re.IGNORECASE)
    said = f" ({status[1]})" if status else ""
    advice = next((advice for sign, advice in _CAUSES if sign.search(text)), _LOOK)
    refused = ArchiveUnavailable(
        f"the object store did not {kind} {name!r}: {type(error).__name__}{said}; {advice}"
    )
    refused.unanswered = kind if _UNANSWERED.search(text) else ""
    return refused


class FolderBucket:
    """A bucket that is a local folder, for one machine or a shared file system. See :class:`Bucket`.

    obstore's own does not sync what it writes.
    """

    def __init__(self, folder: str, files: Files | None = None) -> None:
        self.location = "file://" + os.path.abspath(folder)
        self.requests: Counter[str] = Counter()
        self._folder = os.path.abspath(folder)
        self._files = files or Files()

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, *name.split("/"))

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        self.requests.update(("get",))
        if length is None and not start:
            return self._files.read(self._path(name))
        return self._files.read_at(self._path(name), start, (1 << 40) if length is None else length)

    def _written(self, name: str, data: bytes) -> tuple[str, str, str]:
        self.requests.update(("put",))
        path = self._path(name)
        folder = os.path.dirname(path)
        self._files.make_folder(folder)
        temporary = os.path.join(folder, f".{uuid.uuid4().hex}{_UNNAMED}")
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
        self.requests.update(("delete",))
        self._files.remove(self._path(name))

    def modified(self, name: str) -> float | None:
        self.requests.update(("get",))
        return self._files.modified(self._path(name))

    def names(self, start: str, after: str = "") -> Iterator[Listed]:
        self.requests.update(("list",))
        folder = self._path(start.rstrip("/"))
        for own in sorted(self._files.names(folder)):
            name, path = start + own, os.path.join(folder, own)
            is_unnamed = own.startswith(".") and own.endswith(_UNNAMED)
            # Of the others no time is asked for: a folder may have very many.
            modified = self._files.modified(path) if is_unnamed or name > after else None
            if modified is None:
                continue
            if not is_unnamed:
                yield Listed(name, 0, modified)
            elif modified < time.time() - _ORPHAN_SECONDS:
                self._files.remove(path)


def bucket_at(place: str) -> Bucket:
    """Return the bucket of a folder, or of a URL as :func:`open_bucket` takes it.

    Raises: as :func:`open_bucket`, and :func:`is_url`.
    """
    return open_bucket(place) if is_url(place) else FolderBucket(os.path.expanduser(place))


def try_place(place: str, name: str) -> None:
    """Try to put an object, and leave nothing behind.

    Args:
        place: see :func:`bucket_at`.
        name: of the object, which no other one has.

    Raises:
        ArchiveUnavailable: it cannot be put, or not be removed.
        ConfigError, MissingExtra: see :func:`open_bucket`.
    """
    bucket = bucket_at(place)
    if isinstance(bucket, FolderBucket):
        try_folder(bucket.location.removeprefix("file://"))
        return
    bucket.put(name, b"")
    bucket.remove(name)


def open_bucket(url: str, files: Files | None = None) -> Bucket:
    """Open the bucket of a URL. Nothing is sent.

    Args:
        url: ``s3://bucket/prefix``, ``gs://…``, ``az://…``, ``https://…`` of one of them, or ``file:///folder``.
            Credentials, region and endpoint come from the environment, as the providers' own tools read it.
        files: the file system, for ``file://``.

    Raises:
        ConfigError: no such URL.
        MissingExtra: obstore is not installed.
    """
    check_url(url)
    scheme, _, rest = url.partition("://")
    if scheme == "file":
        return FolderBucket(unquote(rest), files)
    try:
        import obstore.store
    except ImportError:
        raise MissingExtra("obstore", "object-store", "an object store") from None
    retry: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)}
    bucket, _, root = rest.strip("/").partition("/") if scheme != "https" else (rest, "", "")
    try:
        # No options of its client: they would take the place of what the environment says, all of them.
        store = obstore.store.from_url(f"{scheme}://{bucket}", retry_config=retry)
    except Exception as error:  # noqa: BLE001 - of whatever kind: it is about the settings; its text may quote them
        raise ConfigError(f"the object store cannot be used: {type(error).__name__}") from None
    return ObjectBucket(store, root, url.rstrip("/"), _presence_at(f"{scheme}://{bucket}", store, root))


#: By the bucket and the environment, of which a client is made.
_presences: WeakValueDictionary[tuple[str, int], Presence] = WeakValueDictionary()


def _presence_at(bucket: str, store: ObjectStore, root: str) -> Presence:
    """Return the presence that all clients of a bucket share, as long as there is one of them."""
    made = Presence(partial(_is_there, store, _start(root)))
    return _presences.setdefault((bucket, hash(frozenset(os.environ.items()))), made)
