"""Models beside the caller: off the event loop, and within a deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from lix_cache.checks import check_duration, given
from lix_cache.daemon import Crew, Promise
from lix_cache.errors import ConfigError, EmbedderUnavailable, LixCacheError

if TYPE_CHECKING:
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.vectors import FloatArray

__all__ = ["acall_within", "aembed", "call_within", "embed_within"]

T = TypeVar("T")

#: Calls under way at once in a process. Ones that hang use up places until they end.
_PLACES = 64

_crew = Crew(_PLACES)


def _start(call: Callable[[], T], who: str, error: type[LixCacheError]) -> Promise[T]:
    """Run a call in a thread of its own.

    Not a pool's thread: one that hangs would stop the interpreter from ending, and every
    other call from starting. Starting one costs some 0.05 ms; a model costs more.
    """
    future: Promise[T] = Promise()

    def work() -> None:
        value: T | None = None
        failure: BaseException | None = None
        try:
            value = call()
        except StopIteration as stop:
            # A future cannot carry it, and who awaits the future would wait for ever.
            failure = RuntimeError(f"{who} raised StopIteration")
            failure.__cause__ = stop
        except BaseException as caught:  # noqa: BLE001 - raised where the result is waited for
            failure = caught
        _crew.leave()
        if not future.set_running_or_notify_cancel():
            return  # no caller waits any more
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(cast("T", value))

    try:
        is_begun = _crew.start(work, "lix-cache-model")
    except RuntimeError as refused:
        raise error(f"{who}: the system gives no thread to ask it in") from refused
    if not is_begun:
        raise error(f"{who}: {_crew.most} such calls are under way in this process; it hangs or is too slow")
    return future


def call_within(call: Callable[[], T], seconds: float | None, who: str, error: type[LixCacheError]) -> T:
    """Run a call and give up after so many seconds.

    What is given up runs on to its end in a daemon thread; its result is dropped.

    Args:
        call: takes nothing.
        seconds: how long to wait; None runs it in the calling thread, however long it takes.
        who: named in the error.
        error: raised if there is no result in time, or if too many calls never ended.
    """
    if seconds is None:
        return call()
    future = _start(call, who, error)
    # Where it cannot be cancelled it may have ended while we turned away.
    if future.wait(seconds) or (not future.cancel() and future.done()):
        return future.result()
    raise _too_late(who, seconds, error)


async def acall_within(
    call: Callable[[], T], seconds: float | None, who: str, error: type[LixCacheError]
) -> T:
    """Run a call in a thread while the event loop goes on; see :func:`call_within`.

    ``seconds=None`` waits for as long as it takes.
    """
    future = _start(call, who, error)
    try:
        if await future.wait_async(seconds):
            return future.result()
    finally:
        future.cancel()
    raise _too_late(who, seconds, error)


def _too_late(who: str, seconds: float | None, error: type[LixCacheError]) -> LixCacheError:
    return error(f"{who} did not answer within {seconds:g} s")


def embed_within(embedder: Embedder, texts: Sequence[str], seconds: float | None) -> FloatArray:
    """Embed texts, shape (n, dim), and give up after so many seconds.

    Args:
        embedder: any embedder.
        texts: as :meth:`Embedder.embed`.
        seconds: how long to wait; None embeds in the calling thread, however long it takes.

    Raises:
        EmbedderUnavailable: no answer in time, or too many that never ended.
        EmbedderError, InvalidInput: as the embedder says.
    """
    _check_call(embedder, seconds)
    return call_within(partial(embedder.embed, texts), seconds, repr(embedder), EmbedderUnavailable)


def _check_call(embedder: Embedder, seconds: float | None) -> None:
    if isinstance(embedder, type) or not callable(getattr(embedder, "embed", None)):
        raise ConfigError(f"embedder must be an embedder, {given(embedder)}")
    if seconds is not None:
        check_duration("seconds", seconds)


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
    _check_call(embedder, seconds)
    return await acall_within(partial(embedder.embed, texts), seconds, repr(embedder), EmbedderUnavailable)
