"""The session window in Redis: which command to send, and what its answer means. Sends nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from lix_cache.errors import KeyReused
from lix_cache.hot import scripts
from lix_cache.hot.old_keys import OLD, OldSessions, old_list_key
from lix_cache.hot.replies import LARGEST_SEQ, Added, Cold, End, Found, Gap, Looked, Page, Refused
from lix_cache.hot.scripts import Command, ScriptCall, Value
from lix_cache.messages.packing import is_repeated, pack_hot, unpack_window
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn, parse_id, parse_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lix_cache.hot.keys import Keys

__all__ = ["BYTES_AT_ONCE", "HotWindow"]

#: Messages looked at in one call.
FIND_AT_ONCE = 1000

#: Bytes of messages in one answer, or in those that are asked for together.
BYTES_AT_ONCE = 64 << 20

#: More messages than there can be.
EVERYTHING = 2**31

_MOST_NAMES = 10_000

#: Of a tag: so many bytes stand for the key, the others for the content.
KEY_BYTES = 16


class _Names(NamedTuple):
    """What is the same in every command on a session, as it is sent.

    Attributes:
        session: the id.
        add: the keys of an add.
        known: and, where the messages have keys of their own, these.
        read: and of a read.
        old: and, where it is looked for, the list that the old package may have left.
        ttl: of the window, in milliseconds.
    """

    session: bytes
    add: tuple[bytes, ...]
    known: tuple[bytes, ...]
    read: tuple[bytes, ...]
    old: tuple[bytes, ...]
    ttl: bytes


@dataclass(frozen=True)
class HotWindow:
    """Commands on session windows.

    Attributes:
        keys: names.
        ttl_ms: time to live of a window without any use.
        batch: messages beyond a window's size that make it overflow.
        coded: whether messages are stored as code words where that is shorter.
    """

    keys: Keys
    ttl_ms: int
    batch: int
    coded: bool = False
    _names: dict[str, _Names] = field(default_factory=dict, init=False, repr=False, compare=False)

    def _names_of(self, session_id: str) -> _Names:
        """Return the names that an add or a read of the session sends, made once and kept for a while."""
        names = self._names.get(session_id)
        if names is None:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            keys, b = self.keys, self.keys.bucket(session_id)
            window, active = keys.window(session_id).encode(), keys.active(b).encode()
            others = (keys.overflow(b), keys.high_water(b), keys.refused(session_id))
            names = _Names(
                session_id.encode(),
                (window, active, *(key.encode() for key in others)),
                tuple(key.encode() for key in keys.known(session_id)),
                (window, active, keys.ticket(session_id).encode()),
                (old.encode(),) if (old := old_list_key(keys.prefix, session_id)) else (),
                b"%d" % self.ttl_ms,
            )
            self._names[session_id] = names
        return names

    def add(
        self,
        session_id: str,
        packed: Sequence[bytes],
        *,
        window: int,
        floor: MessageId,
        floor_is_fresh: bool,
        floor_is_certain: bool = False,
        gap: Gap = Gap.IGNORE,
        look_for_old: bool = True,
        tags: Sequence[bytes] = (),
        forgotten: MessageId = ZERO_ID,
        keys_looked_for: Looked = Looked.NO,
    ) -> Command:
        """Append messages, all or none. :meth:`added` reads the answer.

        Args:
            session_id: the session.
            packed: the messages without their ids.
            window: messages the window should keep.
            floor: the largest id known of the session; the new one will be larger.
            floor_is_fresh: the archive was looked at for it just now.
            floor_is_certain: and nothing can have been archived since: we hold the lock.
            gap: what to do where the window ends below the floor.
            look_for_old: do nothing where the old package left messages.
            tags: where the messages have keys, for each the digests of its key and of its content: what
                is known by its key is not added again.
            forgotten: messages up to here went with a deleted session, and their keys with them.
            keys_looked_for: whether the archive was asked for those that are not known.
        """
        names = self._names_of(session_id)
        args: tuple[Value, ...] = (
            names.session,
            names.ttl,
            floor.ms,
            floor.seq,
            2 if floor_is_certain else int(floor_is_fresh),
            window + self.batch,
            window,
            int(gap),
            len(packed),
            *packed,
        )
        old = names.old if look_for_old else ()
        if not tags:
            return ScriptCall(scripts.ADD, names.add + old, args)
        args += (*tags, int(keys_looked_for), forgotten.ms, forgotten.seq)
        return ScriptCall(scripts.ADD, names.add + names.known + old, args)

    @property
    def old(self) -> OldSessions:
        """What the old package may have left."""
        return OldSessions(self.keys.prefix)

    @staticmethod
    def is_old(reply: Any) -> bool:
        """Whether a read did nothing but find messages of the old package."""
        return bool(reply == OLD)

    @staticmethod
    def added(reply: Any, count: int = 1) -> Added | Refused:
        """Return the answer to an add of so many messages.

        Raises:
            KeyReused: a key stands for another message; nothing was added.
        """
        if isinstance(reply, bytes):
            return Refused(reply.decode())
        if len(reply) == 2 and count == 1 and reply[0] != b"REUSED":
            return Added((parse_id(reply[0]),), int(reply[1]))  # nearly always
        first, length, *before = reply
        if first == b"REUSED":
            raise KeyReused(int(length))
        if not any(before):
            ms, seq = parse_id(first)
            return Added(tuple([MessageId(ms, seq + i) for i in range(count)]), int(length))
        ms, seq = parse_id(first) if first else ZERO_ID
        given = (MessageId(ms, seq + i) for i in range(len(before)))
        ids = tuple([parse_id(one) if one else next(given) for one in before])
        return Added(ids, int(length), frozenset(i for i, one in enumerate(before) if one))

    def find(self, session_id: str, nonces: Iterable[bytes], below: MessageId | None = None) -> Command:
        """Look for messages by their nonces, from the newest on or below an id.

        Answered with what :meth:`found` reads. A page at a time, so that a window that no
        daemon has looked after for long does not stop the server.
        """
        start = "+" if below is None else str(below)
        keys = (self.keys.window(session_id),)
        return ScriptCall(scripts.FIND, keys, (start, FIND_AT_ONCE, *nonces))

    @staticmethod
    def found(reply: Any) -> Found:
        """Return the answer to :meth:`find`."""
        ids = dict(zip(reply[2::2], map(parse_id, reply[3::2]), strict=True))
        return Found(ids, int(reply[0]), parse_id(reply[1]) if reply[1] else None)

    def read(self, session_id: str, count: int, nonce: bytes, below: MessageId | None = None) -> Command:
        """Read the newest messages, or those below an id, and count it as a use of the session.

        A page of them; :meth:`newest` says whether there may be more.

        Args:
            session_id: the session.
            count: how many.
            nonce: random bytes, for a ticket where there is no window.
            below: begin below this one.
        """
        names = self._names_of(session_id)
        start = b"+" if below is None else str(below)
        return ScriptCall(
            scripts.READ,
            names.read + names.old,
            (names.session, count, BYTES_AT_ONCE, names.ttl, start, nonce),
        )

    @staticmethod
    def newest(reply: Any) -> Page | Cold:
        """Return the answer to :meth:`read`."""
        if reply[0] is None:
            return Cold(reply[1])
        return Page(_turns(reply[1:])[::-1], bool(reply[0]))

    def oldest(
        self,
        session_id: str,
        *,
        keep: int,
        limit: int = EVERYTHING,
        max_bytes: int = BYTES_AT_ONCE,
        at_least: int = 1,
        after: MessageId | None = None,
        look_for_old: bool = False,
    ) -> Command:
        """Read the oldest messages, all but the newest ``keep``: a page of them.

        Args:
            session_id: the session.
            keep: how many of the newest to leave out.
            limit: how many at most.
            max_bytes: and how many bytes.
            at_least: how many to return whatever their size, if there are so many.
            after: begin after this one; to read a window page by page.
            look_for_old: do nothing where the old package left messages.
        """
        keys: tuple[str | bytes, ...] = (self.keys.window(session_id),)
        if look_for_old:
            keys += self._names_of(session_id).old
        start = "" if after is None else str(after)
        return ScriptCall(scripts.OLDEST, keys, (keep, limit, max_bytes, at_least, start))

    @staticmethod
    def oldest_turns(reply: Any) -> Page:
        """Return the answer to :meth:`oldest`."""
        turns = _turns(reply[1:])
        repeated = map(is_repeated, reply[2::2])
        contested = {turn.nonce for turn, again in zip(turns, repeated, strict=True) if again}
        return Page(turns, bool(reply[0]), frozenset(nonce for nonce in contested if nonce is not None))

    def trim(self, session_id: str, turns: Sequence[Turn], archived: MessageId, window: int) -> Command:
        """Forget the window's oldest messages, and the session itself if nothing is left.

        Answers how many are left; -1 where the window begins with another message by now, and
        nothing was done.

        Args:
            session_id: the session.
            turns: what to forget: the oldest messages there were, in order; may be none.
            archived: the largest id in the archive.
            window: messages the window should keep.
        """
        b = self.keys.bucket(session_id)
        return ScriptCall(
            scripts.TRIM,
            (
                self.keys.window(session_id),
                self.keys.active(b),
                self.keys.overflow(b),
                self.keys.high_water(b),
                self.keys.ticket(session_id),
            ),
            (
                session_id,
                str(turns[-1].id.successor()) if turns else "",
                archived.ms,
                window + self.batch,
                str(turns[0].id) if turns else "",
            ),
        )

    def rehydrate(self, session_id: str, turns: Sequence[Turn], cold: Cold, newest: MessageId) -> Command:
        """Put archived messages back: a page of the newest.

        What a larger window lacks is read from the archive, as where it began after a move to disk.
        Answers 1; 0 where the session is hot; -1 where it was moved, cleared or deleted since it was
        found cold.

        Args:
            session_id: the session.
            turns: at least one.
            cold: the answer to the read that found no window.
            newest: the largest id of the session; the window goes on from there.
        """
        args: list[Any] = [session_id, self.ttl_ms, cold.ticket, str(max(newest, turns[-1].id))]
        for turn in turns[-scripts.PAGE :]:
            args += (str(turn.id), pack_hot(turn, coded=self.coded))
        return ScriptCall(scripts.REHYDRATE, self._names_of(session_id).read, tuple(args))

    @staticmethod
    def size_of(command: Command) -> int:
        """Return about how many bytes a command takes."""
        words = command.args if isinstance(command, ScriptCall) else command
        return sum(len(word) for word in words if isinstance(word, (bytes, str)))

    def take_ticket(self, session_id: str) -> Command:
        """Have nothing put back that was read of the archive until now."""
        return ("UNLINK", self.keys.ticket(session_id))

    def ends(self, session_id: str) -> Command:
        """Look how far a window goes that is to be forgotten. :meth:`end` reads the answer."""
        b = self.keys.bucket(session_id)
        keys = (self.keys.window(session_id), self.keys.high_water(b), self.keys.ticket(session_id))
        return ScriptCall(scripts.ENDS, keys, ())

    @staticmethod
    def end(reply: Any) -> End:
        """Return the answer to :meth:`ends`."""
        last = parse_id(reply[1]) if reply[1] else None
        return End(int(reply[0]), last, MessageId(int(reply[2]), LARGEST_SEQ), frozenset(reply[3:]))

    def forget(self, session_id: str, last: MessageId) -> Command:
        """Drop the messages of a window up to one. Answered with the first id that is left, or nothing."""
        b = self.keys.bucket(session_id)
        tiers = (self.keys.window(session_id), self.keys.active(b), self.keys.overflow(b))
        keys = (*tiers, *self.keys.known(session_id))
        return ScriptCall(scripts.FORGET, keys, (session_id, str(last.successor())))

    def refuse(self, session_id: str, stored: Mapping[bytes, MessageId]) -> Command:
        """Refuse, and drop, all copies of messages but those under these ids."""
        args: list[Any] = [self.ttl_ms]
        for nonce, message_id in stored.items():
            args += (nonce, str(message_id))
        keys = (self.keys.window(session_id), self.keys.refused(session_id))
        return ScriptCall(scripts.REFUSE, keys, tuple(args))

    def doubt_keys(self, session_id: str) -> Command:
        """Have the archive asked for keys that are not known, for as long as a key is known otherwise."""
        return ScriptCall(scripts.DOUBT_KEYS, self.keys.known(session_id)[:1], ())

    def take_back(self, session_id: str, ids: Sequence[MessageId], tags: Sequence[bytes] = ()) -> Command:
        """Take messages back, and what is known of their keys: all, or none where one has left. 1 or 0."""
        keys = (self.keys.window(session_id), self.keys.known(session_id)[0])
        words: tuple[Value, ...] = (len(ids), *map(str, ids), *(tag[:KEY_BYTES] for tag in tags))
        return ScriptCall(scripts.TAKE_BACK, keys, words)

    def take_out(self, session_id: str, turns: Iterable[Turn]) -> Command:
        """Take out what the archive knows to be gone; have nothing put back that was read before."""
        words: list[Value] = [self.ttl_ms]
        for turn in turns:
            words += (str(turn.id), turn.nonce or b"")
        keys = (self.keys.window(session_id), self.keys.ticket(session_id), self.keys.refused(session_id))
        return ScriptCall(scripts.TAKE_OUT, keys, tuple(words))

    def given(self, session_id: str) -> Command:
        """Ask for the largest id that the window ever gave. :meth:`given_id` reads the answer."""
        return ScriptCall(scripts.GIVEN, (self.keys.window(session_id),), ())

    @staticmethod
    def given_id(reply: Any) -> MessageId:
        """Return the answer to :meth:`given`; ZERO_ID where there is no window."""
        return parse_id(reply) if reply else ZERO_ID

    def length(self, session_id: str) -> Command:
        """Count the messages in the window."""
        return ("XLEN", self.keys.window(session_id))

    def idle(self, bucket: int, idle_ms: int, start: int, count: int) -> Command:
        """Find sessions that have not been used for ``idle_ms``, the longest idle first."""
        return ScriptCall(scripts.IDLE, (self.keys.active(bucket),), (idle_ms, start, count))

    def used_until(self, bucket: int, latest_ms: int, count: int) -> Command:
        """Find sessions that were used last at a time or before, by the clock of their server."""
        words = ("-inf", latest_ms, "LIMIT", 0, count)
        return ("ZRANGEBYSCORE", self.keys.active(bucket), *words)

    def overflowing(self, bucket: int, limit: int) -> Command:
        """Find windows that have grown by a batch, with their sizes."""
        return ("HRANDFIELD", self.keys.overflow(bucket), limit, "WITHVALUES")

    def active_page(self, bucket: int, cursor: int, count: int) -> Command:
        """Read some hot sessions with their last use, and the cursor of the next ones (0: no more)."""
        return ("ZSCAN", self.keys.active(bucket), cursor, "COUNT", count)

    def lease(self, bucket: int, who: str, ttl_ms: int) -> Command:
        """Take or keep the lease on looking for idle sessions. Answers 1 or 0."""
        return ScriptCall(scripts.LEASE, (self.keys.lease(bucket),), (who, ttl_ms))

    def rounds_lease(self, who: str, ttl_ms: int) -> Command:
        """Tell that an evictor does its rounds. A server that takes no writes refuses nothing."""
        return ScriptCall(scripts.LEASE, (self.keys.rounds(),), (who, ttl_ms))

    def clean_up_lease(self, who: str, ttl_ms: int) -> Command:
        """Take or keep the lease on looking for expired archives. Answers 1 or 0."""
        return ScriptCall(scripts.LEASE, (self.keys.clean_up(),), (who, ttl_ms))


def _turns(flat: Sequence[bytes]) -> list[Turn]:
    return unpack_window(list(zip(parse_ids(flat[0::2]), flat[1::2], strict=True)))
