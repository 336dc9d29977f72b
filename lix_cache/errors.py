"""Every error this library raises on purpose.

::

    LixCacheError
    ├── ConfigError               (also ValueError)       a setting is unknown, mistyped or out of range
    │   ├── ArchiveMismatch                               Redis and the archive are of different stores
    │   └── LayoutMismatch                                a store was made with a different redis_buckets
    ├── InvalidInput              (also ValueError)       an argument was refused; nothing was stored
    │   ├── InvalidContext                                a context holds something that identifies nothing
    │   ├── InvalidSessionId                              not a string, empty, or not encodable
    │   ├── InvalidType           (also TypeError)        of a type that the argument cannot have
    │   ├── KeyReused                                     a message's key stands for another message
    │   ├── MessageNotFound       (also LookupError)      the session has no message of that id
    │   ├── InvalidMessage                                not representable as JSON without loss
    │   └── InvalidVector                                 not a finite, flat, non-empty vector of numbers
    │       └── DimensionMismatch                         a vector of another length than the ones stored
    ├── RevisionMismatch                                  a session was changed since it was read
    ├── RedisError
    │   ├── RedisUnavailable      (also ConnectionError)  unreachable, timed out, loading, read-only, full
    │   ├── RedisAuthError        (also PermissionError)  wrong password, unknown user, missing permission
    │   ├── RedisDatabaseError                            the database number does not exist on the server
    │   └── RedisCommandError                             the server refused a command for another reason
    ├── ArchiveError
    │   ├── ArchiveCorrupt                                bytes on disk are damaged and could not be recovered
    │   ├── ArchiveTooLarge                               a frame decodes to more than a setting allows
    │   ├── ArchiveBusy           (also TimeoutError)     another process kept the session's lock too long
    │   ├── ArchiveUnavailable    (also OSError)          disk full, no permission, not a directory
    │   └── MissingDictionary     (also LookupError)      a dictionary is needed that is not here
    ├── KvError                                           the store of a local model's state
    │   ├── KvBusy                (also TimeoutError)     another process kept the store's lock too long
    │   ├── KvUnavailable         (also OSError)          disk full, no permission, not a directory
    │   └── EngineError                                   a local engine failed, or refuses what was asked
    │       └── EngineBusy                                for now: no slot is free, or a model is being loaded
    ├── ComputeTimeout            (also TimeoutError)     an embedder or verifier did not answer in time
    ├── CodecError                (also ValueError)       bytes are not what the codec wrote
    ├── EmbedderError                                     texts could not be turned into vectors
    │   └── EmbedderUnavailable   (also ConnectionError)  no answer in time, or refused for now
    ├── VerifierError                                     a verifier is configured and cannot answer
    ├── MissingExtra              (also ImportError)      an optional package is needed; the text names it
    ├── StreamInterrupted                                 a stream that is shared was stopped before its end
    └── NoRedisServer                                     no server answers and none could be started

The second base lets code that already catches the built-in error go on working.
"""

from __future__ import annotations

__all__ = [
    "ArchiveBusy",
    "ArchiveCorrupt",
    "ArchiveError",
    "ArchiveMismatch",
    "ArchiveTooLarge",
    "ArchiveUnavailable",
    "CodecError",
    "ComputeTimeout",
    "ConfigError",
    "DimensionMismatch",
    "EmbedderError",
    "EmbedderUnavailable",
    "EngineBusy",
    "EngineError",
    "InvalidContext",
    "InvalidInput",
    "InvalidMessage",
    "InvalidSessionId",
    "InvalidType",
    "InvalidVector",
    "KeyReused",
    "KvBusy",
    "KvError",
    "KvUnavailable",
    "LayoutMismatch",
    "LixCacheError",
    "MessageNotFound",
    "MissingDictionary",
    "MissingExtra",
    "NoRedisServer",
    "RedisAuthError",
    "RedisCommandError",
    "RedisDatabaseError",
    "RedisError",
    "RedisUnavailable",
    "RevisionMismatch",
    "StreamInterrupted",
    "VerifierError",
]


class LixCacheError(Exception):
    """Base of every error raised on purpose by this library."""


class ConfigError(LixCacheError, ValueError):
    """A setting is unknown, of the wrong type, or out of range."""


