"""What happens to a session, step by step. No client, no file, no await: see lix_cache.effects.

The order of the steps is what keeps the first promise (nothing lost, nothing doubled), so
each flow says why its order is what it is. In short:

* A message is acknowledged when Redis has it (or the disk, where Redis cannot).
* A message leaves Redis only after the disk has it, synced. Between the two it is in both
  places under one id, and whoever reads both counts it once.
* Whatever moves or deletes holds the session's file lock meanwhile; adding does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger
from lix_cache.archive.store import Extent, lock_pauses
from lix_cache.effects import DiskCall, Flow, LockCall, RedisBatch, RedisCall, Sleep
from lix_cache.errors import (
    ArchiveBusy,
    ArchiveCorrupt,
    ArchiveError,
    ArchiveUnavailable,
    InvalidMessage,
    LixCacheError,
    RedisCommandError,
    RedisUnavailable,
    told,
)
from lix_cache.hot.connections import NewConnection
from lix_cache.hot.probe import READS_ONLY
from lix_cache.hot.scripts import Command
from lix_cache.hot.window import BYTES_AT_ONCE, Added, Cold, Gap, HotWindow, Page, Refused
from lix_cache.messages import LARGEST_MS, ZERO_ID, MessageId, Turn, once, pack_hot, with_id
from lix_cache.session import late, old_sessions
from lix_cache.session.health import before_add
from lix_cache.session.store import Seen, SessionStore

if TYPE_CHECKING:
    from lix_cache.archive.files import FileLock
    from lix_cache.clock import Clock

__all__ = [
    "Session",
    "add",
    "clear",
    "delete",
    "flush",
    "get_context",
    "get_full",
    "hot_length",
    "move_to_disk",
    "take_over",
]

#: A window this many batches too long is spilled by the add that finds it so: the daemon
#: is late, and memory must stay bounded.
LATE_BATCHES = 4
#: Messages read from a window at a time when it moves to disk. (And BYTES_AT_ONCE from all windows
#: that move together: neither server nor client nor frame must hold more, whatever they hold.)
CHUNK = 500
#: After so many sessions that were decoded, a daemon lets the other threads of its process
#: go on: they would wait for all of them otherwise. A sleep of 0 hands nothing over.
BREATH = 8
BREATH_SECONDS = 0.00002
#: An add that has taken longer is not settled by looking for it.
GIVE_UP_SECONDS = 3600.0
#: How often a window is read again that others changed while it was moved to disk.
MOVES_AGAIN = 8
#: How often a context is read again that others moved, cleared or deleted while it was read.
READS_AGAIN = 2


@dataclass
class Session:
    """One session as one cache object sees it.

    Attributes:
        store: the tiers.
        id: the session id.
        window: messages that ``get_context`` returns at most.
        seen: what this process knows of the session.
        batches: by how many batches the window was too long after its last add.
    """

    store: SessionStore
    id: str
    window: int
    seen: Seen = field(init=False)
    batches: int | None = None

    def __post_init__(self) -> None:
        self.seen = self.store.seen.of(self.id)

    def grown_by(self, length: int, batch: int) -> int:
        """Return how many batches too long the window is, if that is news; else 0.

        Once for each batch, not for every add until the daemon has been there: each would
        be another round of it, or another try at the lock it holds. An object that adds
        again compares with what it saw last: the lengths in between were the answers to
        others, whose windows may have another size. One that is new goes by the length
        at which the last batch was full, which one add in so many sees, and does not
        rely on that where the window is much too long.
        """
        batches, rest = divmod(max(0, length - self.window), batch)
        before, self.batches = self.batches, batches
        if before is None:
            return batches if rest == 0 or batches >= 2 * LATE_BATCHES else 0
        return batches if batches > before else 0

    def saw(self, turns: Sequence[Turn]) -> list[Turn]:
        """Note what was read, in order of the ids, and return it."""
        if turns:
            self.seen.saw(turns[-1].id)
        return list(turns)


# -- adding ----------------------------------------------------------------------------


@dataclass(frozen=True)
class AddResult:
    """What became of an add.

    Attributes:
        in_window: messages now in the window.
        overflows: the window has just grown by a batch; the daemon should look at it.
    """

    in_window: int
    overflows: bool = False


@dataclass(frozen=True)
class _Moment:
    """When an add began, by both clocks: one may be set back, the other stops while a machine sleeps."""

    time: float
    monotonic: float

    @classmethod
    def now(cls, clock: Clock) -> _Moment:
        return cls(clock.time(), clock.monotonic())

    def is_long_ago(self, clock: Clock) -> bool:
        """Whether it may be too late to tell if an add that was not answered was carried out.

        A process may be stopped in the middle and go on days later; the nonce by which the
        archive would tell may be gone by then (KEEP_NONCES_MS). Then the add fails, and the
        error says that it may have been done.
        """
        return max(clock.time() - self.time, clock.monotonic() - self.monotonic) > GIVE_UP_SECONDS


def add(session: Session, turn: Turn) -> Flow[AddResult]:
    """Add a message that has no id yet: to Redis, or to the archive if the policy says so."""
    store = session.store
    yield from before_add(store)
    before = session.seen.expected
    sent = _Moment.now(store.clock)
    gap = Gap.REFUSE
    try:
        try:
            yield from _bring_together(session)
        except (ArchiveError, InvalidMessage) as error:
            # The message matters more than the tidying, which is tried again.
            _note_failure(store, error)
            gap = Gap.FILL
        added = yield from _add_hot(session, turn, sent, gap)
    except RedisUnavailable as error:
        if error.maybe_done and turn.nonce is not None:
            session.seen.leave_unsettled(turn.nonce)
        if store.config.on_redis_error == "raise" or sent.is_long_ago(store.clock):
            raise
        total = yield from _add_cold(session, turn, contested=error.maybe_done)
        return AddResult(min(total, session.window))
    if store.config.durability == "disk":
        yield from _persist(session, with_id(turn, added.id), before, contested=added.repeated)
    batches = session.grown_by(added.length, store.hot.batch)
    if not batches:
        return AddResult(min(added.length, session.window))
    if batches >= LATE_BATCHES:
        yield from _spill_late(session)
    return AddResult(session.window, overflows=True)


def _add_cold(session: Session, turn: Turn, *, contested: bool) -> Flow[int]:
    """Keep a message that Redis could not take. Returns how many turns the archive has."""
    store, archive = session.store, session.store.archive.store
    store.count("archived_adds")
    lock = yield from _locked(session)
    try:
        # From here on get_context must look on disk too, so the note comes first.
        store.outage_sessions.add(session.id)
        given: MessageId = yield DiskCall(
            partial(
                archive.append_outage_locked,
                session.id,
                turn,
                contested=contested,
                after=session.seen.newest,
            )
        )
        session.seen.saw(given)
        index = yield DiskCall(partial(archive.last_index, session.id, locked=True))
    finally:
        lock.release()
    return int(index.total)


def _spill_late(session: Session) -> Flow[None]:
    """Do the daemon's work, because it is late. The message is stored: no trouble here may fail its add.

    A caller that is told of it would add the message again. What is no trouble of ours goes through:
    a signal's exception, above all.
    """
    store = session.store
    store.count("late_spills")
    try:
        yield from move_to_disk(store, {session.id: session.window})
    except LixCacheError as error:
        store.count("spill_failures")
        store.last_error = told(error)


def _add_hot(session: Session, turn: Turn, sent: _Moment, gap: Gap) -> Flow[Added]:
    """Append to the window: one round trip, or two where only the archive knows which id is next."""
    try:
        return (yield from _append_hot(session, turn, gap, locked=False))
    except RedisUnavailable as error:
        if not error.maybe_done or error.timed_out or sent.is_long_ago(session.store.clock):
            raise
    # The connection broke before the answer came: the message may be there or not. Nothing
    # moves to disk while we hold the lock, so looking in both places settles it, unless the
    # first one is still on its way. So the second one says that it is one.
    store = session.store
    lock = yield from _locked(session)
    try:
        found = yield from _find(session, turn.nonce or b"")
        if found is None:
            found = yield from _append_hot(session, turn, gap, locked=True, repeated=True)
            found = replace(found, repeated=True)
        # What is added next comes after it, also where that goes to the archive.
        session.seen.saw(found.id)
    except RedisUnavailable as error:
        error.maybe_done = True
        store.breaker.trip()
        raise
    finally:
        lock.release()
    return found


def _find(session: Session, nonce: bytes) -> Flow[Added | None]:
    """Look for a message in both tiers. The caller holds the session's lock."""
    store = session.store
    below: MessageId | None = None
    while True:
        found = HotWindow.found((yield RedisCall(store.hot.find(session.id, nonce, below))))
        if isinstance(found, Added):
            return found
        if found is None:
            break
        below = found
    archived = yield DiskCall(partial(store.archive.store.find_nonce_locked, session.id, nonce))
    if archived is None:
        return None
    length = yield RedisCall(store.hot.length(session.id))
    return Added(archived, int(length))


