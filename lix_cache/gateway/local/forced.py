"""A call of a tool that must be made: its structure is written here, the model writes the values in it.

So it is valid whatever the model, and with every engine. Lengths, ranges and choices of the schema hold;
patterns and formats are the model's to keep. The structure is the same whatever the model says, so what
cannot be honoured is found before anything is made: by filling the call with nothing. No value is cut: one
that does not end ends the answer.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lix_cache.gateway.errors import Refused
from lix_cache.gateway.local.calls import Call
from lix_cache.gateway.plain_json import dump

__all__ = ["Complete", "check_forced", "forced_call"]

#: Given all that was written, texts that end a value and the most tokens, returns what the model goes on
#: with. With no number of tokens it has all that are left, and where it needs more there is no call.
Complete = Callable[[str, Sequence[str], "int | None"], str]

_MOST_DEPTH = 8
_MOST_VALUES = 128
#: What ends a value that has no quotes.
_ENDS = (",", "}", "]", "\n")
#: Fields that need not be there are filled as long as there are fewer values.
_MOST_OPTIONAL = 64
_MOST_LENGTH = 1 << 16
_LEAST_WHOLE, _MOST_WHOLE = -(1 << 63), (1 << 63) - 1
#: What a value may break that is made without a look at it.
_NOT_KEPT = (
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
_NUMBER = re.compile(r"""[\s"']*\+?(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)""")
#: What a choice is looked at for; a pattern and a format are the model's to keep here as well.
_OF_CHOICES = {"type", "enum", "const", "minLength", "maxLength", "pattern", "format"}


def check_forced(tools: Sequence[Mapping[str, Any]]) -> None:
    """Refuse tools whose schemas a forced call could break.

    Raises:
        Refused: names what cannot be honoured.
    """
    for one in tools:
        forced_call([one], lambda *_: "")


def forced_call(tools: Sequence[Mapping[str, Any]], complete: Complete) -> tuple[Call, str]:
    """Return a call of one of the tools, and the text that it is.

    Args:
        tools: in OpenAI's form.
        complete: asks the model.
    """
    filling = _Filling(complete)
    filling.text = '<tool_call>\n{"name": '
    functions = {one["function"]["name"]: one["function"] for one in tools}
    name = filling.chosen(list(functions))
    filling.text += ', "arguments": '
    schema = functions[name]["parameters"]
    filling.root = schema
    schema = filling.resolved(schema)
    if "object" not in _kinds_of({"type": "object", **schema}):
        raise _cannot("parameters that are no object")
    arguments = filling.object(schema, 0)
    filling.text += "}\n</tool_call>"
    return Call(name, dump(arguments).decode()), filling.text


def _cannot(what: str) -> Refused:
    return Refused(400, "invalid_body", f"a call that must be made cannot honour its schema: {what}")


def _kinds_of(schema: Mapping[str, Any]) -> list[str]:
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
        raise _cannot("a type that JSON Schema has not")
    return sorted(kinds, key=lambda one: one == "null")


#: Digits of a number; each may be a token of its own.
_LONGEST_NUMBER = 64
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def _count(schema: Mapping[str, Any], name: str) -> int | None:
    value = schema.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1 or value < 0:
        raise _cannot(f"{name} that is no whole number")
    return int(value)


def _range(schema: Mapping[str, Any], *, whole: bool) -> tuple[float, float]:
    """Return the least and the most that a number may be, both of them allowed."""
    for name in _LIMITS:
        if name in schema and not (isinstance(schema[name], (int, float)) and math.isfinite(schema[name])):
            raise _cannot(f"{name} that is no number")
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
        raise _cannot("a range of numbers that is empty, or beyond 64 bits")
    return max(low), min(high)


