"""An engine whose state is a running hash: what it says next depends on every token before.

A state that is not that of its tokens gives other replies, so a wrong restore cannot go unnoticed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lix_cache.errors import EngineBusy, EngineError
from lix_cache.kv.engine import NO_OPTIONS, Live, Made, Options
from lix_cache.kv.identity import fingerprint_of
from lix_cache.kv.tensors import State, Tensor

__all__ = ["ToyEngine"]

_END = 0


@dataclass
class _Sequence(Live):
    hashes: list[int] = field(default_factory=list)
    is_held: bool = True


class ToyEngine:
    """Tokens are the bytes of the text.

    Args:
        exports: as of the protocol.
        most_live: how many sequences it holds; one more is an error.
        weights: another number is another model.
        cuts: whether a sequence can be cut; only where it exports snapshots.
    """

    start_ids: Sequence[int] = (1,)
    special_ids = frozenset([_END, 1])
    context_tokens = 4096

    def __init__(
        self,
        exports: Literal["blocks", "snapshots"] = "blocks",
        *,
        most_live: int = 4,
        weights: int = 1,
        serial: bool = True,
        cuts: bool = True,
    ) -> None:
        self.exports = exports
        self.most_live = most_live
        self.is_serial = serial
        self.fingerprint = fingerprint_of({"engine": "toy", "weights": weights, "exports": exports})
        self.evaluated = 0
        self.live = 0
        self.is_closed = False
        self._weights = weights
        self.cuts = cuts
        self._lock = threading.Lock()

    def look(self) -> None:
        pass

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        reply: bool = True,
    ) -> str:
        text = "".join(f"<{one['role']}>{one['content']}\n" for one in messages)
        return text + ("<assistant>" if reply else "")

    def tokenize(self, text: str) -> list[int]:
        return [one + 2 for one in text.encode()]

    def detokenize(self, ids: Sequence[int]) -> str:
        return bytes(one - 2 for one in ids if one > 1).decode("utf-8", "replace")

    def begin(self) -> _Sequence:
        with self._lock:
            if self.live >= self.most_live:
                raise EngineBusy("no slot is free")
            self.live += 1
        return _Sequence()

    def cut(self, live: Live, count: int) -> bool:
        sequence = self._ours(live)
        if self.exports == "snapshots" and not self.cuts:
            return count == len(live.ids)
        del sequence.ids[count:], sequence.hashes[count:]
        return True

    def prefill(self, live: Live, ids: Sequence[int], options: Options = NO_OPTIONS) -> None:
        sequence = self._ours(live)
        if options.is_halted:
            raise EngineError("halted")
        for one in ids:
            before = sequence.hashes[-1] if sequence.hashes else self._weights
            sequence.hashes.append((before * 6364136223846793005 + one + 1) % (1 << 63))
            sequence.ids.append(int(one))
        self.evaluated += len(ids)
        sequence.size = 8 * len(sequence.ids)

    def generate(self, live: Live, ids: Sequence[int], options: Options) -> Iterator[Made]:
        sequence = self._ours(live)
        if not ids:
            raise AssertionError("at least one token is computed")
        live.evaluated = len(ids)
        self.prefill(live, ids, options)
        for number in range(options.max_tokens):
            chosen = sequence.hashes[-1] >> 32
            token = _END if chosen % 40 == 0 else 2 + 97 + chosen % 26
            is_end = token == _END
            yield Made((token,), "" if is_end else self.detokenize([token]), is_end)
            if is_end or number + 1 == options.max_tokens:
                return
            self.prefill(live, [token])

    def export(self, live: Live, first: int, end: int) -> State:
        sequence = self._ours(live)
        if len(sequence.hashes) != len(sequence.ids) or end > len(sequence.ids):
            raise AssertionError("a range that is not there")
        if self.exports == "snapshots":
            if (first, end) != (0, len(sequence.ids)):
                raise EngineError("only whole")
            kept = sequence.hashes if self.cuts else sequence.hashes[-1:]
            return {"all": Tensor("U64", (len(kept),), np.array(kept, "<u8").tobytes())}
        rows = np.array(sequence.hashes[first:end], "<u8")
        return {"0.k": Tensor("U64", (1, len(rows), 1), rows.tobytes())}

    def restore(self, states: Sequence[State], ids: Sequence[int]) -> _Sequence:
        if self.exports == "snapshots":
            rows = states[0]["all"].array("<u8").ravel()
            hashes = [int(one) for one in rows] if self.cuts else [-1] * (len(ids) - 1) + [int(rows[-1])]
        else:
            hashes = [int(one) for state in states for one in state["0.k"].array("<u8").ravel()]
        if len(hashes) != len(ids):
            raise EngineError("a state of other tokens")
        made = self.begin()
        made.ids[:], made.hashes[:] = ids, hashes
        made.size = 8 * len(hashes)
        return made

    def release(self, live: Live) -> None:
        if isinstance(live, _Sequence) and live.is_held:
            live.is_held = False
            live.ids.clear()
            with self._lock:
                self.live -= 1

    def close(self) -> None:
        self.is_closed = True

    def _ours(self, live: Live) -> _Sequence:
        if not isinstance(live, _Sequence) or not live.is_held:
            raise AssertionError("a sequence that was let go is used")
        return live