def _append_hot(
    session: Session, turn: Turn, gap: Gap, *, locked: bool, repeated: bool = False
) -> Flow[Added]:
    store, seen = session.store, session.seen
    packed = pack_hot(turn, coded=store.hot.coded, repeated=repeated)
    looked = caught_up = False
    looks_for_old = True
    if locked:
        yield from _look(session, locked=True)
    fenced: int | None = 0
    while True:
        opened = seen.opened
        if gap is Gap.FILL:
            # The gap cannot be seen any more, also where this is carried out without an answer:
            # it is noted, and closed by a later use.
            store.outage_sessions.add(session.id)
        fenced = None if fenced is None else opened
        command = store.hot.add(
            session.id,
            packed,
            window=session.window,
            floor=seen.newest,
            floor_is_fresh=looked,
            floor_is_certain=locked,
            gap=Gap.IGNORE if gap is Gap.REFUSE and seen.compared >= opened else gap,
            look_for_old=looks_for_old,
        )
        try:
            answer = HotWindow.added((yield from _ask(store, command, repeat=False, opened=fenced)))
        except NewConnection as new:
            if (yield from _look(session, new.number, locked=locked)) is None:
                # A disk that cannot be looked at must not keep the message out.
                fenced = None
            looked = True
            continue
        if isinstance(answer, Added):
            yield from _archivable(session, answer.id)
            seen.saw(answer.id)
            seen.compared = max(seen.compared, opened)
            return answer
        if answer is Refused.LATE:
            # It was given up, and stored elsewhere or deleted: only its sender can know.
            raise RedisUnavailable("the message was sent before", maybe_done=True, timed_out=True)
        if answer is Refused.OLD:
            # Nothing was added. What cannot move now is met again by the next add or read.
            looks_for_old = yield from _took_over(session, locked=locked)
        elif answer is Refused.BEHIND:
            # Once. The message matters more than the gap.
            if caught_up or not (yield from _catch_up(session, locked=locked)):
                gap = Gap.FILL
            caught_up = True
        # The window is gone and the server cannot tell which id is large enough.
        elif looked:
            break
        yield from _look(session, locked=locked)
        looked = True
    # Nor can we without keeping others from adding and archiving a message of the same
    # id between our look and our add: only the lock makes what we see last.
    lock = yield from _locked(session)
    try:
        return (yield from _append_hot(session, turn, gap, locked=True, repeated=repeated))
    finally:
        lock.release()


