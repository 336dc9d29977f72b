"""Messages that callers name by keys of their own, so that adding them again adds nothing twice. Pure."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING

from lix_cache.messages.turn import FROM_ID, NONCE_BYTES

if TYPE_CHECKING:
    from lix_cache.messages.turn import Turn

__all__ = ["nonce_of", "tag_of"]

_DIGEST_BYTES = 16
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def tag_of(key: str, turn: Turn) -> bytes:
    """Return the digests of a key and of what it stands for, 16 bytes each.

    The content counts as JSON does: the order of an object's keys does not matter. A time that was left
    to us is no part of it, because it is another one when the message is sent again.
    """
    body = turn.body
    when = None if body["timestamp"] is FROM_ID else body["timestamp"]
    text = _encode([body["role"], body["content"], body["metadata"], when])
    content = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES)
    if turn.vector is not None:
        content.update(b"\0%d" % turn.vector.kind + turn.vector.data)
    name = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES)
    return name.digest() + content.digest()


def nonce_of(tag: bytes, session_id: str, salt: bytes) -> bytes:
    """Return the nonce by which both tiers know the message that a tag stands for.

    With the content in it a key that is used again after it was forgotten names another message. With a
    secret in it a caller who may choose keys cannot make two messages that pass for one.
    """
    made = blake2b(session_id.encode(), key=salt, digest_size=NONCE_BYTES)
    made.update(tag)
    return made.digest()
