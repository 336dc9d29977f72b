"""Reading sessions of an archive on object storage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from heapq import merge
from itertools import islice
from typing import TypeVar

from lix_cache._log import logger
from lix_cache.archive import decoding
from lix_cache.archive.catalogue import Place, Wanted
from lix_cache.archive.changes import SessionStamp
from lix_cache.archive.doubts import id_before
from lix_cache.archive.facts import Extent, SessionMetadata, Summary, TrashedSession
from lix_cache.archive.objects.base import ObjectBase
from lix_cache.archive.objects.order import Entry, entry_of
from lix_cache.archive.objects.records import TRASHED, Part, State
from lix_cache.archive.objects.repeats import is_moved, repeats_in
from lix_cache.archive.objects.shard import SIDE_BY_SIDE, Shard
from lix_cache.archive.verify import ArchiveReport
from lix_cache.errors import ArchiveCorrupt, MissingDictionary, MissingExtra
from lix_cache.messages.session_key import named, shown
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn, sign_of
from lix_cache.storage.parallel import side_by_side

__all__ = ["Moved", "ObjectReader", "contested_in"]

T = TypeVar("T")

#: How often a frame is looked for by a newer state of its session, because it was moved and collected.
_READS_AGAIN = 3


class Moved(Exception):
    """A frame is not where it was: its session was compacted, and the old place collected."""


class ObjectReader(ObjectBase):
    """What can be learnt of sessions without changing anything."""

    # -- frames ------------------------------------------------------------------------------------

    def _reading(self, session_id: str, locked: bool, read: Callable[[State], T]) -> T:
        """Read frames of a session, by a newer state of it where one is gone."""
        for _ in range(_READS_AGAIN):
            damaged = self.counters["damaged_reads"]
            try:
                found = read(self._state(session_id, locked=locked))
            except Moved:
                self._writable(session_id).start_over()
                locked = False
                continue
            if not found and self.counters["damaged_reads"] > damaged:
                raise ArchiveCorrupt(f"nothing that was to be read of session {named(session_id)} is intact")
            return found
        raise ArchiveCorrupt(f"a frame of session {named(session_id)} is missing from the object store")

    def _frame(self, shard: Shard, part: Part) -> bytes | None:
        note = self.identity()
        if self._frames is None or note is None:
            return shard.read_part(part)
        place = note.uuid, shard.number, part
        data = self._frames.get(*place)
        if data is not None:
            if decoding.frame_at(data, 0) is not None:
                return data
            # The disk's damage is not the archive's.
            self._frames.forget(*place)
        data = shard.read_part(part)
        if data is not None and decoding.frame_at(data, 0) is not None:
            self._frames.put(*place, data)
        return data

    def _forget_frames(self, session_id: str, parts: Iterable[Part]) -> None:
        shard, note = self._shard(session_id), self.identity()
        if self._frames is not None and shard is not None and note is not None:
            for part in parts:
                self._frames.forget(note.uuid, shard.number, part)

    def _turns_in(self, session_id: str, part: Part, data: bytes | None) -> list[Turn]:
        """Return the turns of a frame, those that were taken out as well; none of one that is damaged."""
        if data is None:
            raise Moved
        try:
            frame = decoding.frame_at(data, 0)
            if frame is None:
                raise ArchiveCorrupt("its CRC is wrong")
            return decoding.decode(data, frame, self._most).turns
        except ArchiveCorrupt as error:
            text = f"a frame of session {named(session_id)} in segment {part.segment}: {error}"
            self.counters.update(("damaged_reads",))
            logger.warning("archive damage: {}", text)
            if self._raise_on_damage:
                raise ArchiveCorrupt(f"{text}. on_archive_damage='recover' reads on") from None
            return []

    def _visible(self, session_id: str, state: State, parts: Iterable[Part]) -> list[Turn]:
        parts = list(parts)
        if not parts:
            # There may be no archive yet, and reading makes none.
            return []
        shard = self._writable(session_id)
        # Threads cost more than two requests to a store nearby, and less than twenty to any.
        helpers = 0 if len(parts) < 4 else SIDE_BY_SIDE
        frames = side_by_side([partial(self._frame, shard, part) for part in parts], helpers)
        pairs = zip(parts, frames, strict=True)
        every = (turn for part, data in pairs for turn in self._turns_in(session_id, part, data))
        found = [turn for turn in every if sign_of(turn) not in state.gone and not is_moved(state, turn)]
        return sorted(found, key=lambda turn: turn.id)

    def _newest(
        self, session_id: str, state: State, count: int, after: MessageId, before: MessageId | None
    ) -> list[Turn]:
        """Return the last turns between two ids, reading no more frames than that takes."""
        rest = sorted(_between(state.parts, after, before), key=lambda part: part.last)
        found: list[Turn] = []
        while rest:
            group: list[Part] = []
            turns, first = len(found), rest[-1].first
            # As many as it takes if none was taken out, in one wait; and those that overlap with them: their
            # turns lie among each other.
            while rest and (turns < count or rest[-1].last >= first):
                group.append(rest.pop())
                turns += group[-1].turns
                first = min(first, group[-1].first)
            found = [*self._cut(session_id, state, group, after, before), *found]
            found.sort(key=lambda turn: turn.id)
            if len(found) >= count and (not rest or found[-count].id > rest[-1].last):
                break
        return found[-count:]

    def _oldest(
        self, session_id: str, state: State, count: int, after: MessageId, before: MessageId | None
    ) -> list[Turn]:
        rest = sorted(_between(state.parts, after, before), key=lambda part: part.first)
        found: list[Turn] = []
        while rest:
            part = rest.pop(0)
            found += self._cut(session_id, state, [part], after, before)
            found.sort(key=lambda turn: turn.id)
            if len(found) >= count and (not rest or found[count - 1].id < rest[0].first):
                break
        return found[:count]

    def _cut(
        self, session_id: str, state: State, parts: list[Part], after: MessageId, before: MessageId | None
    ) -> list[Turn]:
        turns = self._visible(session_id, state, parts)
        return [turn for turn in turns if turn.id > after and (before is None or turn.id < before)]

    # -- reading -----------------------------------------------------------------------------------

    def exists(self, session_id: str) -> bool:
        """Whether anything is archived of the session. One request."""
        return self._state(session_id).is_there

    def turns(self, session_id: str, *, locked: bool = False) -> list[Turn]:
        """Return every turn, sorted by id."""
        return self._reading(session_id, locked, lambda state: self._visible(session_id, state, state.parts))

    def recent(
        self, session_id: str, count: int, *, in_context: bool = False, locked: bool = False
    ) -> list[Turn]:
        """Return the last turns, sorted by id."""
        if count <= 0:
            return []

        def read(state: State) -> list[Turn]:
            after = state.cleared if in_context else ZERO_ID
            return self._newest(session_id, state, count, after, None)

        return self._reading(session_id, locked, read)

    def between(
        self,
        session_id: str,
        count: int,
        *,
        after: MessageId = ZERO_ID,
        before: MessageId | None = None,
        newest: bool,
        locked: bool = False,
    ) -> list[Turn]:
        """Return turns between two ids, sorted."""
        if not count:
            return []
        find = self._newest if newest else self._oldest
        return self._reading(session_id, locked, lambda state: find(session_id, state, count, after, before))

    def summary(self, session_id: str, *, locked: bool = False) -> Summary:
        """Return the totals, the largest id and what was cleared. Reads no frame."""
        lease = self._leases.get(session_id)
        shard = self._shard(session_id)
        if locked and shard is not None and lease is not None and lease.is_held and not lease.token:
            # Who only appends knows what it has appended, and all before it.
            return _summary(shard.state(session_id))
        return _summary(self._state(session_id, locked=locked))

    def look(self, session_id: str, *, locked: bool = False) -> Extent:
        """Return how far the session has come. Reads no frame."""
        state = self._state(session_id, locked=locked)
        up_to = max(state.deletion.up_to, state.dropped)
        newest = max(state.newest, state.cleared, up_to)
        given = max([newest, *state.gone.values()])
        return Extent(
            newest, state.cleared, up_to, state.deletion.up_to, contested_in(state), repeats_in(state), given
        )

    def contested(self, session_id: str, *, locked: bool = False) -> Mapping[bytes, MessageId]:
        """Return ``contested`` of :meth:`look`."""
        return contested_in(self._state(session_id, locked=locked))

    def find_nonces_locked(
        self, session_id: str, nonces: Collection[bytes], *, since_ms: int = 0
    ) -> dict[bytes, MessageId]:
        """Return the ids of those messages that are archived, or were. Reads all frames if need be."""
        del since_ms
        if not nonces:
            return {}
        return self._reading(session_id, True, lambda state: self._find(session_id, state, nonces))

    def _find(self, session_id: str, state: State, nonces: Collection[bytes]) -> dict[bytes, MessageId]:
        found = {nonce: state.gone[nonce] for nonce in nonces if nonce in state.gone}
        for part in reversed(state.parts):
            if len(found) == len(nonces):
                break
            turns = self._visible(session_id, state, [part])
            found.update({turn.nonce: turn.id for turn in turns if turn.nonce and turn.nonce in nonces})
        return found

    def deleted_up_to(self, session_id: str) -> MessageId:
        """Return the largest id that the session may have had when it was last deleted."""
        return self._state(session_id).deletion.up_to

    def metadata(self, session_id: str, *, locked: bool = False) -> SessionMetadata | None:
        """Return what is known of the session; None if nothing is archived."""
        found = entry_of(session_id, self._state(session_id, locked=locked))
        return None if found is None else found.metadata

    def all_metadata(self) -> Iterator[SessionMetadata]:
        """Yield what is known of every session."""
        # By name and not by last use: one that is used meanwhile would move to where this has been.
        for _, session_id, state in self._every_state():
            entry = entry_of(session_id, state)
            if entry is not None:
                yield entry.metadata

    @staticmethod
    def _newest_of(before: Place | None, shard: Shard) -> tuple[Shard, list[Entry]]:
        shard.synced()
        return shard, shard.used_before(before)

    @staticmethod
    def _entries(shard: Shard, group: list[Entry]) -> Iterator[Entry]:
        """Yield entries, and those that were used before them."""
        while group:
            yield from group
            group = shard.used_before(group[-1].place)

    def by_last_use(
        self, count: int, *, after: Place | None = None, wanted: Wanted
    ) -> list[tuple[Place, SessionMetadata]]:
        """Return sessions by last use, the last used first. See ColdTier."""
        newest = self._of_each_shard(partial(self._newest_of, after))
        every = merge(*(self._entries(shard, group) for shard, group in newest), reverse=True)
        found = (entry for entry in every if wanted(entry.place.session_id))
        return [(entry.place, entry.metadata) for entry in islice(found, count)]

    def stamps(self) -> Iterator[SessionStamp]:
        """Yield the stamp of every session: the number of the segment that changed it last."""
        for _, session_id, state in self._every_state():
            if state.is_there:
                yield SessionStamp(session_id, str(state.version))

    def is_pending(self, session_id: str, *, just_read: bool = False) -> bool:
        """Whether the session is marked. See ColdTier."""
        shard = self._shard(session_id) if just_read else None
        state = self._state(session_id) if shard is None else shard.state(session_id)
        return state.pending

    def pending_sessions(self) -> list[str]:
        """Return the sessions that are marked."""
        return [session_id for some in self._of_each_shard(Shard.pending) for session_id in some]

    def trashed(self) -> Iterator[TrashedSession]:
        """Yield what is in the trash."""
        for _, session_id, state in self._every_state(TRASHED):
            for one in state.trash:
                yield TrashedSession(session_id, one.ms / 1000, one.state.size)

    # -- checking ---------------------------------------------------------------------------------

    def report(self, session_id: str) -> ArchiveReport | None:
        """Check every frame of a session; None if nothing is archived."""
        state = self._state(session_id)
        return self._reported(session_id, state) if state.is_there else None

    def reports(self) -> Iterator[ArchiveReport]:
        """Yield the report of every session."""
        for _, session_id, state in self._every_state():
            if state.is_there:
                yield self._reported(session_id, state)

    def _reported(self, session_id: str, state: State) -> ArchiveReport:
        problems: list[str] = []
        turns, frames, damaged = 0, 0, 0
        shard = self._writable(session_id)
        for part in state.parts:
            where = f"the frame of {part.turns} turns in segment {part.segment}"
            data = shard.read_part(part)
            frame = None if data is None else decoding.frame_at(data, 0)
            if data is None or frame is None:
                problems.append(f"{where} is {'missing' if data is None else 'damaged'}")
                damaged += part.length
                continue
            try:
                found = decoding.decode(data, frame, self._most).turns
            except (ArchiveCorrupt, MissingExtra, MissingDictionary) as error:
                problems.append(f"{where}: {error}")
                continue
            if len(found) != part.turns or found[0].id != part.first or found[-1].id != part.last:
                problems.append(f"{where} is not what the log says")
            frames += 1
            turns += sum(sign_of(turn) not in state.gone and not is_moved(state, turn) for turn in found)
        if not problems and turns != state.total:
            problems.append(f"the log counts {state.total} turns, not {turns}")
        return ArchiveReport(shown(session_id), 2, frames, turns, damaged, tuple(problems))


def _between(parts: Iterable[Part], after: MessageId, before: MessageId | None) -> list[Part]:
    return [part for part in parts if part.last > after and (before is None or part.first < before)]


def _summary(state: State) -> Summary:
    return Summary(state.total, state.newest, state.cleared, state.changes) if state.is_there else Summary()


def contested_in(state: State) -> dict[bytes, MessageId]:
    known = dict.fromkeys(state.deletion.nonces, ZERO_ID)
    known.update((sign, id_before(said)) for sign, said in state.doubts.items())
    known.update(dict.fromkeys(state.gone, ZERO_ID))
    return known