def _archivable(session: Session, given: MessageId) -> Flow[None]:
    """Take a message back whose id no archive could hold: it is not acknowledged, so it must not stay."""
    if given.ms > LARGEST_MS:
        yield RedisCall(session.store.hot.remove(session.id, given))
        raise ArchiveCorrupt(
            "the session holds an id at the end of time, so that no larger one can be archived: a "
            "clock, or a file that lix_cache did not write, gave it. Export the session, delete it, "
            "and import it again"
        )


def _took_over(session: Session, *, locked: bool) -> Flow[bool]:
    """Take over what the old package left, before an add; return False if it cannot be done now."""
    store = session.store
    try:
        if locked:
            yield from _take_over_locked(session)
        else:
            yield from take_over(session)
            # So that the add counts what is now in the window, and the next read is one trip.
            found = yield from _read(session, 0)
            if isinstance(found, Cold):
                yield from _rehydrate(session, found)
    except (ArchiveError, InvalidMessage, RedisCommandError) as error:
        # The message matters more.
        store.count("old_session_failures")
        store.last_error = told(error)
        return False
    return True


def _look(session: Session, opened: int = 0, *, locked: bool = False) -> Flow[Extent | None]:
    """Ask the archive how far the session has come.

    Before the first use over a new connection: behind it may be a server that was restarted
    from an older snapshot, or a replica that took over before it had heard of everything. A
    session that was moved to disk must go on with larger ids even if the clock went back.

    Args:
        session: whose archive.
        opened: the connection that is to be used.
        locked: whether the caller holds the session's lock.

    Returns:
        None if the archive cannot be looked at now. It does not count as a look: the next use
        tries again.
    """
    found: Extent | None = yield DiskCall(
        partial(_extent, session.store, session.id, locked), waits=not locked
    )
    if found is not None:
        session.seen.note(found)
        session.seen.opened = max(session.seen.opened, opened)
    return found


def _extent(store: SessionStore, session_id: str, locked: bool) -> Extent | None:
    try:
        return store.archive.store.look(session_id, locked=locked)
    except ArchiveError:
        # Counted and logged there. It must not keep new messages out: the next move to disk
        # sets damage aside, or says that the disk refuses.
        return None


def _catch_up(session: Session, *, locked: bool) -> Flow[bool]:
    """Bring a window to which Redis went back together with the archive. False if the disk refuses."""
    store = session.store
    try:
        # Where another process wrote to the archive while Redis was away, all is as it should be.
        if not (yield DiskCall(partial(store.archive.store.is_pending, session.id))):
            store.note_rollback()
        yield from _reunite_locked(session) if locked else reunite(session)
    except (ArchiveError, InvalidMessage) as error:
        _note_failure(store, error)
        return False
    return True


def _note_failure(store: SessionStore, error: Exception) -> None:
    store.count("reunion_failures")
    store.last_error = told(error)


def _ask(
    store: SessionStore, command: Command, *, repeat: bool = True, opened: int | None = None
) -> Flow[Any]:
    """Send one command, unless Redis was found away a moment ago.

    Args:
        store: whose breaker to heed and to set.
        command: what to send.
        repeat: send it once more if the connection broke; right for what changes nothing.
        opened: the newest connection that may be used; None for any.

    Raises:
        NewConnection: there is a newer one; nothing was sent.
    """
    if store.breaker.is_open and store.config.on_redis_error == "archive":
        raise RedisUnavailable(
            f"{store.endpoint.label} did not answer a moment ago; it is asked again in "
            f"{store.breaker.seconds_left:.1f} s (redis_retry_seconds)",
            was_asked=False,
        )
    try:
        return (yield RedisCall(command, opened))
    except RedisUnavailable as error:
        store.count("redis_errors")
        broke = error.maybe_done and not error.timed_out
        if not broke and error.code not in READS_ONLY:
            store.breaker.trip()
        if not (broke and repeat):
            raise
    try:
        return (yield RedisCall(command, opened))
    except RedisUnavailable:
        store.count("redis_errors")
        store.breaker.trip()
        raise


def _ask_known(session: Session, command: Command) -> Flow[Any]:
    """Send a command that reads.

    After a look at the archive, if the connection is new; and after moving what the old
    package left, if it finds something.
    """
    opened: int | None = session.seen.opened
    while True:
        try:
            reply = yield from _ask(session.store, command, opened=opened)
        except NewConnection as new:
            looked = yield from _look(session, new.number)
            # What Redis says is better than nothing, where the archive cannot be looked at.
            opened = None if looked is None else session.seen.opened
            continue
        if not HotWindow.is_old(reply):
            return reply
        yield from take_over(session)


