"""Why a prompt was not found: the first token that differs, and the message it stands in. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lix_cache.kv.identity import Ids
from lix_cache.kv.manifest import Part

__all__ = ["Miss", "common_prefix", "miss_between"]


@dataclass(frozen=True)
class Miss:
    """Where a prompt leaves the nearest one that is known.

    Attributes:
        token: number of the first token that differs, from 1.
        part: what it stands in, such as ``system`` or ``message 3 (user)``.
        token_in_part: its number there, from 1.
        known: how many tokens the nearest one has.
        session: whose that is; "" for none.
    """

    token: int
    part: str
    token_in_part: int
    known: int
    session: str = ""

    def __str__(self) -> str:
        if not self.known:
            return "nothing is known of this model and tenant"
        return (
            f"first difference: token {self.token_in_part} of {self.part} (token {self.token} of the prompt)"
        )


def common_prefix(one: Ids, two: Ids) -> int:
    """Return how many tokens two sequences begin with alike."""
    shorter = min(len(one), len(two))
    differing = np.flatnonzero(one[:shorter] != two[:shorter])
    return int(differing[0]) if len(differing) else shorter


def miss_between(
    ids: Ids, known: Ids, parts: Sequence[Part], session: str = "", cached: int = 0
) -> Miss | None:
    """Return where a prompt leaves what is known; None where it goes on from all of it.

    Args:
        ids: the prompt.
        known: the sequence before.
        parts: where the messages of the prompt end.
        session: whose the sequence before is.
        cached: tokens that were found, whatever the sequence before has: what differs is behind them.
    """
    common = common_prefix(ids, known)
    if common == len(known) and len(known):
        return None
    token = max(common, cached)
    first, name = 0, "the prompt"
    for part in parts:
        if token < part.tokens:
            name = part.name
            break
        first, name = part.tokens, f"what follows {part.name}"
    return Miss(token + 1, name, token - first + 1, len(known), session)
