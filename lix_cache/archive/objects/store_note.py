"""What an archive on object storage says of itself: ``ROOT/store``. docs/object-layout.md"""

from __future__ import annotations

import json
import uuid
from typing import NamedTuple

from lix_cache.archive.objects import layout
from lix_cache.errors import ArchiveCorrupt, ConfigError
from lix_cache.storage.objects import Bucket

__all__ = ["FORMAT", "MOST_SHARDS", "StoreNote", "claimed", "noted"]

FORMAT = 1
MOST_SHARDS = 65_536


class StoreNote(NamedTuple):
    """What is noted.

    Attributes:
        uuid: of the archive.
        shards: how many logs it has.
        inherits: whether it took over notes of deletions from another archive (inherited.py).
    """

    uuid: str
    shards: int
    inherits: bool = False

    def packed(self) -> bytes:
        """Return the bytes of the object."""
        said = {"format": FORMAT, "uuid": self.uuid, "shards": self.shards}
        return json.dumps({**said, "inherits": True} if self.inherits else said).encode()


def noted(bucket: Bucket) -> StoreNote | None:
    """Return what is noted; None where there is no archive yet.

    Raises:
        ArchiveCorrupt: the note is damaged, or of another format.
    """
    data = bucket.get(layout.STORE)
    if data is None:
        return None
    try:
        said = json.loads(data)
        version, name, shards = said["format"], said["uuid"], said["shards"]
        inherits = said.get("inherits", False) is True
        is_valid = isinstance(shards, int) and 1 <= shards <= MOST_SHARDS and bool(uuid.UUID(name))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArchiveCorrupt(f"{layout.STORE!r} in the object store says nothing that makes sense") from None
    if version != FORMAT or not is_valid:
        raise ArchiveCorrupt(
            f"{layout.STORE!r} in the object store has format {version!r}; this lix_cache knows {FORMAT}"
        )
    return StoreNote(str(name), shards, inherits)


def claimed(bucket: Bucket, shards: int) -> StoreNote:
    """Return what is noted; note it where there is no archive yet.

    Raises:
        ConfigError: the store cannot have one.
    """
    found = noted(bucket)
    if found is None:
        _check_condition(bucket)
        bucket.create(layout.STORE, StoreNote(str(uuid.uuid4()), shards).packed())
        # What another put first counts.
        found = noted(bucket)
        if found is None:
            raise ArchiveCorrupt(
                f"{layout.STORE!r} is gone from the object store as soon as it was put there"
            )
    return found


def _check_condition(bucket: Bucket) -> None:
    """Refuse a store that puts an object in the place of another although it must not.

    Before anything is there: on such a store two processes would overwrite each other's messages.
    """
    name = f"{layout.PROBE}-{uuid.uuid4().hex}"
    is_ignored = bucket.create(name, b"") and bucket.create(name, b"")
    bucket.remove(name)
    if is_ignored:
        raise ConfigError(
            "the object store ignores If-None-Match: it replaced an object that a put was to leave alone. "
            "Use a release of it that has conditional writes"
        )