def _persist(session: Session, turn: Turn, before: MessageId, *, contested: bool) -> Flow[None]:
    """Put a message on disk before it is acknowledged. If the disk refuses, take it back.

    Args:
        session: where it was added.
        turn: the message under its id.
        before: the newest id that was known before it.
        contested: it was sent twice, and Redis may carry out the first sending later.
    """
    archive = session.store.archive.store
    try:
        lock = yield from _locked(session)
    except LixCacheError:
        # Nor does it stay where only a daemon that holds the lock can tell whether it has moved it.
        yield from _taken_back(session, turn, before)
        raise
    try:
        try:
            yield DiskCall(partial(archive.append_locked, session.id, [turn], contested=contested))
        except LixCacheError:
            # Not acknowledged, so it must not stay: the caller will send it again. Under the lock: a
            # daemon that had read it already would put it on disk all the same.
            if (yield from _taken_back(session, turn, before)):
                raise
            # Moved to disk before we had the lock, or lost by Redis since (FLUSHALL): the disk knows.
            if (yield DiskCall(partial(archive.find_nonce_locked, session.id, turn.nonce or b""))) is None:
                raise
    finally:
        lock.release()


def _taken_back(session: Session, turn: Turn, before: MessageId) -> Flow[bool]:
    """Take a message out of the window; False if it is not there."""
    try:
        removed = yield RedisCall(session.store.hot.remove(session.id, turn.id))
    except RedisUnavailable as unavailable:
        unavailable.maybe_done = True
        raise
    if not int(removed):
        return False
    # Nor must it look as if the window had lost it.
    session.seen.expected = min(session.seen.expected, before)
    return True


# -- reading ---------------------------------------------------------------------------


def get_context(session: Session, count: int = 0, again: int = READS_AGAIN) -> Flow[list[Turn]]:
    """Return the newest messages of the context, oldest first: those of the window, and more.

    Args:
        session: the session.
        count: as many of the newest as Redis holds anyway, if that is more than the window.
        again: how often to read again where others were at the session meanwhile.
    """
    store = session.store
    try:
        yield from _bring_together(session)
        turns = yield from _read(session, count)
        if not turns or isinstance(turns, Cold):
            pass
        elif session.seen.goes_beyond(turns[-1].id):
            if (yield from _catch_up(session, locked=False)):
                turns = yield from _read(session, count)
        else:
            session.seen.compared = max(session.seen.compared, session.seen.opened)
    except RedisUnavailable as error:
        found = yield from _without_redis(session, session.window, error)
        return found if found is not None else (yield from get_context(session, count))
    if isinstance(turns, Cold):
        if not (yield DiskCall(partial(store.archive.store.exists, session.id))):
            return []
        archived, is_current = yield from _rehydrate(session, turns)
        if not is_current and again:
            return (yield from get_context(session, count, again - 1))
        return session.saw(archived)
    if len(turns) >= session.window and not session.seen.goes_beyond(turns[-1].id):
        return session.saw(once(turns))
    # A window begun after the session had moved to disk, or kept by a cache with a
    # smaller one: the rest is archived. One disk call also says if there is nothing.
    read = partial(store.archive.store.recent, session.id, session.window, in_context=True)
    older = yield DiskCall(read, waits=True)
    return session.saw(merged(older, turns)[-session.window :])


def _read(session: Session, count: int) -> Flow[list[Turn] | Cold]:
    """Read what Redis holds of the context.

    Page by page from the newest on: a message that moves to disk meanwhile is looked for there
    afterwards, and what is added meanwhile came too late to be seen.
    """
    store, seen = session.store, session.seen
    left = max(count, session.window)
    pages: list[list[Turn]] = []
    below: MessageId | None = None
    while True:
        command = store.hot.read(session.id, left, store.new_nonce(), below)
        page = HotWindow.newest((yield from _ask_known(session, command)))
        if isinstance(page, Cold):
            if not pages:
                return page
            break
        if not page.turns:
            break
        pages.append(page.turns)
        left -= len(page.turns)
        below = page.turns[0].id
        if not page.has_more or left <= 0:
            break
    # What was cleared or deleted: a Redis that went back still has it.
    return late.counted(seen, list(chain.from_iterable(reversed(pages))), seen.gone)


def take_over(session: Session) -> Flow[int]:
    """Move what the old package left of a session to disk. Returns how many messages moved."""
    lock = yield from _locked(session)
    try:
        return (yield from _take_over_locked(session))
    finally:
        lock.release()


def _take_over_locked(session: Session) -> Flow[int]:
    def offload() -> Flow[None]:
        moved = yield from _move_locked(session.store, {session.id: 0})
        moved.raise_failure()

    moved = yield from old_sessions.take_over_locked(session.store, session.id, offload)
    if moved and session.seen.taken_over:
        session.store.count("old_writers")
        logger.warning(
            "a process of lix-open-cache still adds to session {!r}, which has moved. Stop it: it takes "
            "our archive files for broken and writes over them (docs/moving-over.md)",
            session.id[:60],
        )
    session.seen.taken_over |= moved > 0
    # The archive holds ids now that this process has not seen.
    yield from _look(session, locked=True)
    return moved


