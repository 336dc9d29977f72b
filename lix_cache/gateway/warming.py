"""Loads the models that answers by meaning need, beside the requests: until then none is given by meaning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger
from lix_cache.drivers.threads import in_daemon_thread
from lix_cache.errors import told
from lix_cache.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.verifiers.protocol import Verifier

__all__ = ["Warming"]


class Warming:
    """The models, and how each does: ``none``, ``loading``, ``ok``, or what went wrong.

    Args:
        embedder, verifier: None for none.
    """

    def __init__(self, embedder: Embedder | None, verifier: Verifier | None) -> None:
        self._embedder = embedder
        self._verifier = verifier
        self.embedder = "none" if embedder is None else "loading"
        self.verifier = "none" if verifier is None else "loading"

    @property
    def is_over(self) -> bool:
        """Whether a request that asks them waits for no load."""
        return "loading" not in (self.embedder, self.verifier)

    async def warm_up(self, settings: GatewaySettings, seconds: float | None = None) -> None:
        """Load them. What cannot be loaded is no hindrance, and is said: only ``/ready`` would say it else.

        Args:
            settings: where their names stand.
            seconds: that each may take; None for any.
        """
        if self._embedder is not None:
            self.embedder = await _tried(partial(self._embedder.embed, ["ready"]), seconds)
            _say("embedder", settings.embedder, self.embedder)
        if self._verifier is not None:
            self.verifier = await _tried(partial(self._verifier.scores, [("ready", "ready")]), seconds)
            _say("verifier", settings.verifier, self.verifier)


def _say(kind: str, name: str, state: str) -> None:
    if state != "ok":
        logger.warning(
            "the gateway answers nothing by meaning: the {} {!r} does not work: {}", kind, name, state
        )


async def _tried(work: Callable[[], Any], seconds: float | None) -> str:
    try:
        await asyncio.wait_for(in_daemon_thread(work), seconds)
    except Exception as error:  # noqa: BLE001 - whatever it is, exact answers go on
        return told(error)
    return "ok"
