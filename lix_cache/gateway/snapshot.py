"""The exact answers of all tenants in a folder, and back: for a gateway whose Redis starts empty.

A manifest names parts and their checksums. Parts are whole on disk before the manifest names them, and what
an older manifest named is removed only after the new one is there: a crash at any step leaves one snapshot
that is whole. There are answers in it, no keys of tenants or providers, and no requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import orjson

from lix_cache._log import logger
from lix_cache.clock import Clock
from lix_cache.errors import ArchiveCorrupt, ArchiveError, told
from lix_cache.gateway.tiers import RedisTier
from lix_cache.storage.files import Files

__all__ = ["load_snapshot", "save_snapshot"]

_FORM = 1
_MANIFEST = "manifest.json"
_PART_BYTES = 8 << 20
_LENGTHS = struct.Struct("<HI")


async def save_snapshot(redis: RedisTier, folder: str, clock: Clock) -> int:
    """Write all exact answers. Returns how many.

    Raises:
        ArchiveUnavailable: the folder cannot be written.
        RedisUnavailable: not all of Redis was seen; the older snapshot stays.
    """
    files, parts, count = Files(), [], 0
    await asyncio.to_thread(files.make_folder, folder)
    records, size = [], 0
    async for name, data in redis.records():
        records.append(_LENGTHS.pack(len(name), len(data)) + name + data)
        size += len(records[-1])
        count += 1
        if size >= _PART_BYTES:
            parts.append(await asyncio.to_thread(_write_part, files, folder, b"".join(records)))
            records, size = [], 0
    if records:
        parts.append(await asyncio.to_thread(_write_part, files, folder, b"".join(records)))
    manifest = {"form": _FORM, "created": clock.time(), "entries": count, "parts": parts}
    await asyncio.to_thread(_name, files, folder, orjson.dumps(manifest))
    return count


def _write_part(files: Files, folder: str, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    name = f"part-{digest[:32]}.lxs"
    # Its name is its content's, so one that is there already is the same.
    files.write_synced(f"{folder}/{name}.new", data)
    files.rename(f"{folder}/{name}.new", f"{folder}/{name}")
    return {"name": name, "sha256": digest, "bytes": len(data)}


def _name(files: Files, folder: str, manifest: bytes) -> None:
    files.sync_folder(folder)  # the parts first
    files.write_synced(f"{folder}/{_MANIFEST}.new", manifest)
    files.rename(f"{folder}/{_MANIFEST}.new", f"{folder}/{_MANIFEST}")
    files.sync_folder(folder)
    named = {part["name"] for part in orjson.loads(manifest)["parts"]}
    for name in list(files.names(folder, "part-")):
        if name not in named:
            files.remove(f"{folder}/{name}")


async def load_snapshot(redis: RedisTier, folder: str) -> int:
    """Put back what may still be served and is not there. Returns how many answers that were.

    What is damaged is left out, and said in the log: a gateway starts without it.
    """
    files, count = Files(), 0
    try:
        manifest = await asyncio.to_thread(files.read, f"{folder}/{_MANIFEST}")
        if manifest is None:
            return 0
        for part in _parts_of(manifest):
            data = await asyncio.to_thread(files.read, f"{folder}/{part['name']}")
            if data is None or hashlib.sha256(data).hexdigest() != part["sha256"]:
                logger.error("a part of the snapshot is missing or damaged, and is left out")
                continue
            for name, value in _records_of(data):
                count += await redis.restore(name, value)
    except (ArchiveError, ValueError) as error:
        logger.error("the snapshot cannot be read: {}", told(error))
    return count


def _parts_of(data: bytes) -> list[dict[str, str]]:
    manifest = orjson.loads(data)
    parts = manifest.get("parts") if isinstance(manifest, dict) and manifest.get("form") == _FORM else None
    if not isinstance(parts, list):
        raise ArchiveCorrupt("not a manifest of this form")
    for part in parts:
        name = part.get("name") if isinstance(part, dict) else None
        if not isinstance(name, str) or "/" in name or not name.startswith("part-"):
            raise ArchiveCorrupt("a manifest that names no part")
    return parts


def _records_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position < len(data):
        name_size, size = _LENGTHS.unpack_from(data, position)
        start = position + _LENGTHS.size
        position = start + name_size + size
        yield data[start : start + name_size], data[start + name_size : position]
