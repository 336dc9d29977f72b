"""Semantic caches for tests: options in one flat dictionary, and caches as of another process."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import pytest

from lix_cache import SemanticSettings
from lix_cache.effects import Flow
from lix_cache.semantic.index_pool import IndexPool
from lix_cache.semantic.single_flight import Flight, Flights, Shared
from lix_cache.semantic.store import AnswerStore

__all__ = ["Joins", "apart", "note_joins", "with_settings"]

C = TypeVar("C")

_NAMES = frozenset(field.name for field in dataclasses.fields(SemanticSettings))


def with_settings(**options: Any) -> dict[str, Any]:
    """Return the options as the class takes them: those that are settings go into ``settings``."""
    settings = {name: value for name, value in options.items() if name in _NAMES}
    others = {name: value for name, value in options.items() if name not in _NAMES}
    return {**others, "settings": SemanticSettings(**settings)} if settings else others


def apart(cache: C) -> C:
    """Return a cache that shares no index and no notes with others, as one of another process."""
    core: Any = cache._core  # type: ignore[attr-defined]
    core.redis.store = AnswerStore(IndexPool(core.redis.store.indexes.wanted_bytes))
    return cache


class Joins:
    """The calls that have taken the lead of a run, or wait for another's."""

    def __init__(self) -> None:
        self._seen: set[object] = set()

    def add(self, call: object) -> None:
        self._seen.add(call)

    @property
    def count(self) -> int:
        return len(self._seen)

    def are(self, count: int) -> bool:
        """Return whether there are at least so many."""
        return self.count >= count


def note_joins(monkeypatch: pytest.MonkeyPatch) -> Joins:
    """Note from now on the calls of this process: those behind another one, and those that Redis answered."""
    noted, join, ask = Joins(), Flights.join, Shared._try

    def joining(self: Flights, key: Any) -> Any:
        joined = join(self, key)
        if not isinstance(joined, Flight):
            noted.add(object())
        return joined

    def asking(self: Shared, seen: bytes) -> Flow[bytes | None]:
        held = yield from ask(self, seen)
        noted.add(self.token)
        return held

    monkeypatch.setattr(Flights, "join", joining)
    monkeypatch.setattr(Shared, "_try", asking)
    return noted
