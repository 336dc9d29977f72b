"""Where questions were asked lately: what of a request must match exactly, as digests and names.

An explanation of a question needs the exact scope of a client's requests. A part of it is the digest of the
client's own credentials, which no operator can type. So the last scopes are kept here, for the page.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from lix_cache.gateway.by_meaning import Place

__all__ = ["Places", "Seen"]

_MOST = 32


@dataclass
class Seen:
    """One scope, without the question.

    Attributes:
        tenant: whose it is.
        context: what must match exactly.
        last: when a question was asked there, Unix seconds.
        count: how many.
    """

    tenant: str
    context: dict[str, str]
    last: float
    count: int = 1

    @property
    def id(self) -> str:
        """A digest of all that must match."""
        return _id(self.tenant, self.context)

    def told(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        return {"tenant": self.tenant, "context": self.context, "last": self.last, "count": self.count}

    @classmethod
    def read(cls, value: Any) -> Seen | None:
        """Return what :meth:`told` made; None for anything else."""
        if not isinstance(value, dict) or value.keys() != {"tenant", "context", "last", "count"}:
            return None
        context = value["context"]
        is_fit = (
            isinstance(value["tenant"], str)
            and isinstance(context, dict)
            and all(isinstance(one, str) for pair in context.items() for one in pair)
            and isinstance(value["last"], (int, float))
            and isinstance(value["count"], int)
        )
        return cls(**value) if is_fit else None


def _id(tenant: str, context: Mapping[str, str]) -> str:
    data = orjson.dumps([tenant, dict(context)], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(data).hexdigest()[:24]


class Places:
    """The scopes of this process that were used last."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, ...], Seen] = OrderedDict()
        self.is_changed = False

    def note(self, place: Place, now: float) -> None:
        """Remember where a question was asked."""
        key = (place.tenant, *place.context.values())
        seen = self._seen.get(key)
        self.is_changed = True
        if seen is not None:
            seen.last, seen.count = now, seen.count + 1
            self._seen.move_to_end(key)
            return
        self._seen[key] = Seen(place.tenant, dict(place.context), now)
        if len(self._seen) > _MOST:
            self._seen.popitem(last=False)

    def all(self) -> list[Seen]:
        """Return them."""
        return list(self._seen.values())