def _rehydrate(session: Session, cold: Cold) -> Flow[tuple[list[Turn], bool]]:
    """Bring the end of a cold session back into Redis.

    Under the lock, because a deletion between reading and putting back would be undone by it.
    The lock does not hold back what was sent and is carried out later: for that there is the
    ticket, which everything under the lock that ends a window takes away. Putting back does
    nothing if somebody else was first.

    Returns:
        The messages, and whether nobody has moved, cleared or deleted any since it was found cold.
    """
    store = session.store
    lock = yield from _locked(session)
    done = 0
    try:
        turns: list[Turn] = yield DiskCall(
            partial(store.archive.store.recent, session.id, session.window, in_context=True, locked=True)
        )
        if turns:
            # Where the archive is damaged its index may promise more than can be read.
            session.seen.expected = turns[-1].id
            command = store.hot.rehydrate(session.id, turns, cold)
            try:
                # What is too large for a command stays where it is, and is read from there.
                if cold.ticket and store.hot.size_of(command) <= BYTES_AT_ONCE:
                    done = int((yield RedisCall(command)))
            except RedisUnavailable as error:
                # What was asked for is in hand; only the next read will be slower.
                store.count("redis_errors")
                if error.code not in READS_ONLY:
                    store.breaker.trip()
    finally:
        lock.release()
    store.count("rehydrations", max(0, done))
    return turns, done >= 0


def get_full(session: Session) -> Flow[list[Turn]]:
    """Return every message once, in order.

    Redis first, then the disk: a message that moves meanwhile is seen twice, and counted
    once by its id. The other way round it could be missed.
    """
    store = session.store
    try:
        yield from _bring_together(session)
        hot = yield from _all_hot(session)
    except RedisUnavailable as error:
        found = yield from _without_redis(session, None, error)
        return found if found is not None else (yield from get_full(session))
    hot = late.counted(session.seen, hot, session.seen.deleted)
    # A thread's work: it reads the archive, and puts any number of messages in order.
    everything: list[Turn] = yield DiskCall(
        lambda: merged(store.archive.store.turns(session.id), hot), waits=True
    )
    return session.saw(everything)


def _all_hot(session: Session) -> Flow[list[Turn]]:
    """Read all that Redis holds: in one round trip, unless it is more than a page."""
    turns: list[Turn] = []
    while True:
        command = session.store.hot.oldest(
            session.id,
            keep=0,
            after=turns[-1].id if turns else None,
            look_for_old=not turns,
        )
        page = HotWindow.oldest_turns((yield from _ask_known(session, command)))
        turns += page.turns
        if not page.has_more or not page.turns:
            return turns


def merged(cold: Iterable[Turn], hot: Iterable[Turn]) -> list[Turn]:
    """Return both, each message once, in order of their ids."""
    return once([*cold, *hot])


def _without_redis(session: Session, count: int | None, error: RedisUnavailable) -> Flow[list[Turn] | None]:
    """Answer from the disk alone, if the policy allows, and never as if there were nothing.

    Returns:
        None where there is nothing on disk and Redis was not asked: it is to be asked now.
    """
    store = session.store
    if store.config.on_redis_error == "raise":
        raise error
    store.count("degraded_reads")
    archive = store.archive.store
    turns: list[Turn] = yield DiskCall(
        partial(archive.turns, session.id)
        if count is None
        else partial(archive.recent, session.id, count, in_context=True),
        waits=True,
    )
    if turns:
        return turns
    if error.was_asked:
        raise error
    store.breaker.reset()
    return None


def hot_length(session: Session) -> Flow[int]:
    """Return how many messages Redis holds."""
    command = session.store.hot.length(session.id)
    return int((yield from _ask(session.store, command)))


# -- moving to disk --------------------------------------------------------------------


@dataclass
class Moved:
    """What a move to disk did.

    Attributes:
        messages: how many left Redis.
        sessions: sessions of which all that should have left did.
        busy: sessions that somebody else held the lock of.
        failed: sessions that could not be moved, and why; their messages are still hot.
    """

    messages: int = 0
    sessions: int = 0
    busy: int = 0
    failed: dict[str, LixCacheError] = field(default_factory=dict)

    def raise_failure(self) -> None:
        """Raise the first failure, if there is one."""
        for error in self.failed.values():
            raise error


def flush(session: Session) -> Flow[int]:
    """Move all of a session to disk now. Returns how many messages moved."""
    lock = yield from _locked(session)
    try:
        taken_over = yield from _take_over_locked(session)
        moved = yield from _move_locked(session.store, {session.id: 0})
    finally:
        lock.release()
    moved.raise_failure()
    return taken_over + moved.messages


def move_to_disk(store: SessionStore, keep: Mapping[str, int]) -> Flow[Moved]:
    """Move the oldest messages of several sessions to disk, all but the newest so many.

    Sessions whose lock somebody holds are left for the next time.

    Args:
        store: the tiers.
        keep: for each session how many messages stay hot; 0 moves the session.
    """
    archive = store.archive.store
    locks: dict[int, FileLock] = {}
    mine: dict[str, int] = {}
    failed: dict[str, LixCacheError] = {}
    try:
        for session_id, count in keep.items():
            stripe = archive.stripe(session_id)
            if stripe not in locks:
                try:
                    lock = yield LockCall(partial(archive.try_lock, session_id))
                except ArchiveError as error:
                    store.archive_state.fails(error)
                    failed[session_id] = error
                    continue
                if lock is None:
                    continue
                locks[stripe] = lock
            mine[session_id] = count
        moved = yield from _move_locked(store, mine)
    finally:
        for lock in locks.values():
            lock.release()
    moved.busy = len(keep) - len(mine) - len(failed)
    moved.failed.update(failed)
    return moved


