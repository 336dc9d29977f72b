"""Marks in Redis of responses that their providers were told to delete, which every process heeds.

The id alone names a mark: another key of the same account, and other headers, delete a response just as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lix_cache.gateway.headers import MOST_SECONDS
from lix_cache.hot.keys import digest

if TYPE_CHECKING:
    from lix_cache.gateway.tiers import Entry, RedisTier

__all__ = ["is_deleted", "mark_deleted", "undeleted"]

#: Longer than any answer is kept, and is under way before.
_SECONDS = int(MOST_SECONDS) + 26 * 3600


async def mark_deleted(redis: RedisTier, tenant: str, identity: str, now: float) -> bool:
    """Let no process serve the response of an id any more. False: Redis does not know of it yet."""
    name = redis.name("deleted", tenant, digest(identity))
    return await redis.ask(("SET", name, repr(now), "EX", _SECONDS)) is not None


async def is_deleted(redis: RedisTier, entry: Entry) -> bool | None:
    """Whether a response was deleted since it was asked for; None if Redis does not tell."""
    found = await redis.ask(("GET", redis.name("deleted", entry.tenant, digest(entry.answer.id))))
    return None if found is None else found[0] is not None and float(found[0]) >= entry.created


async def undeleted(redis: RedisTier, entry: Entry | None) -> Entry | None:
    """Return what was found in Redis, if it may be served: in doubt it is a miss."""
    if entry is None or entry.answer.protocol != "responses":
        return entry
    return entry if await is_deleted(redis, entry) is False else None
