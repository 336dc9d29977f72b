"""A reply while it is made: an iterator of text, with what it cost when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lix_cache.kv.engine import Made
from lix_cache.kv.miss import Miss

__all__ = ["Reply", "Usage"]


@dataclass(frozen=True)
class Usage:
    """Tokens of a call.

    Attributes:
        prompt_tokens: of the prompt.
        cached_tokens: those of them that were not computed.
        completion_tokens: that were made, the one that ends the reply included.
        source: where the cached ones came from: ``memory``, ``disk``, or ``none``.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    source: Literal["memory", "disk", "none"] = "none"


class Reply(Iterator[str]):
    """Pieces of text, as they are made. Iterate to the end, or :meth:`close` it.

    Attributes:
        session: that it belongs to; give it with the next call to go on.
        usage: of the call; of the prompt it is known with the first token, whole when the iteration is over.
        miss: why the prompt was not known, or None.
        ids: the tokens that were made, as far as they are known by their numbers.
        count: how many tokens were made.
        finish_reason: ``stop`` or ``length``; None before the end.
        stopped_by: the stop text that ended it, if one did.
        prompt: the tokens that it answers.
    """

    def __init__(
        self,
        session: str,
        usage: Usage,
        miss: Miss | None,
        made: Iterator[Made],
        stop: Sequence[str],
        over: Callable[[Reply], None],
        computed: Callable[[], int] = lambda: 0,
        prompt: Sequence[int] = (),
    ) -> None:
        self.session = session
        self.usage = usage
        self.miss = miss
        self.ids: list[int] = []
        self.count = 0
        self.finish_reason: Literal["stop", "length"] | None = None
        self.stopped_by: str | None = None
        self.prompt = prompt
        self._computed = computed
        self._made = made
        self._stop = tuple(text for text in stop if text)
        self._over: Callable[[Reply], None] | None = over
        self._pieces: list[str] = []
        #: Text that may be the beginning of a stop text. So a stop text begins nowhere but in it.
        self._held = ""

    @property
    def text(self) -> str:
        """What was made so far."""
        return "".join(self._pieces) + self._held

    def __next__(self) -> str:
        while self._over is not None:
            try:
                piece = self._next()
            except BaseException:
                self.close()
                raise
            if piece:
                return piece
        raise StopIteration

    def all(self) -> str:
        """Return the whole reply."""
        for _ in self:
            pass
        return self.text

    def close(self) -> None:
        """Stop making it. What was made is kept, in the session's state as well."""
        over, self._over = self._over, None
        if over is not None:
            close = getattr(self._made, "close", None)
            try:
                if close is not None:
                    close()
            finally:
                over(self)

    def __del__(self) -> None:
        self.close()

    def _next(self) -> str:
        made = next(self._made, None)
        if made is None:
            self.finish_reason = "length"
            return self._end()
        if not self.count:
            # Now the engine has counted what it computed of the prompt.
            cached = max(0, self.usage.prompt_tokens - self._computed())
            self.usage = replace(
                self.usage, cached_tokens=cached, source=self.usage.source if cached else "none"
            )
        self.ids.extend(made.ids)
        self.count += len(made.ids) + made.unnamed
        self._held += made.text
        found = [(at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            cut, self.stopped_by = min(found)
            self._held = self._held[:cut]
        if found or made.is_end:
            self.finish_reason = "stop"
            return self._end()
        return self._ready()

    def _ready(self) -> str:
        end = len(self._held)
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(self._held)), 0, -1):
                if self._held.endswith(stop[:size]):
                    end = min(end, len(self._held) - size)
                    break
        return self._said(end)

    def _said(self, end: int) -> str:
        piece, self._held = self._held[:end], self._held[end:]
        if piece:
            self._pieces.append(piece)
        return piece

    def _end(self) -> str:
        piece = self._said(len(self._held))
        self.close()
        return piece