def _move_locked(store: SessionStore, keep: Mapping[str, int]) -> Flow[Moved]:
    """Read the oldest, append to the archive (synced), then trim: in that order.

    Stopped after any step and run again: what was read is still there; what was appended is
    recognised by its id and only trimmed. The lock keeps a deletion from happening in the
    middle and being undone. It does not keep out what was sent by others and is carried out late,
    nor the taking back of a message: where the window begins with another message than was read,
    the trim does nothing, and the window is read again. One session's failure does not keep the
    others from moving.
    """
    moved = Moved()
    todo = dict(keep)
    # Sessions of which a single message is more than their share: each by itself.
    large: dict[str, int] = {}
    refused: Counter[str] = Counter()
    while todo or large:
        if not todo:
            todo = dict([large.popitem()])
        room, at_least = BYTES_AT_ONCE // len(todo), int(len(todo) == 1)
        reads = tuple(
            store.hot.oldest(sid, keep=count, limit=CHUNK, max_bytes=room, at_least=at_least)
            for sid, count in todo.items()
        )
        replies = yield RedisBatch(reads, errors_as_values=True)
        found = yield from _readable(todo, replies, moved)
        large.update({sid: keep[sid] for sid, one in found.items() if one.has_more and not one.turns})
        found = {sid: oldest for sid, oldest in found.items() if sid not in large}
        batch = {sid: oldest.turns for sid, oldest in found.items() if oldest.turns}
        contested = {sid: oldest.contested for sid, oldest in found.items() if oldest.contested}
        written: dict[str, int | LixCacheError] = yield DiskCall(
            partial(store.archive.store.append_many_locked, batch, contested)
        )
        moved.failed.update({sid: r for sid, r in written.items() if isinstance(r, LixCacheError)})
        _note_archive(store, written.values())
        found = {sid: oldest for sid, oldest in found.items() if sid not in moved.failed}
        trimmed = yield from _trimmed(store, found, keep, moved)
        refused.update(found.keys() - trimmed.keys() - moved.failed.keys())
        moved.failed.update({sid: _keeps_changing(sid) for sid, n in refused.items() if n > MOVES_AGAIN})
        gone = sum(trimmed.values())
        store.count("spilled_messages", gone)
        moved.messages += gone
        todo = {
            sid: keep[sid]
            for sid, oldest in found.items()
            if sid not in moved.failed and (oldest.has_more or sid not in trimmed)
        }
    moved.sessions = len(keep) - len(moved.failed)
    if moved.failed:
        store.count("spill_failures", len(moved.failed))
    return moved


def _trimmed(
    store: SessionStore, found: Mapping[str, Page], keep: Mapping[str, int], moved: Moved
) -> Flow[dict[str, int]]:
    """Forget what the archive has. Returns of how many messages; not those whose window is another by now."""
    newest: dict[str, MessageId | LixCacheError] = yield DiskCall(partial(_newest_ids, store, list(found)))
    trims: dict[str, Command] = {}
    for sid, known in newest.items():
        if isinstance(known, LixCacheError):
            moved.failed[sid] = known
        else:
            trims[sid] = store.hot.trim(sid, found[sid].turns, known, keep[sid])
    replies = (yield RedisBatch(tuple(trims.values()), errors_as_values=True)) if trims else ()
    trimmed = {}
    for sid, reply in zip(trims, replies, strict=True):
        if isinstance(reply, RedisUnavailable):
            raise reply
        if isinstance(reply, LixCacheError):
            moved.failed[sid] = reply
        elif int(reply) >= 0:
            trimmed[sid] = len(found[sid].turns)
    return trimmed


def _keeps_changing(session_id: str) -> ArchiveBusy:
    return ArchiveBusy(
        f"the window of session {session_id[:60]!r} changed each time it was about to leave Redis; what was "
        "read is archived and still hot. Try again"
    )


def _note_archive(store: SessionStore, written: Iterable[int | LixCacheError]) -> None:
    """Note whether the disk takes what is written. One file that is damaged says nothing about it."""
    for result in written:
        if isinstance(result, ArchiveUnavailable):
            store.archive_state.fails(result)
            return
        if isinstance(result, int):
            store.archive_state.works()


def _readable(ids: Iterable[str], replies: Iterable[Any], moved: Moved) -> Flow[dict[str, Page]]:
    """Decode what windows hold; what cannot be decoded fails its own session only."""
    found: dict[str, Page] = {}
    for number, (sid, reply) in enumerate(zip(ids, replies, strict=True), 1):
        if number % BREATH == 0:
            yield Sleep(BREATH_SECONDS)
        if isinstance(reply, RedisUnavailable):
            raise reply
        if isinstance(reply, LixCacheError):
            moved.failed[sid] = reply
            continue
        try:
            found[sid] = HotWindow.oldest_turns(reply)
        except InvalidMessage as error:
            moved.failed[sid] = error
    return found


