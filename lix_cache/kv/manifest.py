"""A session's manifest ⇄ bytes (docs/kv-layout.md, "A manifest"). Pure."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lix_cache.errors import CodecError
from lix_cache.kv.identity import Ids, as_ids, ids_bytes

__all__ = ["MOST_BYTES", "Manifest", "Mark", "Part", "decode_manifest", "encode_manifest", "mark_of"]

FORMAT = "lix-kv-session/1"
MOST_BYTES = 64 << 20
_MARK = re.compile(rb'"checksum":"([0-9a-f]{8})"')
_NAME = re.compile(r"[0-9a-f]{64}(-(0|[1-9][0-9]{0,11})-[0-9a-f]{32})?")
_EMPTY = as_ids([])


@dataclass(frozen=True)
class Mark:
    """Where rendered text and tokens meet.

    Attributes:
        characters: length of the text up to here.
        tokens: how many tokens it is.
        digest: of that text.
    """

    characters: int
    tokens: int
    digest: str


@dataclass(frozen=True)
class Part:
    """Where a message of the prompt ends.

    Attributes:
        tokens: number of tokens up to its end.
        name: what it is, such as ``system`` or ``message 3 (user)``.
    """

    tokens: int
    name: str


@dataclass(frozen=True)
class Manifest:
    """What a session has in the store.

    Attributes:
        session: its id.
        tenant: whose it is.
        files: name of each state file → name of the file it needs, or "".
        ids: the whole sequence.
        marks: where text and tokens meet, ascending.
        parts: where the messages end, ascending.
        pinned: whether its files are kept from eviction.
    """

    session: str
    tenant: str
    files: Mapping[str, str] = field(default_factory=dict)
    ids: Ids = field(default_factory=lambda: _EMPTY, compare=False, repr=False)
    marks: Sequence[Mark] = ()
    parts: Sequence[Part] = ()
    pinned: bool = False

    def with_files(self, files: Mapping[str, str]) -> Manifest:
        return replace(self, files=dict(files))


def mark_of(text: str, tokens: int) -> Mark:
    """Return the mark at the end of a text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
    return Mark(len(text), tokens, digest.hex())


def encode_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as a file."""
    text = json.dumps(
        {
            "format": FORMAT,
            "checksum": "00000000",
            "session": manifest.session,
            "tenant": manifest.tenant,
            "pinned": manifest.pinned,
            "files": dict(manifest.files),
            "marks": [[mark.characters, mark.tokens, mark.digest] for mark in manifest.marks],
            "parts": [[part.tokens, part.name] for part in manifest.parts],
            "ids": base64.b64encode(ids_bytes(manifest.ids)).decode(),
        },
        separators=(",", ":"),
    ).encode("ascii")
    # The first match is ours: quotes in an id are escaped.
    return text.replace(b'"checksum":"00000000"', b'"checksum":"%08x"' % zlib.crc32(text), 1)


def decode_manifest(data: bytes) -> Manifest:
    """Return a manifest.

    Raises:
        CodecError: the bytes are damaged, or are none.
    """
    found = _MARK.search(data, 0, 200)
    if found is None or len(data) > MOST_BYTES:
        raise CodecError("no manifest of a session")
    whole = data[: found.start(1)] + b"00000000" + data[found.end(1) :]
    if b"%08x" % zlib.crc32(whole) != found[1]:
        raise CodecError("a manifest with a wrong checksum")
    try:
        return _manifest(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CodecError("a manifest that makes no sense") from None


def _manifest(fields: dict[str, Any]) -> Manifest:
    files = fields["files"]
    if fields["format"] != FORMAT or not isinstance(fields["pinned"], bool):
        raise CodecError("a manifest of another format")
    for name, needed in files.items():
        # They become paths.
        if not _NAME.fullmatch(name) or (needed and not _NAME.fullmatch(needed)):
            raise CodecError("a manifest that names no state file")
    ids = np.frombuffer(base64.b64decode(fields["ids"], validate=True), dtype="<u4")
    marks = [Mark(_count(chars), _count(tokens), _text(digest)) for chars, tokens, digest in fields["marks"]]
    parts = [Part(_count(tokens), _text(name)) for tokens, name in fields["parts"]]
    if any(mark.tokens > len(ids) for mark in marks):
        raise CodecError("a manifest with a mark beyond its end")
    return Manifest(
        _text(fields["session"]), _text(fields["tenant"]), dict(files), ids, marks, parts, fields["pinned"]
    )


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise CodecError("a manifest with a count that is none")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise CodecError("a manifest with a field that is no text")
    return value