class LayoutMismatch(ConfigError):
    """The sessions of a store are spread over a different number of buckets than ``redis_buckets`` says."""


class ArchiveMismatch(ConfigError):
    """The sessions in Redis move to another archive than the one that is configured, or to a copy of it."""


class InvalidInput(LixCacheError, ValueError):
    """An argument was refused before anything was stored."""


class InvalidContext(InvalidInput):
    """A context of the semantic cache holds something that cannot be compared exactly."""


class InvalidSessionId(InvalidInput):
    """A session id or a namespace is not a string, is empty, too long, or cannot be encoded as UTF-8."""


class InvalidType(InvalidInput, TypeError):
    """An argument is of a type that it cannot have: a number for a list, a text for a list of texts."""


class InvalidMessage(InvalidInput):
    """A message or response cannot be kept as JSON without changing it."""


class KeyReused(InvalidInput):
    """A key was used for another message of the session; nothing was stored.

    Attributes:
        position: of the message among those that were given, from 0.
    """

    def __init__(self, position: int) -> None:
        self.position = position
        super().__init__(
            f"the key of message {position} (from 0) was used for a message with other content; a key names "
            "one message of its session: repeat that message, or use a new key"
        )

    def __reduce__(self) -> tuple[type[KeyReused], tuple[int]]:
        return type(self), (self.position,)


class MessageNotFound(InvalidInput, LookupError):
    """The session has no message of that id: there never was one, or it was deleted; nothing was changed."""


class InvalidVector(InvalidInput):
    """An embedding is not a flat, non-empty sequence of finite numbers."""


class DimensionMismatch(InvalidVector):
    """A vector's dimension differs from the one the cache holds.

    Attributes:
        expected: dimension of the stored vectors.
        got: dimension of the vector that was offered.
    """

    def __init__(self, expected: int, got: int, where: str) -> None:
        self.expected = expected
        self.got = got
        self._where = where
        super().__init__(
            f"{where} holds vectors of dimension {expected}, but got one of dimension {got}; "
            "use one embedder for one cache (CacheConfig.embedder_id keeps several apart)"
        )

    def __reduce__(self) -> tuple[type[DimensionMismatch], tuple[int, int, str]]:
        # An exception is pickled with its text as the only argument, which is not what
        # this one takes: it would not come back from a worker process.
        return type(self), (self.expected, self.got, self._where)


class RevisionMismatch(LixCacheError):
    """The session was changed since its revision was read; nothing was replaced. Read it again.

    Attributes:
        expected: the revision that was named.
        found: the session's.
    """

    def __init__(self, expected: str, found: str) -> None:
        self.expected = expected
        self.found = found
        super().__init__(
            f"the session is at revision {found}, not {expected}: messages were added or changed since; "
            "read it and its revision again, and decide anew"
        )

    def __reduce__(self) -> tuple[type[RevisionMismatch], tuple[str, str]]:
        return type(self), (self.expected, self.found)


class RedisError(LixCacheError):
    """Redis could not do what was asked.

    Attributes:
        code: the server's own error code, such as ``OOM``, ``READONLY`` or ``NOPERM``; "" where
            the trouble is not an answer of the server.
        server: which one of several it was, in words; "" where there is one, or it was none of them.
    """

    server: str = ""

    def __init__(self, message: str, *, code: str = "") -> None:
        self.code = code
        super().__init__(message)


class RedisUnavailable(RedisError, ConnectionError):
    """The server is unreachable, timed out, or refuses writes for now.

    Attributes:
        maybe_done: True if the command may have been carried out before the
            connection was lost, so that repeating it blindly could do it twice.
        timed_out: True if the server was reached but did not answer in time.
        was_asked: False if nothing was sent, because the server did not answer a moment ago.
    """

    def __init__(
        self,
        message: str,
        *,
        maybe_done: bool = False,
        timed_out: bool = False,
        was_asked: bool = True,
        code: str = "",
    ) -> None:
        self.maybe_done = maybe_done
        self.timed_out = timed_out
        self.was_asked = was_asked
        super().__init__(message, code=code)


class RedisAuthError(RedisError, PermissionError):
    """Wrong password, unknown user, or a user without the permission needed."""


