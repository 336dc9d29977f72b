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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lix_cache.gateway.local.calls import Call
from lix_cache.gateway.local.schemas import (
    NOT_KEPT,
    cannot,
    choices_of,
    count_of,
    exclude,
    joined,
    kinds_of,
    range_of,
)
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
_NUMBER = re.compile(r"""[\s"']*\+?(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)""")


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
    if "object" not in kinds_of({"type": "object", **schema}):
        raise cannot("parameters that are no object")
    arguments = filling.object(schema, 0)
    filling.text += "}\n</tool_call>"
    return Call(name, dump(arguments).decode()), filling.text


#: Digits of a number; each may be a token of its own.
_LONGEST_NUMBER = 64


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
            raise cannot(f"more than {_MOST_VALUES} values")
        kinds = kinds_of(schema)
        if "const" in schema or "enum" in schema:
            return self.chosen(choices_of(schema, kinds))
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
                raise cannot("a schema that is no object")
            for name in NOT_KEPT:
                if name in schema:
                    raise cannot(f"the keyword {name}")
            found = next((one for one in ("anyOf", "oneOf", "allOf", "$ref") if one in schema), None)
            if found is None:
                return schema
            beside = {name: value for name, value in schema.items() if name != found}
            schema = joined(beside, self._referred(found, schema[found]))
        raise cannot("schemas that refer to each other without an end")

    def _referred(self, name: str, value: Any) -> Any:
        if name != "$ref":
            if not isinstance(value, list) or not value or (name == "allOf" and len(value) > 1):
                raise cannot(f"{name} of several schemas at once, or of none")
            if name == "oneOf":
                first = self.resolved(value[0])
                if not all(exclude(first, self.resolved(other)) for other in value[1:]):
                    raise cannot("oneOf of schemas that one value may fit both of")
            return value[0]
        found: Any = self.root
        parts = value[1:].split("/")[1:] if isinstance(value, str) and value[:2] in ("#", "#/") else ["?"]
        for part in parts:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or key not in found:
                raise cannot("a $ref to what is not in it")
            found = found[key]
        return found

    def _written(self, value: Any) -> Any:
        self.text += dump(value).decode()
        return value

    def object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """Write an object of a schema and return it."""
        properties, required = schema.get("properties") or {}, schema.get("required") or []
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise cannot("properties that are no object, or required that is no list")
        if not all(isinstance(one, str) for one in required):
            raise cannot("required, which lists names")
        names = list(dict.fromkeys(required))
        if names and depth >= _MOST_DEPTH:
            raise cannot(f"more than {_MOST_DEPTH} objects in each other")
        if not names and depth < _MOST_DEPTH and self._values < _MOST_OPTIONAL:
            names = [one for one in properties if properties[one] is not False]
        most = count_of(schema, "maxProperties")
        if most is not None and len(names) > most:
            if required:
                raise cannot("more required than maxProperties")
            names = names[:most]
        made: dict[str, Any] = {}
        self.text += "{"
        for name in names:
            self.text += (", " if made else "") + dump(name).decode() + ": "
            made[name] = self.value(properties.get(name, schema.get("additionalProperties", True)), depth + 1)
        self.text += "}"
        return made

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least, most = count_of(schema, "minItems") or 0, count_of(schema, "maxItems")
        if (most is not None and least > most) or least > _MOST_VALUES or (least and depth >= _MOST_DEPTH):
            raise cannot(f"minItems above maxItems, {_MOST_VALUES}, or too deep")
        if schema.get("uniqueItems") and least > 1:
            raise cannot("the keyword uniqueItems")
        count = least or int(most != 0 and depth < _MOST_DEPTH and schema.get("items") is not False)
        made: list[Any] = []
        self.text += "["
        for _ in range(count):
            self.text += ", " if made else ""
            made.append(self.value(schema.get("items", True), depth + 1))
        self.text += "]"
        return made

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        low, high = range_of(schema, whole=whole)
        said = _NUMBER.match(self._complete(self.text, _ENDS, _LONGEST_NUMBER))
        if whole:
            return min(max(_whole(said[1]) if said else 0, low), high)
        return min(max(float(said[1]) if said else 0.0, low), high)

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, longest = count_of(schema, "minLength") or 0, count_of(schema, "maxLength")
        if least > _MOST_LENGTH or (longest is not None and least > longest):
            raise cannot(f"minLength above maxLength or {_MOST_LENGTH}")
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


def _common(one: str, two: str) -> int:
    count = 0
    for first, second in zip(one, two, strict=False):
        if first != second:
            break
        count += 1
    return count
