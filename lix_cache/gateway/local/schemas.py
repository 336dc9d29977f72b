"""What a JSON Schema says of a value that is made to keep it: kinds, limits and choices. Pure."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lix_cache.gateway.errors import Refused

__all__ = ["NOT_KEPT", "cannot", "choices_of", "count_of", "exclude", "joined", "kinds_of", "range_of"]

_LEAST_WHOLE, _MOST_WHOLE = -(1 << 63), (1 << 63) - 1
#: What a value may break that is made without a look at it.
NOT_KEPT = (
    "not", "if", "contains", "dependencies", "dependentRequired", "dependentSchemas", "minProperties",
    "multipleOf", "patternProperties", "prefixItems", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
#: What no value breaks.
_NOTES = {
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "$comment",
    "$schema",
    "$id",
    "$defs",
    "definitions",
}
_KINDS: dict[str, Callable[[Any], bool]] = {
    "string": lambda one: isinstance(one, str),
    "integer": lambda one: isinstance(one, (int, float)) and not isinstance(one, bool) and one == one // 1,
    "number": lambda one: isinstance(one, (int, float)) and not isinstance(one, bool),
    "boolean": lambda one: isinstance(one, bool),
    "null": lambda one: one is None,
    "object": lambda one: isinstance(one, Mapping),
    "array": lambda one: isinstance(one, list),
}
#: What a choice is looked at for; a pattern and a format are the model's to keep here as well.
_OF_CHOICES = {"type", "enum", "const", "minLength", "maxLength", "pattern", "format"}
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def cannot(what: str) -> Refused:
    """Return the error for a schema that a forced call could break."""
    return Refused(400, "invalid_body", f"a call that must be made cannot honour its schema: {what}")


def kinds_of(schema: Mapping[str, Any]) -> list[str]:
    """Return the types that a value may have; the first is the one that is made."""
    given = schema.get("type")
    if given is None:
        given = "object" if "properties" in schema or "required" in schema else "string"
        if "items" in schema or "minItems" in schema:
            given = "array"
        if any(name in schema for name in _LIMITS):
            given = "number"
    kinds = given if isinstance(given, list) else [given]
    if not kinds or not all(isinstance(one, str) and one in _KINDS for one in kinds):
        raise cannot("a type that JSON Schema has not")
    return sorted(kinds, key=lambda one: one == "null")


def count_of(schema: Mapping[str, Any], name: str) -> int | None:
    """Return a limit of lengths or of items; None if there is none."""
    value = schema.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1 or value < 0:
        raise cannot(f"{name} that is no whole number")
    return int(value)


def range_of(schema: Mapping[str, Any], *, whole: bool) -> tuple[float, float]:
    """Return the least and the most that a number may be, both of them allowed."""
    for name in _LIMITS:
        if name in schema and not (isinstance(schema[name], (int, float)) and math.isfinite(schema[name])):
            raise cannot(f"{name} that is no number")
    low: list[float] = [-math.inf if whole else -sys.float_info.max]
    high: list[float] = [math.inf if whole else sys.float_info.max]
    for limits, name, outward, nearest in (
        (low, "minimum", math.inf, math.ceil),
        (high, "maximum", -math.inf, math.floor),
    ):
        other = "exclusive" + name.capitalize()
        plain, beyond = schema.get(name), schema.get(other)
        # In old drafts it says whether the other one is allowed.
        beyond = plain if beyond is True else None if beyond is False else beyond
        if plain is not None and not isinstance(plain, bool):
            limits.append(nearest(plain) if whole else plain)
        if beyond is not None:
            step = 1 if outward > 0 else -1
            there = nearest(beyond) if whole else beyond
            if whole:
                limits.append(there + step if there == beyond else there)
            else:
                limits.append(math.nextafter(beyond, outward))
    if max(low) > min(high) or max(low) > _MOST_WHOLE or min(high) < _LEAST_WHOLE:
        raise cannot("a range of numbers that is empty, or beyond 64 bits")
    return max(low), min(high)


def choices_of(schema: Mapping[str, Any], kinds: Sequence[str]) -> list[Any]:
    """Return the values that a schema lists and that fit all else that it says."""
    choices = [schema["const"]] if "const" in schema else schema["enum"]
    if not isinstance(choices, list):
        raise cannot("an enum that is no list")
    unknown = schema.keys() - _OF_CHOICES - _NOTES - set(_LIMITS)
    if unknown:
        raise cannot(f"{min(unknown)} beside values that are listed")
    if "const" in schema and "enum" in schema:
        choices = [one for one in choices if one in schema["enum"]]
    least, longest = count_of(schema, "minLength") or 0, count_of(schema, "maxLength")

    def fits(one: Any) -> bool:
        if "type" in schema and not any(_KINDS[kind](one) for kind in kinds):
            return False
        if isinstance(one, str):
            return len(one) >= least and (longest is None or len(one) <= longest)
        if _KINDS["number"](one) and any(name in schema for name in _LIMITS):
            low, high = range_of(schema, whole=False)
            return bool(low <= one <= high)
        return True

    found = [one for one in choices if fits(one)]
    if not found:
        raise cannot("an enum or const without a value of its type and in its limits")
    return found


def exclude(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether no value fits both: of other types, or told apart by what they list, here or in a field."""
    listed = [schema["enum"] if "enum" in schema else [schema["const"]] for schema in (one, other)
              if "enum" in schema or "const" in schema]  # fmt: skip
    if len(listed) == 2:
        return not any(value in listed[1] for value in listed[0])
    kinds = [{"number" if kind == "integer" else kind for kind in kinds_of(each)} for each in (one, other)]
    if not kinds[0] & kinds[1]:
        return all("type" in each or each.keys() & {"enum", "const"} for each in (one, other))
    if kinds != [{"object"}, {"object"}]:
        return False
    fields = [each.get("properties") or {} for each in (one, other)]
    shared = set(one.get("required") or ()) & set(other.get("required") or ())
    return any(
        isinstance(field, Mapping) and field.keys() & {"enum", "const"}
        and isinstance(beside, Mapping) and beside.keys() & {"enum", "const"}
        and exclude(field, beside)
        for field, beside in ((fields[0].get(name), fields[1].get(name)) for name in shared)
    )  # fmt: skip


def joined(beside: Mapping[str, Any], found: Any) -> Any:
    """Return a schema with what stands beside the keyword that it was found in."""
    if found is True:
        return beside
    if not isinstance(found, Mapping):
        return found
    both = {
        name for name in beside.keys() & found.keys() if name not in _NOTES and beside[name] != found[name]
    }
    if both:
        raise cannot(f"{min(both)}, which stands twice in it")
    return {**beside, **found}
