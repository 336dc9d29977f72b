"""Messages that were sent again by their keys while Redis was away: the first copy counts. Touches nothing.

``archive/repeats.py`` says why. What is a frame there is a state here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from lix_cache.archive.doubts import as_repeat, doubts_about, id_before, is_repeat
from lix_cache.archive.objects.records import State
from lix_cache.messages.turn import MessageId, Turn, once, sign_of_id

__all__ = ["Settled", "is_moved", "repeats_about", "repeats_in", "restored_doubts", "settled"]

#: Reads the turns that may have one of these ids.
Around = Callable[[Collection[MessageId]], Sequence[Turn]]


class Settled(NamedTuple):
    """What a window says of messages that were sent again.

    Attributes:
        doubts: by nonces and by the signs of ids, what is known from now on.
        first: the first copies; each takes the place of one that is archived.
    """

    doubts: Mapping[bytes, MessageId]
    first: Sequence[Turn]


def is_moved(state: State, turn: Turn) -> bool:
    """Whether a turn that was read has yielded to the first copy of its message."""
    said = state.doubts.get(turn.nonce or b"")
    return said is not None and id_before(said) != turn.id and sign_of_id(turn.id) in state.doubts


def repeats_about(turns: Iterable[Turn]) -> dict[bytes, MessageId]:
    """Return what is in doubt of turns that were sent again."""
    return {nonce: as_repeat(its_id) for nonce, its_id in doubts_about(turns).items()}


def repeats_in(state: State) -> frozenset[bytes]:
    """Return the nonces of those that yield to a first copy."""
    return frozenset(
        sign for sign, said in state.doubts.items() if is_repeat(said) and sign not in state.gone
    )


def settled(state: State, turns: Sequence[Turn], around: Around) -> Settled:
    """Return what becomes of messages that were sent again, by what a window holds."""
    up_to = max(state.deletion.up_to, state.dropped)
    doubts: dict[bytes, MessageId] = {}
    first: list[Turn] = []
    repeats = repeats_in(state)
    for turn in once(turns):
        if turn.nonce is None or turn.nonce not in repeats or turn.id <= up_to:
            continue
        here = id_before(state.doubts[turn.nonce])
        if turn.id > here and sign_of_id(turn.id) not in state.doubts:
            # Carried out late. Redis may know the key by this id.
            doubts[sign_of_id(turn.id)] = here
        if turn.id < here:
            there = {one.id: one.nonce for one in around((here, turn.id))}
            if turn.id not in there and there.get(here) == turn.nonce:
                first.append(turn)
                doubts.update({turn.nonce: turn.id, sign_of_id(here): turn.id})
    return Settled(doubts, first)


def restored_doubts(turns: Sequence[Turn], states: Sequence[State]) -> dict[bytes, MessageId]:
    """Return what is in doubt of a session that is taken back: by the ids that its messages have by now."""
    said: dict[bytes, MessageId] = {}
    for state in states:
        said.update(state.doubts)
    now = doubts_about(turns, said)
    ids = {turn.id for turn in turns}
    moved = {sign: its_id for sign, its_id in said.items() if sign not in now and its_id in ids}
    return {
        **moved,
        **{sign: as_repeat(its_id) if is_repeat(said[sign]) else its_id for sign, its_id in now.items()},
    }
