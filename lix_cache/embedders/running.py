"""Embedding beside the caller: off the event loop, and within a deadline."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, cast

from lix_cache.errors import EmbedderUnavailable

if TYPE_CHECKING:
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.vectors import FloatArray

__all__ = ["aembed", "embed_within"]

#: Embeddings under way at once in a process. Ones that hang use up places until they end.
_PLACES = 64

#: By process: what a fork copied counts threads that are not here.
_places: dict[int, threading.BoundedSemaphore] = {}


def _start(embedder: Embedder, texts: Sequence[str]) -> Future[FloatArray]:
    """Embed in a thread of its own.

    Not a pool's thread: one that hangs would stop the interpreter from ending, and every
    other embedding from starting. Starting one costs some 0.05 ms; embedding costs more.
    """
    places = _places.setdefault(os.getpid(), threading.BoundedSemaphore(_PLACES))
    if not places.acquire(blocking=False):
        raise EmbedderUnavailable(
            f"{_PLACES} embeddings are under way in this process; the embedder hangs or is too slow"
        )
    future: Future[FloatArray] = Future()

    def work() -> None:
        vectors: FloatArray | None = None
        failure: BaseException | None = None
        try:
            vectors = embedder.embed(texts)
        except StopIteration as error:
            # A future cannot carry it, and who awaits the future would wait for ever.
            failure = RuntimeError("the embedder raised StopIteration")
            failure.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - raised where the result is waited for
            failure = error
        places.release()
        if not future.set_running_or_notify_cancel():
            return  # nobody waits any more
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(cast("FloatArray", vectors))

    try:
        threading.Thread(target=work, name="lix-cache-embed", daemon=True).start()
    except BaseException:
        places.release()
        raise
    return future


def embed_within(embedder: Embedder, texts: Sequence[str], seconds: float | None) -> FloatArray:
    """Embed texts, shape (n, dim), and give up after so many seconds.

    What is given up runs on to its end in a daemon thread; its result is dropped.

    Args:
        embedder: any embedder.
        texts: as :meth:`Embedder.embed`.
        seconds: how long to wait; None embeds in the calling thread, however long it takes.

    Raises:
        EmbedderUnavailable: no answer in time, or too many that never ended.
        EmbedderError, InvalidInput: as the embedder says.
    """
    if seconds is None:
        return embedder.embed(texts)
    future = _start(embedder, texts)
    try:
        return future.result(seconds)
    except FutureTimeout:
        if not future.cancel() and future.done():
            # It ended while we turned away, or the embedder itself raised a TimeoutError.
            return future.result()
        raise _too_late(embedder, seconds) from None


async def aembed(embedder: Embedder, texts: Sequence[str], seconds: float | None = None) -> FloatArray:
    """Embed texts, shape (n, dim), while the event loop goes on.

    Args:
        embedder: any embedder; it runs in a thread.
        texts: as :meth:`Embedder.embed`.
        seconds: how long to wait; None waits for as long as it takes.

    Raises:
        EmbedderUnavailable: no answer in time, or too many that never ended.
        EmbedderError, InvalidInput: as the embedder says.
    """
    future = asyncio.wrap_future(_start(embedder, texts))
    try:
        await asyncio.wait([future], timeout=seconds)
        if future.done():
            return future.result()
    finally:
        future.cancel()
    raise _too_late(embedder, seconds)


def _too_late(embedder: Embedder, seconds: float | None) -> EmbedderUnavailable:
    return EmbedderUnavailable(f"{embedder!r} did not answer within {seconds:g} s")
