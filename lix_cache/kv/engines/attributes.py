"""What modules keep in plain attributes, not in weights: scales of adapters, which is active. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

__all__ = ["attributes_of"]

_NAMES = re.compile(
    r"scal|alpha|adapter|merg|disabl|enabl|activ|strength|multipl|lora|dora|rank", re.IGNORECASE
)
#: Libraries of models: their other attributes follow from the config. Those of others may be anything.
_KNOWN = ("torch", "transformers", "mlx", "mlx_lm")
_MOST_NUMBERS = 64
_MOST_DEPTH = 4


def attributes_of(modules: Iterable[tuple[str, Any]]) -> list[list[Any]]:
    """Return the attributes that may change what modules compute, by their names. Cheap: asked at every call.

    Args:
        modules: of a model, with their names.
    """
    found = []
    for name, module in modules:
        is_known = type(module).__module__.partition(".")[0] in _KNOWN
        for attribute, value in vars(module).items():
            if _tells(attribute):
                plain = _plain(value, _MOST_DEPTH)
            elif not is_known and attribute != "training" and isinstance(value, (bool, float, str)):
                # No whole numbers: some count calls.
                plain = value
            else:
                continue
            if plain is not None:
                found.append([name, attribute, plain])
    return found


@lru_cache(maxsize=4096)
def _tells(attribute: str) -> bool:
    return _NAMES.search(attribute) is not None


def _plain(value: Any, depth: int) -> Any:
    """Return a value as JSON has it; None if it is an object of another kind."""
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    if depth == 0:
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(one, depth - 1) for key, one in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(str(one) for one in value)
    if isinstance(value, (list, tuple)):
        return [_plain(one, depth - 1) for one in value]
    size = getattr(value, "nbytes", None)
    if isinstance(size, int) and size <= 8 * _MOST_NUMBERS and hasattr(value, "tolist"):
        return repr(value.tolist())
    return None
