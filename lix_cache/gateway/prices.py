"""What models cost, as the operator says it. None is supposed: they change, and contracts differ. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from lix_cache.checks import check_number, check_text
from lix_cache.config import Prices
from lix_cache.errors import ConfigError

__all__ = ["PriceSettings", "check_prices", "price_of"]


@dataclass(frozen=True)
class PriceSettings:
    """What some models cost. The first entry that fits a model counts.

    Attributes:
        models: patterns of their names, ``*`` for any characters.
        prompt: for a million tokens of input.
        completion: for a million tokens of output.
        currency: of both; one for the whole gateway.
    """

    models: tuple[str, ...] = ("*",)
    prompt: float = 0.0
    completion: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        for name in ("prompt", "completion"):
            check_number(name, getattr(self, name), 0, 1e12)
        check_text("currency", self.currency)


def check_prices(prices: Sequence[PriceSettings]) -> None:
    """Refuse prices that cannot be added up."""
    if len({one.currency for one in prices}) > 1:
        raise ConfigError("all prices must be in one currency: their sums are shown")


def price_of(prices: Sequence[PriceSettings], model: str) -> Prices | None:
    """Return what a model costs; None if no price is set."""
    for one in prices:
        if any(fnmatch.fnmatchcase(model, pattern) for pattern in one.models):
            return Prices(one.prompt, one.completion, one.currency)
    return None