class _Filling:
    def __init__(self, complete: Complete) -> None:
        self._complete = complete
        self._values = 0
        self.text = ""
        self.root: Mapping[str, Any] = {}

    def chosen(self, choices: Sequence[Any]) -> Any:
        """Write the one of some values that the model says, or else comes nearest to."""
        written = [dump(one).decode() for one in choices]
        are_texts = all(isinstance(one, str) for one in choices)
        begun, ends = ('"', ('"',)) if are_texts else ("", _ENDS)
        said = ""
        if len(choices) > 1:
            said = self._complete(self.text + begun, ends, max(map(len, written)) + 2).strip()
        rest = [one.removeprefix(begun).removesuffix(begun) for one in written]
        # A name may begin with another one: what is said whole is that, and of equals the shorter one.
        number = max(range(len(rest)), key=lambda i: (rest[i] == said, _common(rest[i], said), -len(rest[i])))
        self.text += written[number]
        return choices[number]

    def value(self, schema: Any, depth: int) -> Any:
        """Write a value of a schema and return it."""
        schema = self.resolved(schema)
        self._values += 1
        if self._values > _MOST_VALUES:
            raise _cannot(f"more than {_MOST_VALUES} values")
        kinds = _kinds_of(schema)
        if "const" in schema or "enum" in schema:
            return self.chosen(_choices_of(schema, kinds))
        kind = kinds[0]
        if kind == "object":
            return self.object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind in ("integer", "number"):
            return self._written(self._number(schema, whole=kind == "integer"))
        if kind == "boolean":
            return self._written(self._complete(self.text, [",", "}"], 4).strip().lower().startswith("t"))
        return self._written(None) if kind == "null" else self._string(schema)

    def resolved(self, schema: Any) -> Mapping[str, Any]:
        """Return what a schema refers to, or the first of what it may be, with what stands beside it."""
        for _ in range(2 * _MOST_DEPTH):
            if schema is True:
                return {}
            if not isinstance(schema, Mapping):
                raise _cannot("a schema that is no object")
            for name in _NOT_KEPT:
                if name in schema:
                    raise _cannot(f"the keyword {name}")
            found = next((one for one in ("anyOf", "oneOf", "allOf", "$ref") if one in schema), None)
            if found is None:
                return schema
            beside = {name: value for name, value in schema.items() if name != found}
            schema = _joined(beside, self._referred(found, schema[found]))
        raise _cannot("schemas that refer to each other without an end")

    def _referred(self, name: str, value: Any) -> Any:
        if name != "$ref":
            if not isinstance(value, list) or not value or (name == "allOf" and len(value) > 1):
                raise _cannot(f"{name} of several schemas at once, or of none")
            if name == "oneOf":
                first = self.resolved(value[0])
                if not all(_exclude(first, self.resolved(other)) for other in value[1:]):
                    raise _cannot("oneOf of schemas that one value may fit both of")
            return value[0]
        found: Any = self.root
        parts = value[1:].split("/")[1:] if isinstance(value, str) and value[:2] in ("#", "#/") else ["?"]
        for part in parts:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or key not in found:
                raise _cannot("a $ref to what is not in it")
            found = found[key]
        return found

    def _written(self, value: Any) -> Any:
        self.text += dump(value).decode()
        return value

    def object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """Write an object of a schema and return it."""
        properties, required = schema.get("properties") or {}, schema.get("required") or []
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise _cannot("properties that are no object, or required that is no list")
        if not all(isinstance(one, str) for one in required):
            raise _cannot("required, which lists names")
        names = list(dict.fromkeys(required))
        if names and depth >= _MOST_DEPTH:
            raise _cannot(f"more than {_MOST_DEPTH} objects in each other")
        if not names and depth < _MOST_DEPTH and self._values < _MOST_OPTIONAL:
            names = [one for one in properties if properties[one] is not False]
        most = _count(schema, "maxProperties")
        if most is not None and len(names) > most:
            if required:
                raise _cannot("more required than maxProperties")
            names = names[:most]
        made: dict[str, Any] = {}
        self.text += "{"
        for name in names:
            self.text += (", " if made else "") + dump(name).decode() + ": "
            made[name] = self.value(properties.get(name, schema.get("additionalProperties", True)), depth + 1)
        self.text += "}"
        return made

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least, most = _count(schema, "minItems") or 0, _count(schema, "maxItems")
        if (most is not None and least > most) or least > _MOST_VALUES or (least and depth >= _MOST_DEPTH):
            raise _cannot(f"minItems above maxItems, {_MOST_VALUES}, or too deep")
        if schema.get("uniqueItems") and least > 1:
            raise _cannot("the keyword uniqueItems")
        count = least or int(most != 0 and depth < _MOST_DEPTH and schema.get("items") is not False)
        made: list[Any] = []
        self.text += "["
        for _ in range(count):
            self.text += ", " if made else ""
            made.append(self.value(schema.get("items", True), depth + 1))
        self.text += "]"
        return made

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        low, high = _range(schema, whole=whole)
        said = _NUMBER.match(self._complete(self.text, _ENDS, _LONGEST_NUMBER))
        if whole:
            return min(max(_whole(said[1]) if said else 0, low), high)
        return min(max(float(said[1]) if said else 0.0, low), high)

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, longest = _count(schema, "minLength") or 0, _count(schema, "maxLength")
        if least > _MOST_LENGTH or (longest is not None and least > longest):
            raise _cannot(f"minLength above maxLength or {_MOST_LENGTH}")
        self.text += '"'
        said = ""
        # So many characters take as many tokens at most, but for those that need several bytes each.
        most = None if longest is None else max(4 * longest, 4)
        while True:
            part = self._complete(self.text + said, ('"', "\n"), most)
            said += part
            if not _ends_in_escape(said) or not part:
                break
            said += '"'  # it is the text's own
        # Half a character is none.
        text = _unescaped(said).replace("\ufffd", "")[:longest].ljust(least)
        self.text += dump(text).decode()[1:]
        return text


