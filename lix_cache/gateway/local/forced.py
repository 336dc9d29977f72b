"""A call of a tool that must be made: its structure is written here, the model writes the values in it.

So it is valid whatever the model, and with every engine. Lengths, ranges and choices of the schema hold;
patterns and formats are the model's to keep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from lix_cache.gateway.local.calls import Call

__all__ = ["Complete", "forced_call"]

#: Given all that was written, texts that end it and the most tokens, returns what the model goes on with.
Complete = Callable[[str, Sequence[str], int], str]

_MOST_DEPTH = 8
_MOST_VALUES = 128
_LONGEST_TEXT = 96
_NUMBER = re.compile(r"\s*(-?\d{1,15}(?:\.\d{1,15})?)")


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
    arguments = filling.object(filling.resolved(schema), 0)
    filling.text += "}\n</tool_call>"
    return Call(name, orjson.dumps(arguments).decode()), filling.text


class _Filling:
    def __init__(self, complete: Complete) -> None:
        self._complete = complete
        self._values = 0
        self.text = ""
        self.root: Mapping[str, Any] = {}

    def chosen(self, texts: list[str]) -> str:
        """Write the one of some texts that what the model says begins with for longest."""
        self.text += '"'
        said = self._complete(self.text, ['"'], 24) if len(texts) > 1 else ""
        found = max(texts, key=lambda one: _common(one, said))
        self.text += orjson.dumps(found).decode()[1:]
        return found

    def value(self, schema: Any, depth: int) -> Any:
        """Write a value of a schema and return it."""
        schema = self.resolved(schema)
        self._values += 1
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in schema else "string"
        if "const" in schema:
            return self._written(schema["const"])
        choices = schema.get("enum")
        if isinstance(choices, list) and choices:
            if all(isinstance(one, str) for one in choices):
                return self.chosen(choices)
            return self._written(choices[0])
        if depth >= _MOST_DEPTH or self._values > _MOST_VALUES:
            return self._written({"object": {}, "array": []}.get(kind))
        if kind == "object":
            return self.object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind in ("integer", "number"):
            return self._written(self._number(schema, kind == "integer"))
        if kind == "boolean":
            return self._written(self._complete(self.text, [",", "}"], 4).strip().lower().startswith("t"))
        return self._written(None) if kind == "null" else self._string(schema)

    def resolved(self, schema: Any) -> Mapping[str, Any]:
        """Return what a schema refers to, or the first of what it may be."""
        for _ in range(_MOST_DEPTH):
            if not isinstance(schema, Mapping):
                return {}
            for name in ("anyOf", "oneOf", "allOf"):
                if isinstance(schema.get(name), list) and schema[name]:
                    schema = schema[name][0]
                    break
            else:
                reference = schema.get("$ref")
                if not isinstance(reference, str) or not reference.startswith("#/"):
                    return schema
                found: Any = self.root
                for part in reference[2:].split("/"):
                    found = found.get(part, {}) if isinstance(found, Mapping) else {}
                schema = found
        return {}

    def _written(self, value: Any) -> Any:
        self.text += orjson.dumps(value).decode()
        return value

    def object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """Write an object of a schema and return it."""
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        required = schema.get("required")
        names = [one for one in required if one in properties] if isinstance(required, list) else []
        made: dict[str, Any] = {}
        self.text += "{"
        for name in names or properties:
            self.text += (", " if made else "") + orjson.dumps(str(name)).decode() + ": "
            made[str(name)] = self.value(properties[name], depth + 1)
        self.text += "}"
        return made

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least, most = schema.get("minItems"), schema.get("maxItems")
        count = max(1, min(least, 16)) if isinstance(least, int) else 1
        if isinstance(most, int):
            count = min(count, max(most, 0))
        made: list[Any] = []
        self.text += "["
        for _ in range(count):
            self.text += ", " if made else ""
            made.append(self.value(schema.get("items"), depth + 1))
        self.text += "]"
        return made

    def _number(self, schema: Mapping[str, Any], is_whole: bool) -> float:
        said = _NUMBER.match(self._complete(self.text, [",", "}", "]", "\n"], 12))
        value = float(said[1]) if said else 0.0
        for name, nearer in (("minimum", max), ("maximum", min)):
            limit = schema.get(name)
            if isinstance(limit, (int, float)) and not isinstance(limit, bool):
                value = nearer(value, limit)
        return int(value) if is_whole else value

    def _string(self, schema: Mapping[str, Any]) -> str:
        self.text += '"'
        said = self._complete(self.text, ['"', "\n"], _LONGEST_TEXT)
        longest = schema.get("maxLength")
        said = said[:longest] if isinstance(longest, int) and longest >= 0 else said
        least = schema.get("minLength")
        said = said.ljust(least) if isinstance(least, int) and least < 1 << 16 else said
        # Half a character is none.
        said = said.replace("\ufffd", "")
        self.text += orjson.dumps(said).decode()[1:]
        return said


def _common(one: str, two: str) -> int:
    count = 0
    for first, second in zip(one, two, strict=False):
        if first != second:
            break
        count += 1
    return count
