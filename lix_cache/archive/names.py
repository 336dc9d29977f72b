"""File names: any session id can have one, and none can escape with it."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from urllib.parse import unquote

from lix_cache.messages.session_key import plain_of, stored_plain

__all__ = [
    "SUFFIX",
    "file_stem",
    "is_encoded",
    "legacy_session_id",
    "plain_stem",
    "session_id_of_stem",
    "stripe_of",
]

SUFFIX = ".huff"
LOCK_STRIPES = 1024
_MAX_STEM = 180
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
_SAFE_IN_ANY_CASE = _SAFE - frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
# Names that some systems reserve for devices, whatever the extension.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))}
)


@lru_cache(maxsize=512)  # an append asks for it some five times
def file_stem(session_id: str) -> str:
    """Return the file name of a session, without its suffix.

    Injective: two ids never share a name, and two of which one has a namespace not even on a file
    system that ignores case. The result has no separator, is never hidden, never empty, never a
    device, and at most 180 characters long.
    """
    data = session_id.encode()
    escape_first = data[:1] == b"." or session_id.split(".")[0].lower() in _DEVICES
    # One tenant must not get at the name of another's file, nor keep it from having one.
    safe = _SAFE if plain_of(session_id) is not None else _SAFE_IN_ANY_CASE
    stem = "".join(
        chr(byte) if byte in safe and not (i == 0 and escape_first) else f"%{byte:02X}"
        for i, byte in enumerate(data)
    )
    if len(stem) > _MAX_STEM:
        return f"~{hashlib.sha256(data).hexdigest()}"
    return stem


def plain_stem(session_id: str) -> str | None:
    """Return the name the old package gave a session, where it differs and is harmless.

    None for a session with a namespace: the old package knew none, and what has its name is another's.
    """
    text = plain_of(session_id)
    if text is None or "/" in text or "\\" in text or "\0" in text or len(text.encode()) > 250:
        return None
    return None if file_stem(session_id) == text else text


def is_encoded(stem: str) -> bool:
    """Whether :func:`file_stem` may have made a name."""
    return stem.startswith("~") or file_stem(session_id_of_stem(stem)) == stem


def session_id_of_stem(stem: str) -> str:
    """Return the session id a name stands for; for a digest, the name itself."""
    return stem if stem.startswith("~") else unquote(stem, errors="replace")


def legacy_session_id(stem: str) -> str:
    """Return the session id that a file of the old package has, by its name."""
    return stored_plain(stem)


def stripe_of(session_id: str) -> int:
    """Return the number of the lock file that guards a session."""
    digest = hashlib.blake2b(session_id.encode(), digest_size=2).digest()
    return int.from_bytes(digest, "little") % LOCK_STRIPES
