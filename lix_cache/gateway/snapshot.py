"""The exact answers of all tenants in a folder or an object store, and back: for a Redis that starts empty.

A manifest names parts and their checksums. Parts are there whole before the manifest names them, and what
the older manifest named is removed only after the new one is there: a crash at any step leaves one snapshot
that is whole. A part holds answers of one tenant alone. There are answers in it, no keys of tenants or
providers, and no requests. One that is damaged anywhere is refused as a whole: what is wrong with it is not
known, so none of it is served.

A purge or a DELETE puts a mark beside it when it has dropped a tenant's answers. A snapshot names the marks
that were there when it began. What any other mark is of it may hold still, so nothing of that tenant is put
back out of it, whatever Redis has forgotten meanwhile. No clock decides that: those of two machines differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
import struct
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import orjson

from lix_cache._log import logger
from lix_cache.clock import Clock
from lix_cache.drivers.threads import in_daemon_thread
from lix_cache.errors import ArchiveCorrupt, told
from lix_cache.gateway.tenants import LOCAL, TenantBook
from lix_cache.gateway.tiers import RedisTier
from lix_cache.hot.keys import digest
from lix_cache.storage.objects import Bucket, bucket_at, try_place

__all__ = ["check_snapshot", "hydrate", "load_snapshot", "mark_dropped", "save_snapshot"]

_HYDRATION_SECONDS = 300.0

_FORM = 3
_MANIFEST = "manifest.json"
#: What the name of a mark begins with.
_MARK = "dropped-"
_LARGEST_MANIFEST = 16 << 20
_PART_BYTES = 8 << 20
#: Of the parts of all tenants that are being filled.
_MOST_WAITING = 4 * _PART_BYTES
_LENGTHS = struct.Struct("<HI")
_PART = re.compile(r"part-([0-9a-f]{1,16})-[0-9a-f]{16}-\d{1,9}\.lxs\Z")
#: What a manifest says of a part in words: its file, the digest of its tenant, the checksum.
_WORDS = {"name": _PART, "tenant": re.compile(r"[A-Za-z0-9_-]{1,64}"), "sha256": re.compile(r"[0-9a-f]{64}")}
#: What a snapshot that was never finished has left is removed after so long: none takes longer.
_ORPHAN_SECONDS = 6 * 3600.0


async def save_snapshot(redis: RedisTier, objects: Bucket, clock: Clock) -> int:
    """Write all exact answers. Returns how many.

    Raises:
        ArchiveUnavailable: the place cannot be written.
        RedisUnavailable: not all of Redis was seen; the older snapshot stays.
    """
    begun = clock.time()
    before = await in_daemon_thread(objects.get, _MANIFEST)
    marks = await in_daemon_thread(_marks, objects)
    writer = _Writer(objects, begun)
    async for name, data in redis.records():
        await writer.add(name, data)
    while writer.waiting:
        await writer.write(next(iter(writer.waiting)))
    manifest = {
        "form": _FORM,
        "begun": begun,
        "marks": marks,
        "entries": writer.count,
        "parts": writer.parts,
    }
    await in_daemon_thread(objects.put, _MANIFEST, _sealed(manifest))
    await in_daemon_thread(
        _remove_old, objects, before, {part["name"] for part in writer.parts}, clock.time()
    )
    return writer.count


async def mark_dropped(objects: Bucket, tenant: str, clock: Clock) -> None:
    """Say that answers of a tenant have just been dropped. One object for each tenant, the last one counts.

    Raises:
        ArchiveUnavailable: the place cannot be written.
    """
    # Like no other one, whenever that was put.
    mark = f"{clock.time()!r} {secrets.token_hex(16)}"
    await in_daemon_thread(objects.put, _MARK + digest(tenant), mark.encode())


def _marks(objects: Bucket) -> dict[str, str]:
    """Return digests of all marks, by the digests of their tenants."""
    names = [one.name for one in objects.names("", after=_MARK) if one.name.startswith(_MARK)]
    found = {name.removeprefix(_MARK): _mark_of(objects, name) for name in names}
    return {tenant: mark for tenant, mark in found.items() if mark is not None}


def _mark_of(objects: Bucket, name: str) -> str | None:
    data = objects.get(name)
    return None if data is None else hashlib.sha256(data).hexdigest()


def _is_current(objects: Bucket, tenant_digest: str, marks: Mapping[str, str]) -> bool:
    """Whether a snapshot holds nothing of a tenant that was dropped since it began."""
    mark = _mark_of(objects, _MARK + tenant_digest)
    return mark is None or mark == marks.get(tenant_digest)


class _Writer:
    """Fills a part for each tenant."""

    def __init__(self, objects: Bucket, now: float) -> None:
        self._objects = objects
        # Of this snapshot alone: another that is written meanwhile removes none of them.
        self._start = f"part-{int(now * 1000):x}-{secrets.token_hex(8)}"
        self.waiting: dict[bytes, list[bytes]] = defaultdict(list)
        self._sizes: dict[bytes, int] = defaultdict(int)
        self.parts: list[dict[str, Any]] = []
        self.count = 0

    async def add(self, name: bytes, data: bytes) -> None:
        tenant = name.partition(b":")[0]
        record = _LENGTHS.pack(len(name), len(data)) + name + data
        self.waiting[tenant].append(record)
        self._sizes[tenant] += len(record)
        self.count += 1
        if self._sizes[tenant] >= _PART_BYTES:
            await self.write(tenant)
        elif sum(self._sizes.values()) >= _MOST_WAITING:
            await self.write(max(self._sizes, key=self._sizes.__getitem__))

    async def write(self, tenant: bytes) -> None:
        data = b"".join(self.waiting.pop(tenant))
        self._sizes.pop(tenant)
        name = f"{self._start}-{len(self.parts)}.lxs"
        await in_daemon_thread(self._objects.put, name, data)
        digest = hashlib.sha256(data).hexdigest()
        self.parts.append(
            {"name": name, "tenant": tenant.decode("latin-1"), "sha256": digest, "bytes": len(data)}
        )


def _sealed(manifest: dict[str, Any]) -> bytes:
    return orjson.dumps({**manifest, "sha256": hashlib.sha256(orjson.dumps(manifest)).hexdigest()})


def _remove_old(objects: Bucket, before: bytes | None, named: set[str], now: float) -> None:
    replaced: set[str] = set()
    if before is not None:
        # Of a damaged one the parts go as those do that nothing names.
        with contextlib.suppress(ArchiveCorrupt):
            replaced = {part["name"] for part in _checked(before)["parts"]}
    for name in [one.name for one in objects.names("")]:
        found = _PART.match(name)
        if found is None or name in named:
            continue
        if name in replaced or now - int(found[1], 16) / 1000 > _ORPHAN_SECONDS:
            objects.remove(name)


async def hydrate(
    redis: RedisTier, objects: Bucket, tenants: TenantBook, besides: Collection[str] = ()
) -> tuple[int, str]:
    """Read the snapshot; a gateway without it goes on all the same.

    Args:
        redis, objects: where to, and where from.
        tenants: who is known here.
        besides: names of those of whom something was dropped that the snapshot may hold.

    Returns:
        How many answers were put back, and ``ok`` or what went wrong.
    """
    names = [LOCAL] if tenants.local is not None else list(tenants.tenants)
    try:
        reading = load_snapshot(redis, objects, {digest(name) for name in names if name not in besides})
        return await asyncio.wait_for(reading, _HYDRATION_SECONDS), "ok"
    except asyncio.TimeoutError:
        trouble = f"the snapshot was not read within {_HYDRATION_SECONDS:g} s"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is to be known
        trouble = told(error)
    logger.error(
        "the snapshot is not used, and stays as it is until POST /admin/snapshot writes another: {}", trouble
    )
    return 0, trouble


async def load_snapshot(redis: RedisTier, objects: Bucket, tenants: Collection[str]) -> int:
    """Put back what may still be served and is not there. Returns how many answers that were.

    Args:
        redis: where to.
        objects: where from.
        tenants: digests of those who are known here; answers of others stay where they are.

    Raises:
        ArchiveCorrupt: something in it is damaged or missing; nothing was put back.
        ArchiveUnavailable: the place does not answer.
    """
    count = 0
    # All is read twice, for it may be larger than the memory: first whether it is whole, then what it says.
    found = await _whole(objects)
    while found is not None:
        marks = found.get("marks", {})  # one of before there were any is as old as can be
        try:
            for part in found["parts"]:
                tenant = part["tenant"]
                if tenant in tenants and await in_daemon_thread(_is_current, objects, tenant, marks):
                    for name, value in await in_daemon_thread(_read_part, objects, part):
                        count += await redis.restore(name, value)
            return count
        except ArchiveCorrupt:
            # Another gateway may have put a snapshot of its own there meanwhile. What is back stays, and is
            # not put back twice.
            before, found = found, await _whole(objects)
            if found == before:
                raise
    return count


async def _whole(objects: Bucket) -> dict[str, Any] | None:
    """Return the manifest of a snapshot whose parts are all there and undamaged; None if there is none.

    Raises:
        ArchiveCorrupt: they are not, and it is not that another snapshot has taken its place.
    """
    data = await in_daemon_thread(objects.get, _MANIFEST)
    while data is not None:
        try:
            found = _checked(data)
            for part in found["parts"]:
                await in_daemon_thread(_read_part, objects, part)
            return found
        except ArchiveCorrupt:
            before, data = data, await in_daemon_thread(objects.get, _MANIFEST)
            if data == before:
                raise
    return None


def check_snapshot(place: str, clock: Clock) -> None:
    """Look whether a snapshot can be written, and the one that is there be read. Leaves nothing behind.

    Raises:
        ArchiveCorrupt: it is damaged.
        ArchiveUnavailable: the place cannot be read or written.
        ConfigError, MissingExtra: there is no such place.
    """
    # Where it cannot be removed, it is as what a snapshot that was never finished has left.
    try_place(place, f"part-{int(clock.time() * 1000):x}-{secrets.token_hex(8)}-0.lxs")
    asyncio.run(_whole(bucket_at(place)))


def _checked(data: bytes) -> dict[str, Any]:
    try:
        manifest = orjson.loads(data) if len(data) <= _LARGEST_MANIFEST else None
    except orjson.JSONDecodeError:
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("form") != _FORM:
        raise ArchiveCorrupt(f"the snapshot's manifest is not one of form {_FORM}")
    said = manifest.pop("sha256", None)
    if said != hashlib.sha256(orjson.dumps(manifest)).hexdigest():
        raise ArchiveCorrupt("the snapshot's manifest is damaged")
    parts = manifest.get("parts")
    if not isinstance(parts, list) or not all(map(_is_part, parts)):
        raise ArchiveCorrupt("the snapshot's manifest names something else than a part")
    if type(manifest.get("begun")) not in (int, float):
        raise ArchiveCorrupt("the snapshot's manifest does not say when it began")
    if not isinstance(manifest.get("marks", {}), dict):
        raise ArchiveCorrupt("the snapshot's manifest does not say which marks it knows")
    return manifest


def _is_part(part: Any) -> bool:
    """Whether an entry of a manifest says all that is needed of a part, in its form."""
    if not isinstance(part, dict) or type(part.get("bytes")) is not int:
        return False
    words = {name: part.get(name) for name in _WORDS}
    return all(isinstance(word, str) and _WORDS[name].fullmatch(word) for name, word in words.items())


def _read_part(objects: Bucket, part: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    data = objects.get(part["name"])
    if data is None:
        raise ArchiveCorrupt(f"a part of the snapshot is missing ({part['name']})")
    if len(data) != part["bytes"] or hashlib.sha256(data).hexdigest() != part["sha256"]:
        raise ArchiveCorrupt(f"a part of the snapshot is damaged ({part['name']})")
    try:
        records = list(_records_of(data))
    except struct.error:
        raise ArchiveCorrupt(f"a part of the snapshot is damaged ({part['name']})") from None
    start = part["tenant"].encode("latin-1") + b":"
    if not all(name.startswith(start) for name, _ in records):
        raise ArchiveCorrupt(f"a part of the snapshot holds another tenant's answers ({part['name']})")
    return records


def _records_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position < len(data):
        name_size, size = _LENGTHS.unpack_from(data, position)
        start = position + _LENGTHS.size
        position = start + name_size + size
        if position > len(data):
            raise struct.error
        yield data[start : start + name_size], data[start + name_size : position]
