"""Commands that Redis carries out long after their caller gave up: what they could undo, they may not.

A server that hung goes on, or a proxy lets go of what it held. Meanwhile other processes have moved,
cleared or deleted the session. A command that removes or puts back says what it is about
(``hot/scripts.py``), and does nothing if that is gone. An add cannot say so: it is a new message. So a
flow that clears, deletes or reconciles tells Redis which messages are stored already, or gone. Redis
then refuses their adds, and drops the copies that have come.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import islice

from lix_cache.effects import DiskCall, Flow, RedisCall
from lix_cache.hot.replies import End
from lix_cache.hot.window import HotWindow
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn, parse_id, sign_of
from lix_cache.session.store import Seen, SessionStore

__all__ = ["counted", "forget_locked", "holds_gone", "refuse_locked"]

#: Messages that Redis is told about in one call.
AT_ONCE = 1000


def refuse_locked(store: SessionStore, session_id: str, unsettled: Iterable[bytes] = ()) -> Flow[set[bytes]]:
    """Have Redis refuse what may still arrive of a session. Returns the nonces.

    No round trip where there is nothing: only adds that were not answered leave something.

    Args:
        store: the tiers.
        session_id: the session, whose lock is held.
        unsettled: nonces of adds that this process knows to be neither done nor refused.
    """
    known = dict.fromkeys(unsettled, ZERO_ID)
    known.update((yield DiskCall(partial(store.cold.contested, session_id, locked=True))))
    left = iter(known.items())
    while group := dict(islice(left, AT_ONCE)):
        yield RedisCall(store.hot.refuse(session_id, group))
    return set(known)


def forget_locked(store: SessionStore, session_id: str) -> Flow[End]:
    """Drop a window. Returns how far it went; ``up_to`` is the largest id that is gone with it.

    In two steps: what was added after the first one is no part of the deletion, also where the
    second is carried out when its caller has long given up and others use the session again.
    """
    end = HotWindow.end((yield RedisCall(store.hot.ends(session_id))))
    up_to = end.up_to
    if end.last is not None:
        left = yield RedisCall(store.hot.forget(session_id, end.last))
        if left:
            # Added since, perhaps within the same millisecond: it and all that follow it stay.
            up_to = min(up_to, parse_id(left).predecessor())
    return replace(end, up_to=up_to)


def counted(seen: Seen, turns: list[Turn], up_to: MessageId) -> list[Turn]:
    """Leave out of what a window holds what is gone, and copies that came late of what is archived.

    Args:
        seen: what is known of the session.
        turns: by their ids.
        up_to: messages up to here do not count.
    """
    if turns and turns[0].id <= up_to:
        turns = [turn for turn in turns if turn.id > up_to]
    known = seen.contested
    if known:
        turns = [turn for turn in turns if _counts(seen, turn, known.get(sign_of(turn), turn.id))]
    return turns


def _counts(seen: Seen, turn: Turn, its_id: MessageId) -> bool:
    # What was sent again by its key yields to the first copy, also before both have come together.
    return turn.id == its_id or (turn.id < its_id and turn.nonce in seen.repeats)


def holds_gone(seen: Seen, turns: list[Turn]) -> bool:
    """Whether a window holds what was deleted or edited: Redis went back, or has not been told."""
    known = seen.contested
    return bool(known) and any(known.get(sign_of(turn)) == ZERO_ID for turn in turns)
