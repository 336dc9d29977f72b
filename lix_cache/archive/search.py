"""Looking through turns: by the words they share, by the direction of their vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lix_cache.errors import DimensionMismatch, InvalidInput
from lix_cache.messages.message import message_text
from lix_cache.messages.turn import Turn
from lix_cache.vectors import as_array, as_float32

if TYPE_CHECKING:
    from lix_cache.vectors import VectorLike

__all__ = ["by_text", "by_vector", "check_query"]

# Scripts written without spaces (kana, Han, Thai): one character is one token there.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
_TOKEN = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")


def check_query(query: object) -> str:
    """Return what is looked for by words.

    Raises:
        InvalidInput: it is no text.
    """
    if not isinstance(query, str):
        raise InvalidInput(f"the query must be a str, got {type(query).__name__}")
    return query


def tokens(text: str) -> set[str]:
    """Return the distinct lower-case words of a text."""
    return set(_TOKEN.findall(text.lower()))


def by_text(turns: Sequence[Turn], query: str, top_k: int) -> list[Turn]:
    """Return up to ``top_k`` turns by the number of words shared with the query; ties oldest first."""
    wanted = tokens(query)
    scored = [(len(wanted & tokens(message_text(turn.body))), turn) for turn in turns]
    best = sorted((pair for pair in scored if pair[0]), key=lambda pair: -pair[0])
    return [turn for _, turn in best[: max(0, top_k)]]


def by_vector(turns: Sequence[Turn], query: VectorLike, top_k: int) -> list[Turn]:
    """Return up to ``top_k`` turns by cosine similarity of their vector; ties oldest first."""
    import numpy as np

    wanted = as_float32(query, "the query embedding")
    held = [turn for turn in turns if turn.vector is not None]
    same = [turn for turn in held if turn.vector is not None and turn.vector.dim == wanted.size]
    if not same:
        if held and held[0].vector is not None:
            raise DimensionMismatch(held[0].vector.dim, wanted.size, "the session's archive")
        return []
    matrix = np.stack([as_array(turn.vector).astype(np.float64) for turn in same if turn.vector is not None])
    norms = np.linalg.norm(matrix, axis=1) * float(np.linalg.norm(wanted.astype(np.float64)))
    similarity = np.divide(matrix @ wanted, norms, out=np.zeros(len(same)), where=norms > 0)
    order = np.argsort(-similarity, kind="stable")[: max(0, top_k)]
    return [same[int(i)] for i in order]
