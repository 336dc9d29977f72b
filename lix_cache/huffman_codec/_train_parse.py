"""Training, step 2: the cheapest parse of all pieces at once, by dynamic programming.

Column by column: the matches of one length that begin in a column are tried for all
pieces in one operation. Costs are integers, so a sum does not depend on its order.
"""

from __future__ import annotations

from typing import Any

__all__ = ["UNIT", "Parser"]

#: Costs are in this part of a bit.
UNIT = 1024
_FAR = 1 << 30


class Parser:
    """Parses the same pieces again and again with other costs.

    Args:
        sizes: the length of each piece, never ascending.
        piece: the piece of each match.
        column: where in the piece it begins.
        length: how long it is.
        phrase: of which phrase it is.
    """

    def __init__(self, sizes: Any, piece: Any, column: Any, length: Any, phrase: Any) -> None:
        import numpy as np

        self._sizes = sizes.astype(np.int64)
        # A column is less than 512 and a length less than 128: numpy sorts 16 bits by radix.
        key = (column << 7 | length).astype(np.uint16)
        order = np.argsort(key, kind="stable")
        self._arrange(key[order], piece[order].astype(np.int32), phrase[order].astype(np.int32))

    def _arrange(self, key: Any, piece: Any, phrase: Any) -> None:
        import numpy as np

        self._key = key
        self._piece = piece
        self._phrase = phrase
        self._length = (key & 127).astype(np.int16)
        self._source = (key >> 7).astype(np.int32) * np.int32(len(self._sizes)) + piece
        heads = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
        self._bounds = [*heads.tolist(), len(key)] if len(key) else [0]

    def keep(self, phrases: Any) -> None:
        """Forget the matches of the phrases for which the array says false."""
        kept = phrases[self._phrase]
        self._arrange(self._key[kept], self._piece[kept], self._phrase[kept])

    def parse(self, costs: Any, fold: Any) -> tuple[Any, Any, Any]:
        """Find the cheapest parses.

        Args:
            costs: for each phrase, one cost for each fold.
            fold: which cost each piece pays.

        Returns:
            The cost of each piece; and of every phrase used, its piece and its number.
        """
        import numpy as np

        pieces = len(self._sizes)
        width = int(self._sizes[0]) if pieces else 0
        folds = costs.shape[1]
        price = costs.astype(np.int32).ravel()
        fold = fold.astype(np.int32)
        best = np.full((width + 1) * pieces, _FAR, dtype=np.int32)
        best[:pieces] = 0
        back = np.zeros((width + 1) * pieces, dtype=np.int32)
        for begin, end in zip(self._bounds[:-1], self._bounds[1:], strict=True):
            source = self._source[begin:end]
            target = source + pieces * int(self._length[begin])
            cost = best[source] + price[self._phrase[begin:end] * folds + fold[self._piece[begin:end]]]
            better = np.flatnonzero(cost < best[target])
            target = target[better]
            best[target] = cost[better]
            back[target] = begin + better
        piece = np.arange(pieces)
        at = self._sizes
        total = best[at * pieces + piece]
        pieces_used, phrases_used = [piece[:0]], [self._phrase[:0]]
        while len(piece):
            match = back[at * pieces + piece]
            pieces_used.append(piece)
            phrases_used.append(self._phrase[match])
            at = at - self._length[match]
            piece, at = piece[at > 0], at[at > 0]
        return total, np.concatenate(pieces_used), np.concatenate(phrases_used)
