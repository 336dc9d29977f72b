"""The text of tokens as they come, without reading all of them again for each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["TextOf"]

#: Tokens of one character at most: it has four bytes. What is longer than that is none, and is let out.
_MOST_OF_A_CHARACTER = 8


class TextOf:
    """Takes tokens one by one and returns text that is whole.

    What a token says depends on the one before: some tokenizers write a space between them, and none at the
    beginning. So a few tokens are read with those that were read before, and what these say is taken off.

    Args:
        detokenize: returns tokens as text; half a character as U+FFFD at its end.
    """

    def __init__(self, detokenize: Callable[[Sequence[int]], str]) -> None:
        self._detokenize = detokenize
        self._before: list[int] = []
        self._new: list[int] = []

    def feed(self, token: int) -> str:
        """Take a token; return the text that is whole with it, which may be none."""
        self._new.append(token)
        known = self._detokenize(self._before) if self._before else ""
        text = self._detokenize([*self._before, *self._new])
        if text.endswith("\ufffd") and len(self._new) < _MOST_OF_A_CHARACTER:
            return ""
        if len(text) > len(known):
            self._before, self._new = self._new, []
            return text[len(known) :]
        if len(self._new) >= _MOST_OF_A_CHARACTER:
            # Tokens without a text; the ones with the last text stay, to be read with what follows.
            self._new = []
        return ""
