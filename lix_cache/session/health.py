"""Whether the tiers work: found out before the first message, and told when it changes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger
from lix_cache.effects import DiskCall, Flow, RedisBatch
from lix_cache.errors import (
    ArchiveError,
    ArchiveMismatch,
    ArchiveUnavailable,
    LayoutMismatch,
    RedisError,
    RedisUnavailable,
    told,
)
from lix_cache.hot.probe import probe, verdict
from lix_cache.session.layout import agree

if TYPE_CHECKING:
    from lix_cache.session.store import SessionStore

__all__ = ["ArchiveState", "before_add", "health", "redis_trouble"]


_FULL = (errno.ENOSPC, errno.EDQUOT)


class ArchiveState:
    """Whether the archive folder took what was written last. Shared by all caches of a store.

    Attributes:
        is_known: it was written to at least once.
        trouble: why it refuses, in words; None while it does not.
    """

    def __init__(self) -> None:
        self.is_known = False
        self.trouble: str | None = None

    def works(self) -> None:
        """Note that the folder was written to."""
        self.is_known = True
        if self.trouble is not None:
            logger.info("the archive can be written to again")
            self.trouble = None

    def fails(self, error: Exception) -> None:
        """Note that the folder refused; say so, once."""
        if self.trouble is None:
            logger.warning("the archive refuses, and messages stay in Redis until it does not: {}", error)
        self.trouble = told(error)


def before_add(store: SessionStore) -> Flow[None]:
    """See that the archive can be written to: before the first add, and after trouble if the policy asks.

    A folder that never worked must not be found out hundreds of messages later. A disk that is
    full is no such folder: it has room again one day, and messages can wait for that.

    Raises:
        ArchiveUnavailable: it cannot; nothing was stored.
    """
    state = store.archive_state
    if state.is_known and (state.trouble is None or store.settings.on_archive_error == "hot"):
        return
    try:
        yield from _look(store)
    except ArchiveUnavailable as error:
        if error.errno not in _FULL or store.settings.on_archive_error == "raise":
            raise
        state.is_known = True


def _look(store: SessionStore) -> Flow[None]:
    try:
        yield DiskCall(store.cold.check_writable)
    except ArchiveError as error:
        store.archive_state.fails(error)
        raise
    store.archive_state.works()


def redis_trouble(store: SessionStore) -> Flow[RedisError | None]:
    """Return why the server does not answer or takes no writes; None if it does both."""
    try:
        silent, refused = verdict((yield RedisBatch(probe(store.hot.keys), errors_as_values=True)))
    except RedisError as error:
        return error
    return silent or refused


def health(store: SessionStore) -> Flow[dict[str, Any]]:
    """Try both tiers once, with a write each. Returns their states; raises nothing for what it finds."""
    archive = "ok"
    trouble = yield from redis_trouble(store)
    redis = "ok" if trouble is None else told(trouble)
    try:
        yield from _look(store)
    except ArchiveError as error:
        archive = told(error)
    try:
        yield from agree(store, notes=False)
    except (ArchiveMismatch, LayoutMismatch) as error:
        return {"status": "down", "redis": told(error), "archive": archive}
    settings = store.settings
    goes_on = {
        (True, True): "ok",
        # The policy is for trouble that passes; a wrong password or a missing right is an error at once.
        (False, True): "degraded"
        if settings.on_redis_error == "archive" and isinstance(trouble, RedisUnavailable)
        else "down",
        (True, False): "degraded"
        if settings.on_archive_error == "hot" and settings.durability != "disk"
        else "down",
        (False, False): "down",
    }
    return {"status": goes_on[redis == "ok", archive == "ok"], "redis": redis, "archive": archive}
