"""What engines that hold a model and its caches in this process share: all but arrays and kinds of layers."""

from __future__ import annotations

import gc
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lix_cache.errors import EngineError
from lix_cache.kv.engine import NO_OPTIONS, Live, Made, Options
from lix_cache.kv.engines.text_of import TextOf
from lix_cache.kv.identity import Fingerprint, fingerprint_of
from lix_cache.kv.tensors import State, Tensor

__all__ = ["CachedSequence", "InProcessEngine"]

#: Tokens of a prompt that are computed at a time.
_CHUNK = 512


@dataclass
class CachedSequence(Live):
    """A sequence and the library's cache of it, None when it was let go."""

    cache: Any = None


class InProcessEngine(ABC):
    """A model in this process: one sequence is computed at a time, and any number up to ``most_live`` held.

    A subclass sets the attributes of :class:`~lix_cache.kv.engine.Engine` and the two below.

    Attributes:
        _model, _tokenizer: of the library.
    """

    is_serial = True

    exports: Literal["blocks", "snapshots"]
    cuts: bool
    context_tokens: int
    end_ids: frozenset[int]
    fingerprint: Fingerprint
    _model: Any
    _tokenizer: Any

    def __init__(self) -> None:
        #: Held while it is looked whether the model was changed.
        self._looking = threading.Lock()
        self._seen: Any = None

    def look(self) -> None:
        """Notice that the model was changed, by another adapter for one: then its fingerprint is another."""
        with self._looking:
            if self._model is None:
                return  # a reply that ends behind its model
            seen = self._signs()
            if seen != self._seen:
                self.fingerprint = fingerprint_of(self._facts())
                self._seen = seen

    # -- text --------------------------------------------------------------------------

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        reply: bool = True,
    ) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=list(tools) if tools else None,
                add_generation_prompt=reply,
                tokenize=False,
            )
        except Exception as error:  # a template raises what it likes
            raise EngineError(f"the chat template refuses these messages ({type(error).__name__})") from error
        return str(text)

    @abstractmethod
    def detokenize(self, ids: Sequence[int]) -> str: ...

    # -- sequences ---------------------------------------------------------------------

    def begin(self) -> CachedSequence:
        return CachedSequence(cache=self._new_cache(), fingerprint=self.fingerprint)

    def cut(self, live: Live, count: int) -> bool:
        sequence = _ours(live)
        if self.exports != "blocks":
            return count == len(live.ids)
        self._cut(sequence, count)
        del live.ids[count:]
        self._weigh(sequence)
        return True

    def prefill(self, live: Live, ids: Sequence[int], options: Options = NO_OPTIONS) -> None:
        sequence = _ours(live)
        self._feed(sequence, self._due(sequence, ids), options)

    def generate(self, live: Live, ids: Sequence[int], options: Options) -> Iterator[Made]:
        sequence = _ours(live)
        ids = self._due(sequence, ids)
        live.evaluated = len(ids)
        try:
            yield from self._generated(sequence, ids, options)
        finally:
            self.look()
            if sequence.fingerprint != self.fingerprint:
                # Some of it is of one model and some of another.
                self._empty(sequence)

    def _generated(self, sequence: CachedSequence, ids: Sequence[int], options: Options) -> Iterator[Made]:
        logits = self._feed(sequence, ids, options)
        choose, text = self._chooser(options), TextOf(self.detokenize)
        for number in range(options.max_tokens):
            token = choose(logits)
            if token in self.end_ids:
                yield Made((token,), text.end(), is_end=True)
                return
            is_last = number + 1 == options.max_tokens or len(sequence.ids) >= self.context_tokens
            yield Made((token,), text.feed(token) + (text.end() if is_last else ""))
            if is_last or options.is_halted:
                return
            logits = self._feed(sequence, [token])

    def export(self, live: Live, first: int, end: int) -> State:
        sequence = _ours(live)
        if self.exports == "snapshots":
            if (first, end) != (0, len(live.ids)):
                raise EngineError("a state with windows or recurrent layers can only be exported whole")
            return self._snapshot(sequence)
        return {name: self._exported(half[0, :, first:end]) for name, half in self._halves(sequence)}

    def restore(self, states: Sequence[State], ids: Sequence[int]) -> CachedSequence:
        before = self.fingerprint
        self.look()
        if self.fingerprint != before:
            raise EngineError("the model was changed since this state was looked for")
        sequence = CachedSequence(list(ids), cache=self._new_cache(), fingerprint=before)
        try:
            if self.exports == "snapshots":
                self._restore_snapshot(sequence, states[0])
            else:
                self._restore_blocks(sequence, states)
        except (KeyError, ValueError, RuntimeError, IndexError, TypeError) as error:
            raise EngineError(f"a state does not fit this model ({type(error).__name__})") from error
        if self._lengths(sequence) - {len(ids)}:
            raise EngineError("a state is of another number of tokens than it says")
        self._weigh(sequence)
        return sequence

    def release(self, live: Live) -> None:
        if isinstance(live, CachedSequence):
            live.cache = None
        live.ids.clear()
        live.size = 0

    def close(self) -> None:
        self._model = self._tokenizer = None
        # Modules refer to each other in circles, and the next model needs the memory now.
        gc.collect()

    # -- steps -------------------------------------------------------------------------

    def _due(self, sequence: CachedSequence, ids: Sequence[int]) -> Sequence[int]:
        """Return the tokens that have to be computed: all, where another model computed those before."""
        self.look()
        if sequence.fingerprint != self.fingerprint:
            ids = [*sequence.ids, *ids]
            self._empty(sequence)
        return ids

    def _empty(self, sequence: CachedSequence) -> None:
        sequence.cache = self._new_cache()
        sequence.ids.clear()
        sequence.snapshots.clear()
        sequence.fingerprint = self.fingerprint
        self._weigh(sequence)

    def _feed(self, sequence: CachedSequence, ids: Sequence[int], options: Options = NO_OPTIONS) -> Any:
        """Compute the state of more tokens; return the scores behind the last."""
        count = len(sequence.ids) + len(ids)
        if not ids or count > self.context_tokens:
            raise EngineError(f"{count} tokens, where 1 to {self.context_tokens} are possible")
        logits = None
        for start in range(0, len(ids), _CHUNK):
            if options.is_halted:
                raise EngineError("the generation was halted")
            chunk = list(ids[start : start + _CHUNK])
            try:
                logits = self._step(sequence, chunk)
            except BaseException as error:
                # Some layers have the tokens and some have not: nothing of it can be gone on from.
                self._empty(sequence)
                if isinstance(error, Exception):
                    raise EngineError(f"the model failed ({type(error).__name__})") from error
                raise
            sequence.ids.extend(chunk)
        self._weigh(sequence)
        return logits

    def _weigh(self, sequence: CachedSequence) -> None:
        sequence.size = sum(array.nbytes for array in self._arrays(sequence))

    # -- what differs ------------------------------------------------------------------

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """Return everything that changes what a state means."""

    @abstractmethod
    def _signs(self) -> Any:
        """Return what is another when weights or adapters are: cheap, for it is asked at every call."""

    @abstractmethod
    def _new_cache(self) -> Any: ...

    @abstractmethod
    def _step(self, sequence: CachedSequence, ids: list[int]) -> Any:
        """Run the model over tokens; return the scores behind the last."""

    @abstractmethod
    def _chooser(self, options: Options) -> Callable[[Any], int]:
        """Return what makes a token of scores."""

    @abstractmethod
    def _cut(self, sequence: CachedSequence, count: int) -> None:
        """Cut every layer of a state that exports blocks."""

    @abstractmethod
    def _halves(self, sequence: CachedSequence) -> Iterable[tuple[str, Any]]:
        """Yield name and array of the keys and of the values of every layer."""

    @abstractmethod
    def _arrays(self, sequence: CachedSequence) -> Iterable[Any]:
        """Yield every array of a state."""

    @abstractmethod
    def _lengths(self, sequence: CachedSequence) -> set[int]:
        """Return how many tokens the layers that know it say they hold."""

    @abstractmethod
    def _exported(self, array: Any) -> Tensor: ...

    @abstractmethod
    def _snapshot(self, sequence: CachedSequence) -> State: ...

    @abstractmethod
    def _restore_blocks(self, sequence: CachedSequence, states: Sequence[State]) -> None: ...

    @abstractmethod
    def _restore_snapshot(self, sequence: CachedSequence, state: State) -> None: ...


def _ours(live: Live) -> CachedSequence:
    if not isinstance(live, CachedSequence) or live.cache is None:
        raise EngineError("a sequence of another engine, or one that was let go")
    return live
