"""Long texts in passages, so that no part of a text is left out of its vector. Pure.

An embedder reads the beginning of a text, a hundred words or so, and drops the rest in silence: two
prompts with the same document and another question at its end have the same vector. So a longer text
is cut into passages that are embedded each by itself; their mean stands for the text.
"""

from __future__ import annotations

import re

__all__ = ["passages"]

#: Tokens of a passage, about: what the commonest models read at least (128), with something to spare.
_TOKENS = 100
#: A word of letters that are ASCII has a token for about so many of them.
_LETTERS = 4
_PIECE = re.compile(r"\s*(?:[A-Za-z]+|[^\sA-Za-z])")


def passages(text: str) -> list[str]:
    """Return the text in passages of whole words; itself, if it is short enough."""
    if len(text) <= _TOKENS:
        return [text]
    parts, start, tokens = [], 0, 0
    for piece in _PIECE.finditer(text):
        cost = 1 + (len(piece.group()) - 1) // _LETTERS
        if tokens and tokens + cost > _TOKENS:
            parts.append(text[start : piece.start()])
            start, tokens = piece.start(), 0
        tokens += cost
    parts.append(text[start:])
    return [part for part in parts if part.strip()]
