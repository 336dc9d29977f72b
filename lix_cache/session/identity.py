"""Whether all processes of a store move its sessions to the same archive. See lix_cache.effects.

Redis names the archive by its UUID and a token that is in it. Two folders on one Redis would each hold a part
of the history; a process compares at its first use of a store, and its daemon at each round.
"""

from __future__ import annotations

import hashlib
import platform
import secrets
from functools import partial
from typing import TYPE_CHECKING

from lix_cache.effects import DiskCall, Flow, RedisBatch, RedisCall
from lix_cache.errors import ArchiveError, ArchiveMismatch, RedisUnavailable
from lix_cache.hot.layout import claim_archive, noted_archive, put_archive

if TYPE_CHECKING:
    from lix_cache.session.store import SessionStore

__all__ = ["adopt_archive", "agree_on_archive"]

#: Names of the settings that are tokens begin so.
_MARK = "token "
#: Two machines take turns no faster: each token stays in the archive.
_TURN_SECONDS = 3600.0


def agree_on_archive(store: SessionStore, found: bytes | str | None, *, notes: bool) -> Flow[bool]:
    """Compare our archive with the one that Redis names. False if the archive does not answer.

    By its UUID, and by a token in the archive of the process that noted it: a copy of a folder has the
    same UUID, but not the tokens that were put into the other one since. A process on another machine
    than that of the last token puts a new one, so the others find out whether they see it.

    Raises:
        ArchiveMismatch: it is another one, or a copy.
    """
    if found is not None and found == store.layout.archive:
        return True
    cold, keys = store.cold, store.hot.keys
    noted = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
    try:
        own: str | None = yield DiskCall(cold.archive_id)
        if noted is None:
            if not notes:
                return True
            made = yield DiskCall(partial(_new_note, store), waits=True)
            _, found = yield RedisBatch(claim_archive(keys, made))
            if found is None:
                raise RedisUnavailable("Redis has forgotten at once which archive is in use")
            noted = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
            own = yield DiskCall(cold.archive_id)
        archive, _, token = noted.partition(" ")
        is_there = archive == own and (yield DiskCall(partial(cold.setting, _MARK + token))) is not None
        if not is_there:
            raise ArchiveMismatch(_why(store, archive, own))
        if notes and _is_of_others(token, store.clock.time()):
            noted = yield DiskCall(partial(_new_note, store), waits=True)
            yield RedisCall(put_archive(keys, noted))
            found = noted.encode()
    except ArchiveError:
        # What follows meets the same trouble, and knows what to do about it.
        return False
    store.layout.archive = found
    return True


def adopt_archive(store: SessionStore) -> Flow[str | None]:
    """Note our archive in Redis whatever was noted. Returns the UUID of the archive that was noted."""
    found: bytes | str | None = yield RedisCall(noted_archive(store.hot.keys))
    note = yield DiskCall(partial(_new_note, store), waits=True)
    yield RedisCall(put_archive(store.hot.keys, note))
    store.layout.archive = None
    noted = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
    return None if noted is None else noted.partition(" ")[0]


def _new_note(store: SessionStore) -> str:
    """Put a token into the archive, and return what Redis is to say of it. For threads: it writes."""
    token = f"{_here()}-{int(store.clock.time() * 1000)}-{secrets.token_hex(8)}"
    own = store.cold.archive_id(make=True)
    # In the archive first: what Redis names must be there for all who see the same.
    store.cold.note_setting(_MARK + token, "1")
    return f"{own} {token}"


def _here() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_of_others(token: str, now: float) -> bool:
    """Whether a token was put on another machine, and not just now."""
    machine, _, rest = token.partition("-")
    ms = rest.partition("-")[0]
    return machine != _here() and (not ms.isdigit() or now - int(ms) / 1000 > _TURN_SECONDS)


def _why(store: SessionStore, archive: str, own: str | None) -> str:
    which = "a copy of it" if own == archive else "a new and empty place" if own is None else f"archive {own}"
    return (
        f"the sessions under prefix {store.hot.keys.prefix!r} move to archive {archive}, but "
        f"{store.cold.location!r} is {which}: their history would be in two parts. Let all processes of an "
        "application use one archive (archive_dir on a shared file system, or archive_url). Give another "
        "application a redis_key_prefix of its own. If this archive has taken the other's place for "
        "good, run 'lix-cache archive adopt' with it and this prefix"
    )
