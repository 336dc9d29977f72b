"""Every key and every time to live in Redis. docs/redis-layout.md is the map.

All keys of a session carry the same hash tag, ``{0}`` for the first bucket, so that a
script may touch them together on a cluster. The tag is the first pair of braces in the
key (the prefix has none), so nothing in a session id can move it; and the id is always
the last part, so no two ids can give one key.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

__all__ = ["AnswerKeys", "Keys", "digest", "escape_pattern"]


def escape_pattern(text: str) -> str:
    """Return the pattern that matches this text alone, whatever is in it."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)


def digest(*parts: str) -> str:
    """Return 27 characters that stand for the parts, each kept apart from the next."""
    h = hashlib.blake2b(digest_size=20)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        h.update(len(data).to_bytes(8, "little"))
        h.update(data)
    return base64.urlsafe_b64encode(h.digest()).decode().rstrip("=")


class AnswerKeys(NamedTuple):
    """The keys of one scope of the semantic cache, in the order its scripts take them.

    Attributes:
        head: hash: generation of the scope, and how far back its deletions are known.
        entries: hash: entry number to what is known of it, without text and response.
        responses: hash: digest to response, and to its parts if it is large; entries with
            equal responses share one.
        shares: hash: digest to the number of entries that share the response.
        exact: hash: digest of a query text to its entry.
        log: stream: one record for each live entry; the stream id is the entry's number.
        dropped: stream: numbers of entries that were dropped.
        used: sorted set: entries by last use or number of uses, where the eviction asks for it.
        expiry: sorted set: entries by the Unix milliseconds of their expiry.
        reported: hash: digest of a query text to the answer groups that were reported as wrong for it.
        scopes: sorted set: scopes of the bucket by the Unix milliseconds of their expiry.
        contexts: hash: scope to digests of the items of its context.
        vectors: vector set: the vectors of a large scope, where the server has such sets.
        followed: hash: how far in the log and in the deletions the vector set is.
        labels: hash: labels by score, and audits.
        invalidated: sorted set: what was invalidated in the bucket, by the Unix milliseconds.
    """

    head: str
    entries: str
    responses: str
    shares: str
    exact: str
    log: str
    dropped: str
    used: str
    expiry: str
    reported: str
    scopes: str
    contexts: str
    vectors: str
    followed: str
    labels: str
    invalidated: str


