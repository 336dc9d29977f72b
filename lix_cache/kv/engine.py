"""What the store needs of an engine: tokens, an identity, and the state of a sequence out and in again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from lix_cache.errors import ConfigError
from lix_cache.kv.halting import Halt
from lix_cache.kv.identity import Fingerprint
from lix_cache.kv.tensors import State

__all__ = ["NO_OPTIONS", "Engine", "Halt", "Live", "Made", "Options", "model_folder"]


@dataclass(frozen=True)
class Options:
    """How to choose tokens.

    Attributes:
        max_tokens: the most to make.
        temperature: 0 is greedy.
        top_p: share of the probability to choose from.
        seed: of the choice; None is by chance.
        halt: ends it before its end.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    halt: Halt | None = field(default=None, compare=False, repr=False)

    @property
    def is_halted(self) -> bool:
        return self.halt is not None and self.halt.is_set


NO_OPTIONS = Options()


@dataclass(frozen=True)
class Made:
    """What one step of a generation made.

    Attributes:
        ids: its tokens; several where they are one character together.
        text: what is whole with them: never half a character, unless no more tokens come.
        is_end: whether the model ended its reply with it.
        unnamed: tokens that were made and whose numbers are not known; they count all the same.
    """

    ids: Sequence[int]
    text: str = ""
    is_end: bool = False
    unnamed: int = 0


@dataclass
class Live:
    """A sequence whose state an engine holds. Engines add what is theirs.

    Attributes:
        ids: the tokens that are in the state.
        size: bytes of the state.
        evaluated: prompt tokens that the last call of ``generate`` computed; the others were there.
        snapshots: states of beginnings of it, by number of tokens, taken while they were passed.
        fingerprint: of the model that computed it, where an engine notices that its model is changed.
    """

    ids: list[int] = field(default_factory=list, repr=False)
    size: int = 0
    evaluated: int = 0
    snapshots: dict[int, State] = field(default_factory=dict, repr=False)
    fingerprint: Fingerprint | None = None


class Engine(Protocol):
    """A model that is loaded. Its methods raise EngineError where it cannot do what is asked.

    Attributes:
        fingerprint: everything that changes what its state means. Another one, if the engine notices that
            its model was changed: then no state of the one before is exported, or gone on from.
        exports: ``blocks`` if any range of tokens can be exported; ``snapshots`` if only a whole state can,
            at the place where it stands.
        cuts: whether a sequence can be cut at any place; one that exports blocks can.
        context_tokens: the most tokens of a sequence.
        most_live: how many sequences it can hold at once.
        is_serial: whether two sequences must not be computed at once.
        start_ids: tokens before every rendered prompt.
        special_ids: tokens that ``detokenize`` leaves out.
    """

    @property
    def fingerprint(self) -> Fingerprint: ...
    @property
    def exports(self) -> Literal["blocks", "snapshots"]: ...
    @property
    def cuts(self) -> bool: ...
    @property
    def context_tokens(self) -> int: ...
    @property
    def most_live(self) -> int: ...
    @property
    def is_serial(self) -> bool: ...
    @property
    def start_ids(self) -> Sequence[int]: ...
    @property
    def special_ids(self) -> frozenset[int]: ...

    def look(self) -> None:
        """Notice whether the model was changed. Called before a state is looked for."""
        ...

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        reply: bool = True,
    ) -> str:
        """Return messages as the model's chat template writes them; with ``reply``, up to its answer."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Return rendered text as tokens; marks of the template become their tokens."""
        ...

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return tokens of a reply as text."""
        ...

    def begin(self) -> Live:
        """Return an empty sequence."""
        ...

    def cut(self, live: Live, count: int) -> bool:
        """Forget all but the first tokens of a sequence; False if this one cannot."""
        ...

    def prefill(self, live: Live, ids: Sequence[int], options: Options = NO_OPTIONS) -> None:
        """Compute the state of more tokens.

        Halted meanwhile, it raises EngineError, and the sequence holds what it did compute, or less.
        """
        ...

    def generate(self, live: Live, ids: Sequence[int], options: Options) -> Iterator[Made]:
        """Compute the state of more tokens, at least one, and yield what the model makes of them.

        The last token that it yields is not in the state. Halted while it computes the prompt, it raises
        EngineError, and the sequence holds what it did compute, or less.
        """
        ...

    def export(self, live: Live, first: int, end: int) -> State:
        """Return the state of a range of tokens; of an engine of snapshots, the whole."""
        ...

    def restore(self, states: Sequence[State], ids: Sequence[int]) -> Live:
        """Return a sequence with the states of its blocks and tail, or of its snapshot."""
        ...

    def release(self, live: Live) -> None:
        """Let go of a sequence."""
        ...

    def close(self) -> None:
        """Let go of the model. No sequence is used after that."""
        ...


def model_folder(folder: str | os.PathLike[str]) -> str:
    """Return the path of a model's folder. A library that is given no folder asks a hub for the name.

    Raises:
        ConfigError: there is none.
    """
    path = os.path.expanduser(os.fspath(folder))
    if not os.path.isdir(path):
        raise ConfigError(f"there is no model folder {path!r}; nothing is downloaded: fetch the model first")
    return path
