"""llama.cpp: in this process through xllamacpp, or any `llama-server` by its URL.

A sequence is a slot of the server. Its state goes in and out as a slot file, which llama.cpp does not check:
a torn one ends the process, damaged bytes pass in silence. So only bytes whose checksum was right are written
for it, and what it says of itself is compared with the tokens it should hold.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lix_cache._log import logger
from lix_cache.errors import EngineBusy, EngineError
from lix_cache.kv.engine import NO_OPTIONS, Halt, Live, Made, Options
from lix_cache.kv.engines.llama_http import LlamaHttp, Told
from lix_cache.kv.engines.llama_identity import ServedModel, stamp_of
from lix_cache.kv.engines.llama_start import Started, started
from lix_cache.kv.engines.llama_trial import tried
from lix_cache.kv.engines.slot_files import SlotFolder, tokens_of
from lix_cache.kv.identity import Fingerprint, fingerprint_of
from lix_cache.kv.tensors import State, u8

__all__ = ["LlamaServerEngine"]


#: The server's seeds; the next number means by chance.
_SEEDS = (1 << 32) - 1


@dataclass
class _Sequence(Live):
    slot: int = -1


class LlamaServerEngine:
    """A `llama-server`, started with ``--slot-save-path`` and ``--slots``.

    Args:
        url: of the server.
        slot_folder: its ``--slot-save-path``, as this process sees it. Best in memory (``/dev/shm``).
        weights: any text that changes with its weights; it is mixed with what the server tells of itself.
            None reads the file that the server names, which must then be in reach.
        settings: what else changes its state, for people to tell them apart.
        api_key: of the server.
        timeout: seconds to wait for its next byte.
        server: one of this process. Any other may be started again with another model at any time, so it is
            asked which it serves before a state goes in, and after one came out.

    Raises:
        ConfigError: the weights cannot be told from others.
        EngineError: the server does not answer, or does not save slots.
    """

    exports: Literal["blocks", "snapshots"] = "snapshots"
    cuts = True
    is_serial = False

    def __init__(
        self,
        url: str,
        *,
        slot_folder: str | os.PathLike[str] | SlotFolder,
        weights: str | None = None,
        settings: Mapping[str, Any] | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,
        server: Started | None = None,
    ) -> None:
        self._http = LlamaHttp(url, api_key, timeout)
        self._server = server
        self._settings = json.loads(json.dumps(dict(settings or {}), default=str))
        self._served = ServedModel(self._http, weights, None if server is None else server.build)
        #: Held while the server is asked which model it serves.
        self._asking = threading.Lock()
        self._lock = threading.Lock()
        self._token_bytes = 0.0
        self.special_ids: frozenset[int] = frozenset()
        facts = self._served.facts()
        self.most_live = int(self._served.props["total_slots"])
        self._free = list(range(self.most_live))
        self.fingerprint: Fingerprint = fingerprint_of(facts)
        self._slots = (
            slot_folder if isinstance(slot_folder, SlotFolder) else SlotFolder(os.fspath(slot_folder))
        )
        self._state_bytes = self._probe()
        self._identify(facts)

    def _identify(self, facts: dict[str, Any]) -> None:
        props = self._served.props
        self.context_tokens = int(props["default_generation_settings"]["n_ctx"])
        self.start_ids = self._tokens("", special=True)
        self.fingerprint = fingerprint_of(
            {**facts, "state_bytes": self._state_bytes, "settings": self._settings, "exports": self.exports}
        )

    def look(self, slot: int | None = None) -> None:
        """Notice that the server serves another model than before: its fingerprint is another one then.

        Args:
            slot: a free one, to have it say something; what it holds is lost.
        """
        with self._asking:
            if self._served.is_same() and (slot is None or self._served.says_the_same(slot)):
                return
            before = self.fingerprint
            self._identify(self._served.facts(self.most_live))
            if self.fingerprint != before:
                logger.warning("the llama-server serves another model than before; its states are not used")

    @classmethod
    def load(
        cls,
        gguf: str | os.PathLike[str],
        *,
        context_tokens: int = 4096,
        slots: int = 4,
        threads: int | None = None,
        cache_type: str = "f16",
    ) -> LlamaServerEngine:
        """Start a server in this process, on a port of the loopback interface.

        Args:
            gguf: file of the model.
            context_tokens: the most tokens of a sequence.
            slots: how many sequences at once; each has memory for a whole context.
            threads: to compute with; None is llama.cpp's choice.
            cache_type: ``f16``, ``q8_0``, …, of the keys and values.
        """
        path = os.fspath(gguf)
        stamp = stamp_of(path)
        tried(path, context_tokens, slots, threads, cache_type)
        made = started(path, context_tokens, slots, threads, cache_type)
        try:
            engine = cls(
                made.server.listening_address,
                slot_folder=made.slots,
                settings={"cache_type": cache_type},
                api_key=made.key,
                server=made,
            )
            if stamp_of(path) != stamp:
                # Its digest may be that of the file that came, and its weights those of the one before.
                raise EngineError(f"{path!r} changed while it was loaded; load it again")
        except BaseException:
            Started.remove(made.homes)
            raise
        weakref.finalize(engine, Started.remove, made.homes)
        return engine

    # -- text --------------------------------------------------------------------------

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        reply: bool = True,
    ) -> str:
        body: dict[str, Any] = {"messages": [dict(one) for one in messages], "add_generation_prompt": reply}
        if tools:
            body["tools"] = list(tools)
        return str(self._http.post("/apply-template", body)["prompt"])

    def tokenize(self, text: str) -> list[int]:
        return self._tokens(text)

    def detokenize(self, ids: Sequence[int]) -> str:
        return str(self._http.post("/detokenize", {"tokens": list(ids)})["content"])

    # -- sequences ---------------------------------------------------------------------

    def begin(self) -> _Sequence:
        sequence = self._taken()
        try:
            # What another tenant left in it must not be found.
            self._http.post(f"/slots/{sequence.slot}?action=erase", {})
        except EngineError:
            self.release(sequence)
            raise
        return sequence

    def cut(self, live: Live, count: int) -> bool:
        # The server drops the rest itself when it sees the next prompt.
        del _ours(live).ids[count:]
        return True

    def prefill(self, live: Live, ids: Sequence[int], options: Options = NO_OPTIONS) -> None:
        sequence = _ours(live)
        self._begun(sequence)
        whole = [*sequence.ids, *ids]
        self._complete(sequence, whole, options.halt)
        sequence.ids[:] = whole
        self._weigh(sequence)

    def generate(self, live: Live, ids: Sequence[int], options: Options) -> Iterator[Made]:
        sequence = _ours(live)
        self._begun(sequence)
        prompt = [*sequence.ids, *ids]
        if len(prompt) >= self.context_tokens:
            raise EngineError(f"{len(prompt)} tokens, where {self.context_tokens} are the most")
        body = {**self._body(sequence, prompt), **_sampling(options), "stream": True}
        start, told = len(sequence.ids), Told(self._tokens)
        sequence.ids[:] = prompt
        try:
            with self._http.stream("/completion", body, options.halt) as events:
                last = yield from self._told(sequence, prompt, events, told)
        except EngineError:
            if not told.count:
                # How much of the prompt the slot holds is not known. This much it does.
                del sequence.ids[start:]
            elif options.is_halted:
                return
            raise
        finally:
            self._weigh(sequence)
        # The request is over, so the slot can be asked.
        made = told.end(last, lambda: tokens_of(self._saved(sequence))[len(prompt) :])
        sequence.ids[:] = [*prompt, *told.ids][: max(int(last.get("tokens_cached", 0)), len(prompt))]
        self._weigh(sequence)
        if made.ids or made.text or made.is_end or made.unnamed:
            yield made

    def _told(
        self, sequence: _Sequence, prompt: Sequence[int], events: Iterator[dict[str, Any]], told: Told
    ) -> Generator[Made, None, dict[str, Any]]:
        """Yield what a stream tells; return its last event."""
        for event in events:
            if not told.count:
                sequence.evaluated = len(prompt) - int(event["timings"]["cache_n"])
            if event.get("stop"):
                return event
            made = told.take(event)
            # The last one that was made is not in the state yet.
            sequence.ids.extend(told.ids[len(sequence.ids) - len(prompt) : -1])
            yield made
        raise EngineError("the server ended a reply before its end")

    def export(self, live: Live, first: int, end: int) -> State:
        sequence = _ours(live)
        if (first, end) != (0, len(sequence.ids)):
            raise EngineError("the state of a slot can only be exported whole")
        data = self._saved(sequence)
        if tokens_of(data) != sequence.ids:
            # It went further than it was asked to, or was cut: a prompt of these tokens sets it right.
            self._complete(sequence, sequence.ids)
            data = self._saved(sequence)
            if tokens_of(data) != sequence.ids:
                raise EngineError("the server saved a slot with other tokens than it was given")
        self.look()
        if sequence.fingerprint != self.fingerprint:
            raise EngineError("the server serves another model than the one that computed this state")
        self._token_bytes = len(data) / max(1, end)
        self._weigh(sequence)
        return {"slot": u8(data)}

    def restore(self, states: Sequence[State], ids: Sequence[int]) -> _Sequence:
        state = states[0]
        if state.keys() != {"slot"} or tokens_of(state["slot"].view) != list(ids):
            raise EngineError("a state that is no slot of these tokens")
        before = self.fingerprint
        # What was in the slot is replaced, or the slot given back.
        sequence = self._taken()
        path = ""
        try:
            # Some tokens are computed, where as many as the state has are spared.
            self.look(sequence.slot)
            if self.fingerprint != before:
                raise EngineError("the server serves another model than before")
            path = self._slots.put(state["slot"].view)
            name = os.path.basename(path)
            answer = self._http.post(f"/slots/{sequence.slot}?action=restore", {"filename": name})
            if answer.get("n_restored") != len(ids):
                raise EngineError("the server restored another number of tokens")
            self.look()
            if self.fingerprint != before:
                self._http.post(f"/slots/{sequence.slot}?action=erase", {})
                raise EngineError("the server serves another model than before")
        except BaseException as error:
            self.release(sequence)
            if isinstance(error, OSError):
                raise EngineError(f"a slot file cannot be written: {error.strerror}") from error
            raise
        finally:
            self._slots.remove(path)
        sequence.ids[:] = ids
        self._token_bytes = state["slot"].size / max(1, len(ids))
        self._weigh(sequence)
        return sequence

    def release(self, live: Live) -> None:
        sequence = live if isinstance(live, _Sequence) else _Sequence()
        slot, sequence.slot = sequence.slot, -1
        sequence.ids.clear()
        sequence.size = 0
        if slot >= 0:
            self._give_back(slot)

    def close(self) -> None:
        # A server of this process ends with its last reference; one at a URL is not ours to end.
        self._server = None
        self._slots.close()

    # -- steps -------------------------------------------------------------------------

    def _begun(self, sequence: _Sequence) -> None:
        """Have a sequence be one of the model that is served: the server is given all of its tokens."""
        self.look()
        if sequence.fingerprint != self.fingerprint:
            sequence.fingerprint = self.fingerprint
            sequence.snapshots.clear()

    def _taken(self) -> _Sequence:
        with self._lock:
            if not self._free:
                raise EngineBusy(f"all {self.most_live} slots of the server are busy; try again")
            return _Sequence(slot=self._free.pop(), fingerprint=self.fingerprint)

    def _give_back(self, slot: int) -> None:
        with self._lock:
            self._free.append(slot)

    def _probe(self) -> int:
        """Return the bytes of a small state: they tell geometry and types of the cache."""
        sequence = self.begin()
        try:
            self.prefill(sequence, [1, 2, 3, 4])
            size = len(self._saved(sequence))
            # More than a token takes, for what is of no token is counted too.
            self._token_bytes = size / 4
            return size
        finally:
            self.release(sequence)

    def _weigh(self, sequence: _Sequence) -> None:
        sequence.size = int(self._token_bytes * len(sequence.ids))

    def _body(self, sequence: _Sequence, prompt: Sequence[int]) -> dict[str, Any]:
        return {
            "prompt": list(prompt),
            "id_slot": sequence.slot,
            "cache_prompt": True,
            # Shifted state is not that of its tokens.
            "n_cache_reuse": 0,
            "return_tokens": True,
            "timings_per_token": True,
        }

    def _complete(self, sequence: _Sequence, prompt: Sequence[int], halt: Halt | None = None) -> None:
        """Have a slot hold the state of a prompt."""
        self._http.post(
            "/completion", {**self._body(sequence, prompt), "n_predict": 0, "stream": False}, halt
        )

    def _saved(self, sequence: _Sequence) -> bytes:
        path, is_over = "", False
        try:
            path = self._slots.new(int(1.1 * self._token_bytes * len(sequence.ids)) + (1 << 20))
            name = os.path.basename(path)
            answer = self._http.post(f"/slots/{sequence.slot}?action=save", {"filename": name})
            is_over = True
            return self._slots.taken(path, answer.get("n_written"))
        except OSError as error:
            raise EngineError(f"a slot file cannot be read: {error.strerror}") from error
        finally:
            self._slots.remove(path, again=not is_over)

    def _tokens(self, text: str, *, special: bool = False) -> list[int]:
        body = {"content": text, "add_special": special, "parse_special": True}
        return [int(one) for one in self._http.post("/tokenize", body)["tokens"]]


def _sampling(options: Options) -> dict[str, Any]:
    """Return how to choose tokens, whatever the server was started with: as other engines do, and no more."""
    return {
        "n_predict": options.max_tokens,
        "samplers": ["temperature", "top_p"],
        "temperature": options.temperature,
        "top_p": options.top_p,
        "min_keep": 0,
        "dynatemp_range": 0.0,
        "mirostat": 0,
        "ignore_eos": False,
        "logit_bias": [],
        "grammar": "",
        # -1 is by chance.
        "seed": -1 if options.seed is None else options.seed % _SEEDS,
    }


def _ours(live: Live) -> _Sequence:
    if not isinstance(live, _Sequence) or live.slot < 0:
        raise EngineError("a sequence of another engine, or one that was let go")
    return live
