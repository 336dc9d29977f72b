"""What a copy of a session lacks of its source, and has beside it. Touches no archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lix_cache.archive.doubts import id_before, is_gone
from lix_cache.archive.facts import Extent, Marks
from lix_cache.archive.identity import Known, newcomers
from lix_cache.messages.turn import Turn, sign_of

__all__ = ["Difference", "Source", "renewed"]


@dataclass(frozen=True)
class Source:
    """What the source has of a session."""

    marks: Marks
    turns: Sequence[Turn]


@dataclass(frozen=True)
class Difference:
    """What is to be done for a session that the target has.

    Attributes:
        is_deleted: the source remembers only that it was deleted.
        is_expired: what the target has went to the trash of the source.
        outdated: turns that the source no longer has, or has under other ids after it let go of these.
        is_renewed: the source does not know of some that they were there, as when a session is deleted or all
            of it replaced: they may come again under other ids.
        kept: turns that the target alone has.
        fresh: turns that the target does not have, or has under other ids.
        again: those of them that may take the place of a message that was sent again by its key.
        marks: what is to be remembered.
        there: what the target remembers.
        extent: of the source, as far as it had to be looked at.
    """

    source: Source
    is_deleted: bool = False
    is_expired: bool = False
    outdated: Sequence[Turn] = ()
    is_renewed: bool = False
    kept: Sequence[Turn] = ()
    fresh: Sequence[Turn] = ()
    again: Sequence[Turn] = ()
    marks: Marks = field(default_factory=Marks)
    there: Marks = field(default_factory=Marks)
    extent: Extent = field(default_factory=Extent)

    def __bool__(self) -> bool:
        return self.takes_away or bool(self.fresh) or self.marks != Marks()

    @property
    def takes_away(self) -> bool:
        """Whether a message goes, or another comes in its place."""
        return self.is_deleted or self.is_expired or self.is_renewed or bool(self.outdated)

    @property
    def only_adds(self) -> bool:
        """Whether it can be done beside others that append."""
        return bool(self) and not self.takes_away and not self.again


def renewed(todo: Difference) -> tuple[list[Turn], Marks]:
    """Return what a session becomes whose source began anew: what that has, and what the target alone has."""
    there = todo.there
    # Of what went with the whole session nothing is remembered either.
    beyond = {sign: one for sign, one in there.said.items() if id_before(one) > todo.extent.forgotten}
    lacking = todo.source.marks.lacking(replace(there, said=beyond))
    marks = Marks(
        # What was marked before the deletion is below every message since.
        max(there.cleared, lacking.cleared),
        max(there.dropped, lacking.dropped),
        {**beyond, **lacking.said},
        lacking.pending,
    )
    known = Known()
    for some in (todo.source.turns, todo.kept):
        known.add(newcomers(some, known))
    gone = {sign for sign, one in marks.said.items() if is_gone(one)}
    return [turn for _, turn in sorted(known.turns.items()) if sign_of(turn) not in gone], marks
