"""What an archive on object storage says of itself: ``ROOT/store``. docs/object-layout.md"""

from __future__ import annotations

import json
import uuid
from typing import NamedTuple

from lix_cache.archive.objects import layout
from lix_cache.errors import ArchiveCorrupt
from lix_cache.storage.objects import Bucket

__all__ = ["FORMAT", "MOST_SHARDS", "StoreNote", "claimed", "noted"]

FORMAT = 1
MOST_SHARDS = 65_536


class StoreNote(NamedTuple):
    """What is noted.

    Attributes:
        uuid: of the archive.
        shards: how many logs it has.
    """

    uuid: str
    shards: int


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
        is_valid = isinstance(shards, int) and 1 <= shards <= MOST_SHARDS and bool(uuid.UUID(name))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArchiveCorrupt(f"{layout.STORE!r} in the object store says nothing that makes sense") from None
    if version != FORMAT or not is_valid:
        raise ArchiveCorrupt(
            f"{layout.STORE!r} in the object store has format {version!r}; this lix_cache knows {FORMAT}"
        )
    return StoreNote(str(name), shards)


def claimed(bucket: Bucket, shards: int) -> StoreNote:
    """Return what is noted; note it where there is no archive yet."""
    found = noted(bucket)
    if found is None:
        made = {"format": FORMAT, "uuid": str(uuid.uuid4()), "shards": shards}
        bucket.create(layout.STORE, json.dumps(made).encode())
        # What another put first counts.
        found = noted(bucket)
        if found is None:
            raise ArchiveCorrupt(
                f"{layout.STORE!r} is gone from the object store as soon as it was put there"
            )
    return found
