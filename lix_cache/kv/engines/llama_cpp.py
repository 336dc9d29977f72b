"""llama.cpp: in this process through xllamacpp, or any `llama-server` by its URL.

A sequence is a slot of the server. Its state goes in and out as a slot file, which llama.cpp does not check:
a torn one ends the process, damaged bytes pass in silence. So only bytes whose checksum was right are written
for it, and what it says of itself is compared with the tokens it should hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import socket
import threading
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

from lix_cache.errors import ConfigError, EngineBusy, EngineError, MissingExtra
from lix_cache.kv.engine import Halt, Live, Options
from lix_cache.kv.engines.slot_files import (
    events,
    file_digest,
    new_slot_folder,
    private,
    set_up,
    tokens_of,
)
from lix_cache.kv.identity import Fingerprint, fingerprint_of
from lix_cache.kv.tensors import State, u8
from lix_cache.storage.locks import FileLock

__all__ = ["LlamaServerEngine"]


@dataclass
class _Sequence(Live):
    slot: int = -1


class LlamaServerEngine:
    """A `llama-server`, started with ``--slot-save-path`` and ``--slots``.

    Args:
        url: of the server.
        slot_folder: its ``--slot-save-path``, as this process sees it. Best in memory (``/dev/shm``).
        weights: digest of its weights, or any text that changes with them. None reads the file that the
            server names, which must then be in reach.
        settings: what else changes its state and cannot be asked of it: types of the cache, rope, adapters.
        api_key: of the server.
        timeout: seconds to wait for its next byte.

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
        slot_folder: str | os.PathLike[str],
        weights: str | None = None,
        settings: Mapping[str, Any] | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,
    ) -> None:
        self._url = urlsplit(url)
        self._folder = os.fspath(slot_folder)
        self._timeout = timeout
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        props = self._get("/props")
        self.most_live = int(props["total_slots"])
        self.context_tokens = int(props["default_generation_settings"]["n_ctx"])
        self._free = list(range(self.most_live))
        self._lock = threading.Lock()
        self._token_bytes = 0.0
        self._server: Any = None
        #: Of the folder, where it was made for this server.
        self._in_use: FileLock | None = None
        self.start_ids = self._tokens("", special=True)
        end = str(props.get("eos_token") or "")
        self.end_ids = frozenset(self._tokens(end)) if end else frozenset()
        self.special_ids: frozenset[int] = frozenset()
        if weights is None:
            weights = file_digest(str(props.get("model_path") or ""))
        self.fingerprint: Fingerprint = fingerprint_of(
            {
                "engine": "llama.cpp",
                "engine_version": str(props.get("build_info")),
                "weights": weights,
                "chat_template": hashlib.sha256(str(props.get("chat_template")).encode()).hexdigest(),
                "state_bytes": self._probe(),
                "settings": json.loads(json.dumps(dict(settings or {}), default=str)),
                "exports": self.exports,
            }
        )

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
        try:
            import xllamacpp
        except ImportError:
            raise MissingExtra("xllamacpp", "llama-cpp", "LlamaServerEngine.load") from None
        kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{cache_type.upper()}", None)
        if kind is None:
            raise ConfigError(f"llama.cpp has no cache type {cache_type!r}")
        folder, lock = new_slot_folder()
        parameters = xllamacpp.CommonParams()
        set_up(parameters, os.fspath(gguf), folder, context_tokens, slots)
        parameters.cache_type_k = parameters.cache_type_v = kind
        if threads is not None:
            parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        try:
            try:
                server = xllamacpp.Server(parameters)
            except Exception as error:
                raise EngineError(f"llama.cpp cannot load {os.fspath(gguf)!r}: {error}") from error
            engine = cls(
                server.listening_address,
                slot_folder=folder,
                weights=file_digest(os.fspath(gguf)),
                settings={"cache_type": cache_type, "xllamacpp": xllamacpp.BUILD_INFO},
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
            raise
        engine._server, engine._in_use = server, lock
        weakref.finalize(engine, shutil.rmtree, folder, ignore_errors=True)
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
        return str(self._post("/apply-template", body)["prompt"])

    def tokenize(self, text: str) -> list[int]:
        return self._tokens(text)

    def detokenize(self, ids: Sequence[int]) -> str:
        return str(self._post("/detokenize", {"tokens": list(ids)})["content"])

    # -- sequences ---------------------------------------------------------------------

    def begin(self) -> _Sequence:
        sequence = self._taken()
        try:
            # What another tenant left in it must not be found.
            self._post(f"/slots/{sequence.slot}?action=erase", {})
        except EngineError:
            self.release(sequence)
            raise
        return sequence

    def cut(self, live: Live, count: int) -> bool:
        # The server drops the rest itself when it sees the next prompt.
        del _ours(live).ids[count:]
        return True

    def prefill(self, live: Live, ids: Sequence[int]) -> None:
        sequence = _ours(live)
        whole = [*sequence.ids, *ids]
        self._complete(sequence, whole, {"n_predict": 0, "stream": False})
        sequence.ids[:] = whole
        self._weigh(sequence)

    def generate(self, live: Live, ids: Sequence[int], options: Options) -> Iterator[int]:
        sequence = _ours(live)
        prompt = [*sequence.ids, *ids]
        if len(prompt) >= self.context_tokens:
            raise EngineError(f"{len(prompt)} tokens, where {self.context_tokens} are the most")
        body = {
            "prompt": prompt,
            "id_slot": sequence.slot,
            "cache_prompt": True,
            "n_predict": options.max_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "stream": True,
            "return_tokens": True,
            "timings_per_token": True,
        }
        if options.seed is not None:
            body["seed"] = options.seed
        start = len(sequence.ids)
        sequence.ids[:] = prompt
        made: list[int] = []
        try:
            with self._request("POST", "/completion", body, options.halt) as response:
                for event in events(response):
                    if event.get("stop"):
                        held = int(event.get("tokens_cached", 0))
                        sequence.ids[:] = [*prompt, *made][: max(held, len(prompt))]
                        return
                    if not made:
                        sequence.evaluated = len(prompt) - int(event["timings"]["cache_n"])
                    for token in event["tokens"]:
                        made.append(int(token))
                        # The last one that was made is not in the state yet.
                        sequence.ids[:] = [*prompt, *made[:-1]]
                        yield made[-1]
                raise EngineError("the server ended a reply before its end")
        except EngineError:
            if not made:
                # How much of the prompt the slot holds is not known. This much it does.
                del sequence.ids[start:]
            elif options.is_halted:
                return
            raise
        finally:
            self._weigh(sequence)

    def export(self, live: Live, first: int, end: int) -> State:
        sequence = _ours(live)
        if (first, end) != (0, len(sequence.ids)):
            raise EngineError("the state of a slot can only be exported whole")
        data = self._saved(sequence)
        if tokens_of(data) != sequence.ids:
            # It went further than it was asked to, or was cut: a prompt of these tokens sets it right.
            self._complete(sequence, sequence.ids, {"n_predict": 0, "stream": False})
            data = self._saved(sequence)
            if tokens_of(data) != sequence.ids:
                raise EngineError("the server saved a slot with other tokens than it was given")
        self._token_bytes = len(data) / max(1, end)
        self._weigh(sequence)
        return {"slot": u8(data)}

    def restore(self, states: Sequence[State], ids: Sequence[int]) -> _Sequence:
        state = states[0]
        if state.keys() != {"slot"} or tokens_of(state["slot"].view) != list(ids):
            raise EngineError("a state that is no slot of these tokens")
        # What was in the slot is replaced, or the slot given back.
        sequence = self._taken()
        path = self._slot_file()
        try:
            with open(path, "wb", opener=private) as file:
                file.write(state["slot"].view)
            answer = self._post(
                f"/slots/{sequence.slot}?action=restore", {"filename": os.path.basename(path)}
            )
            if answer.get("n_restored") != len(ids):
                raise EngineError("the server restored another number of tokens")
        except BaseException as error:
            self.release(sequence)
            if isinstance(error, OSError) and not isinstance(error, EngineError):
                raise EngineError(f"a slot file cannot be written: {error.strerror}") from error
            raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)
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

    # -- steps -------------------------------------------------------------------------

    def _taken(self) -> _Sequence:
        with self._lock:
            if not self._free:
                raise EngineBusy(f"all {self.most_live} slots of the server are busy; try again")
            return _Sequence(slot=self._free.pop())

    def _give_back(self, slot: int) -> None:
        with self._lock:
            self._free.append(slot)

    def _probe(self) -> int:
        """Return the bytes of a small state: they tell geometry and types of the cache."""
        sequence = self.begin()
        try:
            self.prefill(sequence, [1, 2, 3, 4])
            return len(self._saved(sequence))
        finally:
            self.release(sequence)

    def _weigh(self, sequence: _Sequence) -> None:
        sequence.size = int(self._token_bytes * len(sequence.ids))

    def _complete(self, sequence: _Sequence, prompt: Sequence[int], more: dict[str, Any]) -> Any:
        body = {"prompt": list(prompt), "id_slot": sequence.slot, "cache_prompt": True, **more}
        return self._post("/completion", body)

    def _saved(self, sequence: _Sequence) -> bytes:
        path = self._slot_file()
        try:
            answer = self._post(f"/slots/{sequence.slot}?action=save", {"filename": os.path.basename(path)})
            with open(path, "rb") as file:
                data = file.read()
            if answer.get("n_written") != len(data):
                # A full disk costs the last bytes in silence, and a file without them ends the process.
                raise EngineError("the server saved a slot, and not all of it is there: is the disk full?")
            return data
        except FileNotFoundError:
            raise EngineError(f"the server saves its slots to another folder than {self._folder!r}") from None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _slot_file(self) -> str:
        return os.path.join(self._folder, f"lix-{uuid.uuid4().hex}.slot")

    def _tokens(self, text: str, *, special: bool = False) -> list[int]:
        body = {"content": text, "add_special": special, "parse_special": True}
        return [int(one) for one in self._post("/tokenize", body)["tokens"]]

    def _get(self, path: str) -> Any:
        with self._request("GET", path, None) as response:
            return json.loads(response.read())

    def _post(self, path: str, body: Any) -> Any:
        with self._request("POST", path, body) as response:
            return json.loads(response.read())

    @contextlib.contextmanager
    def _request(
        self, method: str, path: str, body: Any, halt: Halt | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=self._timeout)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, self._url.path.rstrip("/") + path, data, self._headers)
            # Its end makes the server stop, and what waits for the server go on.
            with (halt or Halt()).heard_by(partial(_cut_off, connection.sock)):
                response = connection.getresponse()
                if response.status != 200:
                    # Not its text: that may quote the prompt.
                    raise EngineError(f"the server answers {response.status} to {path.split('?')[0]}")
                yield response
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            raise EngineError(f"no usable answer from the server ({type(error).__name__})") from error
        finally:
            connection.close()


def _cut_off(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _ours(live: Live) -> _Sequence:
    if not isinstance(live, _Sequence) or live.slot < 0:
        raise EngineError("a sequence of another engine, or one that was let go")
    return live
