"""Whether llama.cpp loads a file, found out in a process of its own.

Some values of a damaged file end the process that loads it (an abort, no error). A look at the header would
have to know them all, and they change with its versions. So another process loads the file first.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

from lix_cache.errors import EngineError, LixCacheError
from lix_cache.kv.engines.llama_identity import stamp_of
from lix_cache.kv.halting import Halt, current_halt

__all__ = ["main", "tried"]

_LOADED, _REFUSED = b"loaded", b"refused"
#: The path is set when the interpreter is up: a script's folder may hide modules that it begins with.
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from lix_cache.kv.engines.llama_trial import main; main()"
)
#: How long the other process may take: so many seconds, and one for each so many bytes, which a slow disk
#: reads in half of one.
_SECONDS, _BYTES_A_SECOND = 120.0, 20_000_000
_LOOK_SECONDS = 0.2
#: Files that were loaded, as they were then: an exchange that goes back does not try its file again.
_known: set[tuple[object, ...]] = set()


def tried(gguf: str, context_tokens: int, slots: int, threads: int | None, cache_type: str) -> None:
    """Load a file in another process, once for each state of the file.

    It is over before this process loads it, so there is memory for it.

    Raises:
        EngineError: the file ended the process, or kept it for too long; or one that waits was halted.
    """
    if not os.path.isfile(gguf) or not sys.executable or getattr(sys, "frozen", False):
        return  # nothing to load, or no interpreter to load it with
    arguments = (gguf, str(context_tokens), str(slots), str(threads or 0), cache_type)
    stamp = stamp_of(gguf) or []
    key = (*arguments, *map(tuple, stamp))
    if key in _known:
        return
    # GGML_NO_BACKTRACE: at an abort it would start a debugger, which takes seconds.
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    with subprocess.Popen(  # noqa: S603 - this interpreter, with arguments that no shell reads
        [sys.executable, "-I", "-c", _CODE, json.dumps(sys.path), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        try:
            said = _said(child, gguf, _SECONDS + sum(size for size, *_ in stamp) / _BYTES_A_SECOND)
        finally:
            child.kill()  # if it still runs: nobody waits for it
    if _REFUSED in said:
        return  # with a typed error, which is said where it is loaded
    if _LOADED not in said:
        raise EngineError(
            f"llama.cpp cannot load {gguf!r}: a process that tried ended ({_name(child.returncode)}); "
            "the file is damaged, of a version that llama.cpp does not know, or too large for the memory"
        )
    _known.add(key)


def _said(child: subprocess.Popen[bytes], gguf: str, seconds: float) -> bytes:
    """Return what the other process says, when it has ended.

    Raises:
        EngineError: it takes longer, or one that waits was halted.
    """
    halt, until = current_halt() or Halt(), time.monotonic() + seconds
    while not halt.is_set:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.communicate(timeout=_LOOK_SECONDS)[0]
        if time.monotonic() >= until:
            raise EngineError(
                f"llama.cpp cannot load {gguf!r}: a process that tried took more than {seconds:.0f} s; the "
                "file is damaged, or its disk is too slow"
            )
    raise EngineError(f"{gguf!r} was not loaded: the load was halted")


def _name(code: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"code {code}"


def main() -> None:
    """Load a file, have it make a token, and say so: what the other process runs."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gguf, context, slots, threads, cache_type = sys.argv[1:]
    said = _LOADED
    try:
        _try(gguf, int(context), int(slots), int(threads) or None, cache_type)
    except LixCacheError:
        said = _REFUSED
    sys.stdout.buffer.write(said)
    sys.stdout.flush()
    # The end of a server may fail, and nothing is left to do.
    os._exit(0)


def _try(gguf: str, context_tokens: int, slots: int, threads: int | None, cache_type: str) -> None:
    from lix_cache.kv.engine import Options
    from lix_cache.kv.engines.llama_cpp import LlamaServerEngine
    from lix_cache.kv.engines.llama_start import started

    made = started(gguf, context_tokens, slots, threads, cache_type)
    try:
        # Of no store: its weights are not read for their digest.
        engine = LlamaServerEngine(
            made.server.listening_address, slot_folder=made.slots, weights="", api_key=made.key, server=made
        )
        # A broken template is an error for those who give messages, and for no others.
        with contextlib.suppress(EngineError):
            engine.tokenize(engine.render([{"role": "user", "content": "a"}]))
        prompt = [*engine.start_ids, *engine.tokenize("a")]
        for _ in engine.generate(engine.begin(), prompt, Options(max_tokens=1)):
            pass
    finally:
        type(made).remove(made.homes)