def _newest_ids(store: SessionStore, session_ids: Iterable[str]) -> dict[str, MessageId | LixCacheError]:
    found: dict[str, MessageId | LixCacheError] = {}
    for session_id in session_ids:
        try:
            found[session_id] = store.archive.store.last_index(session_id, locked=True).newest
        except ArchiveCorrupt:
            # Counted and logged there. Nothing of it can be read, so nothing can collide.
            found[session_id] = ZERO_ID
        except ArchiveError as error:
            found[session_id] = error
    return found


def _bring_together(session: Session) -> Flow[None]:
    """After an outage: put what Redis kept beside what went to the archive, by id.

    The window is moved to disk whole; the next read brings back the newest of both.
    """
    store = session.store
    if session.id in store.outage_sessions and not store.breaker.is_open:
        yield from reunite(session)


def reunite(session: Session) -> Flow[None]:
    """Move a session to disk whole and take off the mark that an outage left on it."""
    lock = yield from _locked(session)
    try:
        yield from _reunite_locked(session)
    finally:
        lock.release()


def _reunite_locked(session: Session) -> Flow[None]:
    store = session.store
    try:
        moved = yield from _move_locked(store, {session.id: 0})
        moved.raise_failure()
        # What went to the archive may still arrive: from here on it is refused.
        yield from late.refuse_locked(store, session.id)
        # The mark goes last: until here a crash leaves it for the next daemon.
        yield DiskCall(partial(store.archive.store.unmark_pending_locked, session.id))
    except RedisUnavailable:
        store.breaker.trip()
        raise
    # Under the lock: after it another thread may be in the next outage already.
    store.outage_sessions.discard(session.id)
    # All there is is in the archive now. What this process saw besides is lost, and looking
    # for it at every use would not bring it back. In one step: who reads the window as it was
    # before, in another task, must not find that it ends where it should.
    extent = yield from _look(session, locked=True)
    session.seen.expected = ZERO_ID if extent is None else extent.newest
    store.count("reunions")


# -- clearing and deleting ---------------------------------------------------------------


def clear(session: Session) -> Flow[None]:
    """Empty the context. Every message stays in the history.

    First all of the window moves to disk, then a mark there takes it out of the context. So
    what is left does not depend on how much the daemon had moved before; a crash between the
    two leaves the context as it was; and a Redis that goes back to an older state cannot
    bring the context back, because the mark is not in Redis. What others add meanwhile comes
    after the mark.
    """
    store = session.store
    lock = yield from _locked(session)
    try:
        # What the old package left goes the way of the rest: into the history, before the mark.
        yield from _take_over_locked(session)
        moved = yield from _move_locked(store, {session.id: 0})
        moved.raise_failure()
        # After the move, which may have archived more that can still arrive; before the mark, so
        # that what has come since is not in the context.
        yield from late.refuse_locked(store, session.id, session.seen.unsettled)
        yield DiskCall(partial(store.archive.store.clear_locked, session.id))
        # What is added from now on must come after the mark, or it would not be in the context.
        yield from _look(session, locked=True)
    finally:
        lock.release()


def delete(session: Session) -> Flow[bool]:
    """Remove a session from Redis and disk. Returns whether there was anything.

    Under the lock, so a move to disk that has read the messages has also written them before
    this begins, or has not begun: it cannot write them afterwards. Redis first: what is
    remembered of the deletion holds for all ids that Redis gave out until then.
    """
    store = session.store
    lock = yield from _locked(session)
    try:
        # Before the window goes: what arrives in between would stay.
        unsettled = yield from late.refuse_locked(store, session.id, session.seen.unsettled)
        end = yield from late.forget_locked(store, session.id)
        old = yield from old_sessions.drop_locked(store, session.id)
        arriving = unsettled | end.repeated
        cold = yield DiskCall(partial(store.archive.store.delete_locked, session.id, end.up_to, arriving))
        store.outage_sessions.discard(session.id)
        yield from _look(session, locked=True)
    finally:
        lock.release()
    return bool(end.length) or old or bool(cold)


# -- locks -------------------------------------------------------------------------------


def _locked(session: Session) -> Flow[FileLock]:
    """Wait for the session's lock without holding a thread.

    Raises:
        ArchiveBusy: not to be had in time.
    """
    archive = session.store.archive.store
    waited = 0.0
    for pause in lock_pauses():
        lock: FileLock | None = yield LockCall(partial(archive.try_lock, session.id))
        if lock is not None:
            return lock
        if waited > archive.lock_timeout_seconds:
            break
        yield Sleep(pause)
        waited += pause
    raise archive.busy_error(session.id)


# -- the daemon's rounds -------------------------------------------------------------------

#: Sessions moved to disk together: their reads and trims share a round trip each.
SESSIONS_AT_ONCE = 32
#: How long one daemon keeps the others from looking for idle sessions too.
LEASE_MS = 30_000


def spill_overflow(store: SessionStore, limit: int = 256) -> Flow[Moved]:
    """Bring windows that have grown by a batch back to their size."""
    total = Moved()
    for bucket in range(store.hot.keys.buckets):
        reply = yield RedisCall(store.hot.overflowing(bucket, limit))
        windows = _pairs(reply)
        for group in _groups(windows, SESSIONS_AT_ONCE):
            moved = yield from move_to_disk(store, {sid: int(windows[sid]) for sid in group})
            _add_up(total, moved)
    return total


