"""A model that can be exchanged for another while it serves."""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Callable
from typing import Any

from lix_cache._log import logger
from lix_cache.errors import EngineBusy, KvBusy, told
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.reply import Reply

__all__ = ["SwappableModel"]

#: Loads a model, with its store. Its engine is closed when another takes its place.
Load = Callable[[], LocalModel]

_CLOSED = "the model was closed"


class SwappableModel:
    """Serves one model at a time.

    Args:
        load: of the first model; called now, and again where a later one cannot be loaded.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._model: LocalModel | None = load()
        self._swapping = threading.Lock()
        self._is_closed = False

    @property
    def model(self) -> LocalModel:
        """The model that serves.

        Raises:
            EngineBusy: one is being loaded, or all was closed.
        """
        model = self._model
        if model is None:
            raise EngineBusy(_CLOSED if self._is_closed else "a model is being loaded; try again")
        return model

    def generate(self, *arguments: Any, **options: Any) -> Reply:
        """Begin a reply: :meth:`LocalModel.generate` of the model that serves."""
        return self.model.generate(*arguments, **options)

    def swap(self, load: Load, drain_seconds: float = 60.0) -> LocalModel:
        """Exchange the model. Nothing of the old one is in memory while the new one is loaded.

        Sessions go to disk first; with the new model, which has another fingerprint, they begin cold, and
        with the old one they resume when it comes back.

        Args:
            load: of the new model.
            drain_seconds: how long to wait for the replies that are being made.

        Raises:
            KvBusy: replies took longer, or another swap is going on; the old model serves on.
            EngineBusy: all was closed meanwhile; what was loaded is let go of.
            Exception: what ``load`` raised; the old model was loaded again and serves. If that failed too,
                none does until another swap.
        """
        if not self._swapping.acquire(blocking=False):
            raise KvBusy("another model is being loaded; try again")
        try:
            old = self._model
            # There is none where the last one could not be loaded again.
            if old is not None:
                is_drained = old.drain(drain_seconds, lambda: not self._is_closed)
                if not is_drained and not self._is_closed:
                    raise KvBusy(f"replies took longer than {drain_seconds} s; the model was not exchanged")
                old.close()
                self._model = None
                _unload(old)
            del old
            failed: BaseException | None = None
            try:
                self._model = self._loaded(load)
            except BaseException as error:  # noqa: BLE001 - raised below
                failed = error
            if failed is not None:
                # Its frames hold what was loaded of it, and there is no memory for two.
                _let_go(failed)
                if not self._is_closed:
                    logger.warning(
                        "a model cannot be loaded, the one before is loaded again: {}", type(failed)
                    )
                    self._model = self._loaded(self._load)
                raise failed
            self._load = load
            return self.model
        finally:
            self._swapping.release()

    def _loaded(self, load: Load) -> LocalModel:
        """Load a model, unless all is closed. It may be while it loads: then it is let go of."""
        self._check_open()
        model = load()
        try:
            self._check_open()
        except EngineBusy:
            model.close()
            _unload(model)
            raise
        return model

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineBusy(_CLOSED)

    def close(self, seconds: float = 30.0) -> None:
        """Write everything to disk and let go of the model, and of one that is being loaded.

        Args:
            seconds: how long to wait for a swap that is going on. One that takes longer lets go of what it
                loads itself: loading cannot be ended.
        """
        self._is_closed = True
        if not self._swapping.acquire(timeout=seconds):
            logger.warning("a model is still being loaded; it is let go of when it is")
            return
        try:
            model, self._model = self._model, None
            if model is not None:
                model.close()
                _unload(model)
        finally:
            self._swapping.release()


def _unload(model: LocalModel) -> None:
    """Let go of an engine. One that fails at it must not stop another model from being loaded."""
    try:
        model.engine.close()
    except Exception as error:  # noqa: BLE001 - an engine's own
        logger.warning("an engine was not closed: {}", told(error))


def _let_go(error: BaseException) -> None:
    """Clear the frames of an error and of those that it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            waiting += [one.__cause__, one.__context__]
    gc.collect()