@dataclass(frozen=True)
class Keys:
    """The names of all keys under one prefix.

    Attributes:
        prefix: ``redis_key_prefix``.
        buckets: hash tags that sessions are spread over.
    """

    prefix: str
    buckets: int = 1

    def bucket(self, session_id: str) -> int:
        """Return the bucket a session lives in, the same in every process."""
        return crc32(session_id.encode()) % self.buckets if self.buckets > 1 else 0

    # -- session windows (database 2) ----------------------------------------------------

    def window(self, session_id: str) -> str:
        """Stream: the hot messages of a session."""
        return f"{self.prefix}:{{{self.bucket(session_id)}}}:win:{session_id}"

    def active(self, bucket: int) -> str:
        """Sorted set: session id by the Unix milliseconds of its last use."""
        return f"{self.prefix}:{{{bucket}}}:active"

    def overflow(self, bucket: int) -> str:
        """Hash: session id to window size, of windows that have grown by a batch."""
        return f"{self.prefix}:{{{bucket}}}:overflow"

    def high_water(self, bucket: int) -> str:
        """String: the latest Unix milliseconds at which a window was emptied, or held an id of."""
        return f"{self.prefix}:{{{bucket}}}:high"

    def ticket(self, session_id: str) -> str:
        """String: what a read that found no window was told, to be shown when it is put back."""
        return f"{self.prefix}:{{{self.bucket(session_id)}}}:ticket:{digest(session_id)}"

    def refused(self, session_id: str) -> str:
        """Set: nonces of messages that are stored, or deleted, and whose late copies are refused."""
        return f"{self.prefix}:{{{self.bucket(session_id)}}}:refused:{digest(session_id)}"

    def known(self, session_id: str) -> tuple[str, str]:
        """Hashes: digest of a message's key to that of its content and its id; of late, and of before."""
        start, name = f"{self.prefix}:{{{self.bucket(session_id)}}}", digest(session_id)
        return f"{start}:known:{name}", f"{start}:known-before:{name}"

    def lease(self, bucket: int) -> str:
        """String: which evictor is looking for idle sessions."""
        return f"{self.prefix}:{{{bucket}}}:lease"

    def rounds(self) -> str:
        """String: which evictor has done a round last, as long as that was not long ago."""
        return f"{self.prefix}:{{0}}:rounds"

    def clean_up(self) -> str:
        """String: which evictor has looked for expired archives last, as long as that was not long ago."""
        return f"{self.prefix}:{{0}}:clean-up"

    def layout(self) -> str:
        """String: the number of buckets; always in the first one, which every number has."""
        return f"{self.prefix}:{{0}}:buckets"

    def archive(self) -> str:
        """String: which archive the sessions move to."""
        return f"{self.prefix}:{{0}}:archive"

    # -- any database --------------------------------------------------------------------

    def probe(self) -> str:
        """Stream that is never there: what ``health_check`` would write to."""
        return f"{self.prefix}:{{0}}:probe"

    # -- what StoreAdmin counts: patterns for SCAN, the prefix as it is ---------------------

    def semantic_scope_pattern(self) -> str:
        """One key for each scope of the drop-in semantic cache."""
        return f"{escape_pattern(self.prefix)}:{{*}}:sem:vectors:*"

    def answer_scope_pattern(self) -> str:
        """One key for each scope of the semantic cache with reasons."""
        return f"{escape_pattern(self.prefix)}:{{*}}:ans:head:*"

    def url_pattern(self) -> str:
        """The key of every URL embedding."""
        return f"{escape_pattern(self.prefix)}:url:*"

    # -- semantic query cache (database 0) -----------------------------------------------

    def semantic_vectors(self, session_id: str, scope: str) -> str:
        """String: header and ring of packed vectors of one scope."""
        return f"{self.prefix}:{{{self.bucket(session_id)}}}:sem:vectors:{scope}"

    def semantic_responses(self, session_id: str, scope: str) -> str:
        """Hash: entry number to response."""
        return f"{self.prefix}:{{{self.bucket(session_id)}}}:sem:responses:{scope}"

    def semantic_scopes(self, session_id: str) -> str:
        """Sorted set: the scopes of a session by the Unix milliseconds of their expiry."""
        return f"{self.prefix}:{{{self.bucket(session_id)}}}:sem:scopes:{digest(session_id)}"

    # -- semantic cache with reasons (database 0) ----------------------------------------

    def answers(self, scope: str) -> AnswerKeys:
        """All keys that one scope's scripts touch; those of :meth:`answer_registry` are its bucket's."""
        bucket = self.bucket(scope)
        start = f"{self.prefix}:{{{bucket}}}:ans:"
        scopes, contexts, invalidated = self.answer_registry(bucket)
        own = AnswerKeys._make(f"{start}{name}:{scope}" for name in AnswerKeys._fields)
        return own._replace(scopes=scopes, contexts=contexts, invalidated=invalidated)

    def answer_registry(self, bucket: int) -> tuple[str, str, str]:
        """Sorted set, hash and sorted set: the scopes of a bucket by expiry, what they are about, and
        what was invalidated in it.
        """
        start = f"{self.prefix}:{{{bucket}}}:ans:"
        return f"{start}scopes", f"{start}contexts", f"{start}invalidated"

    def flight(self, name: str) -> str:
        """String: who runs the function for a query right now, or how that ended."""
        return f"{self.prefix}:{{{self.bucket(name)}}}:ans:flight:{name}"

    # -- the gateway's answers (database 0) ----------------------------------------------

    def gateway(self, kind: str, tenant: str, name: str) -> str:
        """String: what the gateway keeps of a tenant under a name: an answer, or which answer an id is of."""
        return self.gateway_place(kind, digest(tenant), name)

    def gateway_place(self, kind: str, tenant_digest: str, name: str) -> str:
        """The same, of a tenant of which only the digest is known."""
        return f"{self.prefix}:{{{self.bucket(name)}}}:gw:{kind}:{tenant_digest}:{name}"

    def gateway_purged(self, tenant_digest: str, bucket: int) -> str:
        """String: up to when answers of a tenant were dropped; beside the answers, for their script."""
        return f"{self.prefix}:{{{bucket}}}:gw:purged:{tenant_digest}"

    # -- URL embeddings (database 1) -----------------------------------------------------

    def url_embedding(self, url: str, embedder: str) -> bytes:
        """String: float32 numbers of one URL's embedding."""
        # Encoded here, because redis-py would refuse a lone surrogate.
        return f"{self.prefix}:url:{digest(embedder)[:8]}:{url}".encode("utf-8", "surrogatepass")