def _choices_of(schema: Mapping[str, Any], kinds: Sequence[str]) -> list[Any]:
    """Return the values that a schema lists and that fit all else that it says."""
    choices = [schema["const"]] if "const" in schema else schema["enum"]
    if not isinstance(choices, list):
        raise _cannot("an enum that is no list")
    unknown = schema.keys() - _OF_CHOICES - _NOTES - set(_LIMITS)
    if unknown:
        raise _cannot(f"{min(unknown)} beside values that are listed")
    if "const" in schema and "enum" in schema:
        choices = [one for one in choices if one in schema["enum"]]
    least, longest = _count(schema, "minLength") or 0, _count(schema, "maxLength")

    def fits(one: Any) -> bool:
        if "type" in schema and not any(_KINDS[kind](one) for kind in kinds):
            return False
        if isinstance(one, str):
            return len(one) >= least and (longest is None or len(one) <= longest)
        if _KINDS["number"](one) and any(name in schema for name in _LIMITS):
            low, high = _range(schema, whole=False)
            return bool(low <= one <= high)
        return True

    found = [one for one in choices if fits(one)]
    if not found:
        raise _cannot("an enum or const without a value of its type and in its limits")
    return found


def _exclude(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether no value fits both: of other types, or told apart by what they list, here or in a field."""
    listed = [schema["enum"] if "enum" in schema else [schema["const"]] for schema in (one, other)
              if "enum" in schema or "const" in schema]  # fmt: skip
    if len(listed) == 2:
        return not any(value in listed[1] for value in listed[0])
    kinds = [{"number" if kind == "integer" else kind for kind in _kinds_of(each)} for each in (one, other)]
    if not kinds[0] & kinds[1]:
        return all("type" in each or each.keys() & {"enum", "const"} for each in (one, other))
    if kinds != [{"object"}, {"object"}]:
        return False
    fields = [each.get("properties") or {} for each in (one, other)]
    shared = set(one.get("required") or ()) & set(other.get("required") or ())
    return any(
        isinstance(field, Mapping) and field.keys() & {"enum", "const"}
        and isinstance(beside, Mapping) and beside.keys() & {"enum", "const"}
        and _exclude(field, beside)
        for field, beside in ((fields[0].get(name), fields[1].get(name)) for name in shared)
    )  # fmt: skip


def _whole(said: str) -> int:
    """Return a number without what is behind its point, exactly."""
    try:
        return int(said)
    except ValueError:
        value = float(said)
        return int(value) if math.isfinite(value) else 0


def _ends_in_escape(said: str) -> bool:
    """Whether a quotation mark that follows is part of a JSON text."""
    return (len(said) - len(said.rstrip("\\"))) % 2 == 1


def _unescaped(said: str) -> str:
    """Return the text that JSON writes so; what is no JSON as it stands."""
    try:
        text: str = json.loads(f'"{said}"', strict=False)
    except ValueError:
        return said
    # An escape of half a character alone is none either.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _joined(beside: Mapping[str, Any], found: Any) -> Any:
    """Return a schema with what stands beside the keyword that it was found in."""
    if found is True:
        return beside
    if not isinstance(found, Mapping):
        return found
    both = {
        name for name in beside.keys() & found.keys() if name not in _NOTES and beside[name] != found[name]
    }
    if both:
        raise _cannot(f"{min(both)}, which stands twice in it")
    return {**beside, **found}


def _common(one: str, two: str) -> int:
    count = 0
    for first, second in zip(one, two, strict=False):
        if first != second:
            break
        count += 1
    return count
