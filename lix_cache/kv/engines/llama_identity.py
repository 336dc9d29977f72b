"""Which model a `llama-server` serves, and whether it is still that one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from lix_cache._log import logger
from lix_cache.errors import EngineError
from lix_cache.kv.engines.llama_http import LlamaHttp
from lix_cache.kv.engines.slot_files import file_digest

__all__ = ["ServedModel", "stamp_of"]

#: A model in several files is named by its first one.
_OF_SEVERAL = re.compile(r"-\d{5}-of-(\d{5})\.gguf\Z")

_PROBE_TOKENS = 16
#: How often it is asked what it makes of a few tokens, and the pause where it had other work.
_MOST_PROBES, _PAUSE = 40, 0.25
#: Of logarithms of probabilities; rounding differs by a hundredth of it.
_NEAR = 0.05


class ServedModel:
    """What a server serves.

    Args:
        http: to ask it.
        weights: a text that changes with its weights, or None to read the file that it names.
        build: of llama.cpp, of a server of this process: nothing exchanges its model, and its settings are
            known. None for any other.
    """

    def __init__(self, http: LlamaHttp, weights: str | None, build: str | None) -> None:
        self._http = http
        self._weights = weights
        self._build = build
        self._digests: dict[tuple[Any, ...], str] = {}
        self.props: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}
        self._tasks: list[int] = []
        self._told: list[dict[int, float]] = []

    def is_same(self) -> bool:
        """Whether the server shows no sign that it was started again, or serves another model.

        The tasks of a slot are counted by the server, so a number that falls is of another start of it.
        """
        if self._build is not None:
            return True
        tasks = self._numbers()
        if any(now < before for now, before in zip(tasks, self._tasks, strict=False)):
            return False
        self._tasks = tasks
        return self._look()[1] == self._shown

    def says_the_same(self, slot: int) -> bool:
        """Whether the server makes of a few tokens what it made of them before.

        It finds what shows no sign: weights out of reach, exchanged while other clients raised the counters.

        Args:
            slot: to ask; what it holds is lost.
        """
        if self._build is not None:
            return True
        told = self._probe(slot)
        return len(told) == len(self._told) and all(map(_is_near, told, self._told))

    def facts(self, slots: int = 0) -> dict[str, Any]:
        """Ask the server for everything that tells its model from others.

        Args:
            slots: that it must have at least.

        Raises:
            ConfigError: its weights cannot be told from others.
            EngineError: it does not answer, or has fewer slots.
        """
        props, shown = self._look()
        if int(shown["slots"]) < slots:
            raise EngineError("the server was started again with fewer slots; load the model again")
        made = {
            "engine": "llama.cpp",
            # What xllamacpp builds calls itself "b0-unknown" in every version.
            "engine_version": shown["version"] if self._build is None else self._build,
            "chat_template": shown["chat_template"],
            "weights": self._of_weights(shown),
            "adapters": [
                [self._digest(path, stamp) if stamp else path, scale]
                for path, scale, stamp in shown["adapters"]
            ],
            "model": (self._http.get("/v1/models").get("data") or [{}])[0].get("meta"),
        }
        if self._build is None:
            # Flags that change its state cannot be asked of it, and weights may not be in reach.
            made["says"], self._told = self._says()
        # Last: what is exchanged meanwhile is seen by the next look.
        self.props, self._shown, self._tasks = props, shown, self._numbers()
        return made

    def _look(self) -> tuple[dict[str, Any], dict[str, Any]]:
        props = self._http.get("/props")
        path = str(props.get("model_path") or "")
        template = str(props.get("chat_template")).encode("utf-8", "surrogatepass")
        return props, {
            "version": str(props.get("build_info")),
            "path": path,
            "file": stamp_of(path),
            "chat_template": hashlib.sha256(template).hexdigest(),
            "slots": props["total_slots"],
            "context": props["default_generation_settings"]["n_ctx"],
            "adapters": [
                [str(one.get("path")), one.get("scale"), stamp_of(str(one.get("path")))]
                for one in self._http.get("/lora-adapters")
            ],
        }

    def _numbers(self) -> list[int]:
        return [int(one.get("id_task", -1)) for one in self._http.get("/slots")]

    def _of_weights(self, shown: Mapping[str, Any]) -> Any:
        if self._weights is None:
            return self._digest(shown["path"], shown["file"])
        # A text that was written once may be true of two servers, and stay where the weights are others.
        return [self._weights, self._http.url, shown["path"], shown["file"]]

    def _digest(self, path: str, stamp: list[list[int]] | None) -> str:
        key = (path, *map(tuple, stamp or ()))
        if key not in self._digests:
            digests = [file_digest(one) for one in _files_of(path)]
            if stamp_of(path) != stamp:
                # Which of both the server has is not known, and the digest is of neither for certain.
                raise EngineError(f"{path!r} changed while it was read; try again")
            self._digests[key] = "-".join(digests)
        return self._digests[key]

    def _says(self) -> tuple[str, list[dict[int, float]]]:
        """Return a digest of what it makes of a few tokens, with all its settings in it; and that itself.

        What it computes at once goes into one batch, and the size of that changes the last digits, the same
        ones each time: two answers that agree may both be those of a server with other work. So an answer
        counts only if no other slot computed meanwhile, and two of these have to agree. Where none can be had
        the digest is one that nothing else has: nothing is shared, and nothing is wrong.
        """
        before: list[dict[int, float]] = []
        for _ in range(_MOST_PROBES):
            busy, slot, tasks = self._work()
            # What another conversation has in a slot is not lost: it is computed again.
            now = self._probe(slot)
            if busy or self._work(slot)[::2] != (False, tasks):
                before = []
                time.sleep(_PAUSE)
            elif now == before:
                return hashlib.sha256(json.dumps(now).encode()).hexdigest(), now
            else:
                before = now
        logger.warning(
            "the llama-server {} has other work all the time, so its model cannot be told from others for "
            "certain: nothing that is on disk is used, or will be, until it is loaded again",
            self._http.url,
        )
        return f"not known {secrets.token_hex(16)}", now

    def _work(self, own: int | None = None) -> tuple[bool, int, list[int]]:
        """Return whether a slot computes, one that does not, and the tasks that the others had last.

        Args:
            own: the slot that is asked about itself; else a free one is chosen.
        """
        slots = self._http.get("/slots")
        busy = [one["id"] for one in slots if one.get("is_processing")]
        free = own if own is not None else next((one["id"] for one in slots if one["id"] not in busy), 0)
        return bool(busy), free, [int(one.get("id_task", -1)) for one in slots if one["id"] != free]

    def _probe(self, slot: int) -> list[dict[int, float]]:
        """Have a slot go on from a few tokens; return the logarithms of the likeliest ones' probabilities."""
        most = int((self._http.get("/v1/models").get("data") or [{}])[0].get("meta", {}).get("n_vocab") or 32)
        body = {
            "prompt": [number * most // (_PROBE_TOKENS + 1) for number in range(1, _PROBE_TOKENS + 1)],
            "id_slot": slot,
            "cache_prompt": False,
            "n_predict": 1,
            "n_probs": 32,
            "temperature": 0,
            "samplers": ["temperature"],
            "grammar": "",
            "logit_bias": [],
        }
        told = self._http.post("/completion", body).get("completion_probabilities") or []
        return [
            {int(one["id"]): float(one["logprob"]) for one in token.get("top_logprobs") or ()}
            for token in told
        ]


def _is_near(now: Mapping[int, float], before: Mapping[int, float]) -> bool:
    """Whether two answers differ by no more than other work of a server changes."""
    shared = now.keys() & before.keys()
    # Of the least likely ones some come and go.
    is_alike = 2 * len(shared) >= len(before) and max(now, key=now.__getitem__, default=-1) in before
    return is_alike and all(abs(now[one] - before[one]) < _NEAR for one in shared)


def stamp_of(path: str) -> list[list[int]] | None:
    """Return what changes when a model's file does, or one of its files; None if they are not in reach."""
    try:
        found = [os.stat(one) for one in _files_of(path)]
    except (OSError, ValueError):
        return None
    return [[one.st_size, one.st_mtime_ns, one.st_ino] for one in found]


def _files_of(path: str) -> list[str]:
    """Return the files of a model that is named by its only one, or by the first of several."""
    several = _OF_SEVERAL.search(path)
    if several is None:
        return [path]
    start, count = path[: several.start()], int(several[1])
    return [f"{start}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