def evict_idle(store: SessionStore, idle_seconds: float, who: str | None = None) -> Flow[Moved]:
    """Move every session to disk that has been idle for so long.

    Args:
        store: the tiers.
        idle_seconds: least time since the last use.
        who: name for the lease; None works without one.
    """
    total = Moved()
    idle_ms = int(idle_seconds * 1000)
    for bucket in range(store.hot.keys.buckets):
        # Busy and failed sessions stay in the list, at its start: they are passed over.
        passed = 0
        before: list[str] = []
        while True:
            if who is not None and not (yield RedisCall(store.hot.lease(bucket, who, LEASE_MS))):
                break
            reply = yield RedisCall(store.hot.idle(bucket, idle_ms, passed, SESSIONS_AT_ONCE))
            ids = [sid.decode("utf-8", "replace") for sid in reply]
            # What is listed again has just been used, or is no session: not now, not for ever.
            if not ids or ids == before:
                break
            before = ids
            moved = yield from move_to_disk(store, dict.fromkeys(ids, 0))
            _add_up(total, moved)
            passed += moved.busy + len(moved.failed)
    store.count("evicted_sessions", total.sessions)
    return total


def _add_up(total: Moved, moved: Moved) -> None:
    total.messages += moved.messages
    total.sessions += moved.sessions
    total.busy += moved.busy
    total.failed.update(moved.failed)


def reunite_pending(store: SessionStore) -> Flow[Moved]:
    """Bring together every session that any process wrote to during an outage."""
    ids: list[str] = yield DiskCall(store.archive.store.pending_sessions)
    moved = Moved()
    for session_id in ids:
        try:
            yield from reunite(Session(store, session_id, store.config.hot_window_size))
        except RedisUnavailable:
            raise
        except LixCacheError as error:
            # It keeps its mark, and does not keep the others from being brought together.
            moved.failed[session_id] = error
        else:
            moved.sessions += 1
    return moved


def rescue_old(store: SessionStore, done: old_sessions.Pass) -> Flow[old_sessions.Pass]:
    """Go on looking for sessions of the old package whose life is about to end, and take them over."""

    def first_use(session_id: str) -> Flow[int]:
        return take_over(Session(store, session_id, store.config.hot_window_size))

    return (yield from old_sessions.rescue(store, done, first_use))


def clean_up(store: SessionStore) -> Flow[int]:
    """Move archives past their life to the trash, except those of sessions that are hot.

    One that cannot be looked at or moved, or whose lock somebody holds, is left for the next
    time, and does not keep the others.
    """
    archive = store.archive
    seconds, microseconds = yield RedisCall(("TIME",))
    now = yield DiskCall(partial(archive.store.now, int(seconds) + int(microseconds) / 1e6))
    expired: list[str] = yield DiskCall(partial(archive.expired_sessions, now), waits=True)
    moved = 0
    for session_id in expired:
        try:
            lock = yield LockCall(partial(archive.store.try_lock, session_id))
            if lock is None:
                continue
            try:
                # A session with messages in Redis is alive, however old its archive. The ticket goes
                # first: what a reader is about to put back would outlive the archive it was read from.
                _, *alive = yield RedisBatch(
                    (
                        store.hot.take_ticket(session_id),
                        store.hot.length(session_id),
                        store.hot.old.length(session_id),
                    )
                )
                if not any(alive):
                    moved += yield DiskCall(partial(archive.expire_locked, session_id, now))
            finally:
                lock.release()
        except ArchiveError as error:
            archive.store.note_not_expired(session_id, error)
    yield DiskCall(partial(archive.store.empty_trash, now, archive.trash_days))
    # No window lives longer, so nothing older can come back.
    yield DiskCall(partial(archive.store.forget_deletions, int(now.earliest * 1000) - store.hot.life_ms))
    return moved


def hot_among(store: SessionStore, session_ids: Sequence[str], page: int = 500) -> Flow[set[str]]:
    """Return those of the sessions that have a window in Redis."""
    hot: set[str] = set()
    for group in _groups(session_ids, page):
        lengths = yield RedisBatch(tuple(store.hot.length(session_id) for session_id in group))
        hot.update(session_id for session_id, length in zip(group, lengths, strict=True) if length)
    return hot


def list_hot(store: SessionStore, page: int = 1000) -> Flow[dict[str, float]]:
    """Return the hot sessions with the Unix seconds of their last use."""
    found: dict[str, float] = {}
    for bucket in range(store.hot.keys.buckets):
        cursor = 0
        while True:
            # Not pages by rank: a session that is used or moved meanwhile shifts the ranks
            # of the others, and one of them would be missing.
            reply = yield RedisCall(store.hot.active_page(bucket, cursor, page))
            pairs = _pairs(reply[1])
            found.update({sid: float(score) / 1000 for sid, score in pairs.items()})
            cursor = int(reply[0])
            if cursor == 0:
                break
    return found


def _pairs(reply: Any) -> dict[str, Any]:
    """Read a list of pairs, flat or nested: servers and client versions differ."""
    flat = [x for pair in reply for x in pair] if reply and isinstance(reply[0], (list, tuple)) else reply
    keys = [key.decode("utf-8", "replace") for key in flat[0::2]]
    return dict(zip(keys, flat[1::2], strict=True))


def _groups(items: Iterable[str], size: int) -> Iterable[list[str]]:
    listed = list(items)
    return (listed[i : i + size] for i in range(0, len(listed), size))
