"""Flows that ask servers, driven by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lix_cache.effects import Flow, NodeAsk, NodeAsks, Sleep

__all__ = ["played"]


def played(
    flow: Flow[list[Any]], asked: Callable[[NodeAsk], Any], slept: Callable[[float], object]
) -> list[Any]:
    """Run a flow to its end.

    Args:
        flow: what asks.
        asked: returns what a server answers, or the exception that ends the request.
        slept: told of each pause, in seconds.
    """
    result: Any = None
    while True:
        try:
            effect = flow.send(result)
        except StopIteration as stop:
            answers: list[Any] = stop.value
            return answers
        if isinstance(effect, Sleep):
            slept(effect.seconds)
            result = None
        else:
            assert isinstance(effect, NodeAsks)
            result = [asked(ask) for ask in effect.asks]