class RedisDatabaseError(RedisError):
    """The configured database number does not exist on the server."""


class RedisCommandError(RedisError):
    """The server refused a command for a reason that waiting will not mend."""


class ArchiveError(LixCacheError):
    """The cold tier could not do what was asked."""


class ArchiveCorrupt(ArchiveError):
    """Bytes on disk are damaged and what they held could not be recovered."""


class ArchiveTooLarge(ArchiveError):
    """A frame is intact, and decodes to more bytes than ``archive_max_frame_mb`` allows."""


class ArchiveBusy(ArchiveError, TimeoutError):
    """Another thread or process kept the session's lock for too long."""


class ArchiveUnavailable(ArchiveError, OSError):
    """Storage refuses or is away: a disk is full, a permission is missing, an object store does not answer.

    Attributes:
        unanswered: the kind of the request (``get``, ``put``, ``delete``, ``list``) that an object store did
            not answer: what it asked for may be done. Empty where it answered, or nothing was sent.
    """

    unanswered: str = ""


class MissingDictionary(ArchiveError, LookupError):
    """An archive was written with a dictionary of your own, which is not here.

    Attributes:
        number: of the dictionary, in hexadecimal.
    """

    def __init__(self, number: str) -> None:
        self.number = number
        super().__init__(
            f"the archive was written with dictionary number {number}, which is not here; "
            "name its file with archive_dictionary (ConversationArchive: dictionary)"
        )

    def __reduce__(self) -> tuple[type[MissingDictionary], tuple[str]]:
        return type(self), (self.number,)


class KvError(LixCacheError):
    """The store of a local model's state could not do what was asked. No conversation depends on it."""


class KvBusy(KvError, TimeoutError):
    """Another thread or process kept the lock of the KV store for too long."""


class KvUnavailable(KvError, OSError):
    """The operating system refused the KV store: disk full, no permission, not a directory."""


class EngineError(KvError):
    """A local engine failed, or refuses what was asked of it."""


class EngineBusy(EngineError):
    """A local engine cannot do it now: no slot is free, or a model is being loaded. Try again."""


class CodecError(LixCacheError, ValueError):
    """The bytes are not a valid stream of the codec asked to decode them."""


class ComputeTimeout(LixCacheError, TimeoutError):
    """An embedder or a verifier did not answer within its deadline, or there was no thread to ask it in."""


class EmbedderError(LixCacheError):
    """Texts could not be turned into vectors: no usable model, a refused request, a wrong answer."""


class EmbedderUnavailable(EmbedderError, ConnectionError):
    """The embedder did not answer in time, could not be reached, or is overloaded; later it may be."""


class VerifierError(LixCacheError):
    """A verifier is configured and cannot answer. The lookup that asked is a miss, never a hit."""


class MissingExtra(LixCacheError, ImportError):
    """An optional package is needed for what was asked."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self._arguments = (package, extra, purpose)
        super().__init__(
            f"{purpose} needs the package {package!r}; install it with: pip install 'lix-cache[{extra}]'"
        )

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str, str]]:
        return type(self), self._arguments


class StreamInterrupted(LixCacheError):
    """A stream was read along with an equal call, whose run stopped before the end. Call again.

    Nothing of it was stored. Its source was stopped, or gave something that only one reader can have, or
    this reader fell behind what is kept, or nothing came for ``lock_seconds``.

    Attributes:
        events: how many the reader has had.
    """

    def __init__(self, events: int) -> None:
        self.events = events
        super().__init__(f"the stream that this call shared stopped after {events} events; call again")

    def __reduce__(self) -> tuple[type[StreamInterrupted], tuple[int]]:
        return type(self), (self.events,)


class NoRedisServer(LixCacheError):
    """No Redis server answers and none could be started."""


def told(error: BaseException) -> str:
    """Return what may be said of an error in a log or in statistics.

    This library's errors hold no content. Those of others may quote what they were given, so only
    their type is told, and where they come from.
    """
    kind = type(error)
    if isinstance(error, LixCacheError):
        return f"{kind.__name__}: {error}"
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = (
        "" if last is None else f" at line {last.tb_lineno} of {last.tb_frame.f_globals.get('__name__', '?')}"
    )
    return f"{kind.__module__}.{kind.__qualname__}{where}"
