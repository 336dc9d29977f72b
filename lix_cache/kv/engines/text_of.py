"""The text of tokens as they come, without reading all of them again for each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["TextOf"]

#: So many tokens that end in no whole character are none, and are let out.
_MOST_HELD = 8
#: But for the last ones: a character has four bytes, so three tokens may still become one.
_MOST_OPEN = 3
_HALF = "\ufffd"


class TextOf:
    """Takes tokens one by one and returns text that is whole. All that it returns is the text of all tokens.

    What a token says depends on the one before: some tokenizers write a space between them, and none at the
    beginning. So a few tokens are read with those that were read before, and what these say is taken off.

    Args:
        detokenize: returns tokens as text; half a character as U+FFFD, one or more, at its end.
    """

    def __init__(self, detokenize: Callable[[Sequence[int]], str]) -> None:
        self._detokenize = detokenize
        self._before: list[int] = []
        self._new: list[int] = []
        #: Letters of these tokens' text that were returned.
        self._said = 0

    def feed(self, token: int) -> str:
        """Take a token; return the text that is whole with it, which may be none."""
        self._new.append(token)
        text = self._text()
        whole = len(text.rstrip(_HALF))
        if whole == len(text):
            piece = text[self._said :]
            if piece:
                self._move(len(self._new), unsaid=0)
            elif len(self._new) >= _MOST_HELD:
                # Tokens without a text; the ones with the last text stay, to be read with what follows.
                self._new = []
            return piece
        is_long = len(self._new) >= _MOST_HELD
        if is_long:
            closed = len(self._detokenize([*self._before, *self._new[:-_MOST_OPEN]]))
            whole = max(whole, min(closed, len(text)))
        piece = text[self._said : whole]
        self._said = max(self._said, whole)
        if is_long:
            self._move(len(self._new) - _MOST_OPEN, unsaid=len(text) - self._said)
        return piece

    def end(self) -> str:
        """Return what was held back, for no token follows: half a character as the tokenizer tells it."""
        piece = self._text()[self._said :]
        self._said += len(piece)
        return piece

    def _text(self) -> str:
        return self._detokenize([*self._before, *self._new])

    def _move(self, count: int, unsaid: int) -> None:
        """Read what follows with so many of the new tokens before it."""
        self._before, self._new = self._new[:count], self._new[count:]
        self._said = len(self._text()) - unsaid
