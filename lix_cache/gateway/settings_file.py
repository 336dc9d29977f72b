"""Reads settings: YAML, TOML, variables, and each problem with its place. Knows no setting by name."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from lix_cache._spelling import did_you_mean
from lix_cache.checks import given
from lix_cache.errors import ConfigError, MissingExtra

__all__ = [
    "FieldsError",
    "SettingsError",
    "TogetherError",
    "check_fields",
    "from_file",
    "from_text",
    "given_number",
    "made",
    "problems_of",
]

T = TypeVar("T")


def from_file(path: str) -> dict[str, Any]:
    """Return the table that a file holds, by the end of its name.

    Raises:
        ConfigError: it cannot be read, or holds no table.
        MissingExtra: PyYAML is not installed.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(4 << 20)
    except OSError as error:
        raise ConfigError(f"the settings file {path!r} cannot be read: {error.strerror}") from None
    value = _parsed(path, data)
    if not isinstance(value, dict):
        raise ConfigError(f"the settings file {path!r} must hold a table of settings, {given(value)}")
    return value


def _parsed(path: str, data: bytes) -> Any:
    if path.endswith(".toml"):
        try:
            import tomllib
        except ImportError:  # Python 3.10
            import tomli as tomllib
        try:
            return tomllib.loads(data.decode())
        except Exception as error:  # noqa: BLE001 - whatever the parser meets in a file is the file's mistake
            # Of its error only the place: the rest quotes the line, which may hold a key.
            line = re.search(r"at line (\d+), column \d+\)\Z", str(error))
            place = f" (line {line[1]})" if line else ""
            raise ConfigError(f"the settings file {path!r} is not valid TOML{place}") from None
    if not path.endswith((".yaml", ".yml")):
        raise ConfigError(f"the settings file {path!r} must end in .yaml, .yml or .toml")
    try:
        import yaml
    except ImportError:
        raise MissingExtra("PyYAML", "gateway", "a settings file in YAML") from None
    try:
        return yaml.safe_load(data)
    except Exception as error:  # noqa: BLE001 - a "!!bool x" is a KeyError, a "!!timestamp x" an AttributeError
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise ConfigError(f"the settings file {path!r} is not valid YAML{place}") from None


def from_text(variable: str, text: str, hint: Any) -> Any:
    """Return what the text of a variable says."""
    if hint is str:
        return text
    if hint is bool:
        lowered = text.strip().lower()
        if lowered in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            return lowered in ("1", "true", "yes", "on")
        raise ConfigError(f"environment variable {variable} must be yes or no")
    try:
        if hint in (int, float):
            return hint(text)
        if not text.lstrip().startswith(("[", "{")):
            return [part.strip() for part in text.split(",") if part.strip()]
        return json.loads(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}.get(hint, "JSON")
    raise ConfigError(f"environment variable {variable} must be {wanted}, and its text is not")


class SettingsError(ConfigError):
    """Settings that make no sense.

    Attributes:
        problems: each of them, with its place in the file.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = len(problems)
        super().__init__(problems[0] if count == 1 else f"{count} problems: " + "; ".join(problems))


class FieldsError(SettingsError):
    """Fields of one table that make no sense.

    Attributes:
        fields: each with its problem.
    """

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self.fields = fields
        super().__init__([problem for _, problem in fields])


def check_fields(*checks: tuple[str, bool, str]) -> None:
    """Refuse what makes no sense, all of it at once.

    Args:
        checks: a field, whether it makes sense, and what to say if it does not.

    Raises:
        FieldsError: with each problem.
    """
    found = [(name, problem) for name, makes_sense, problem in checks if not makes_sense]
    if found:
        raise FieldsError(found)


class TogetherError(ConfigError):
    """Settings of which each makes sense, and which do not fit together."""


def made(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a dataclass of a table.

    Args:
        kind: of dataclass.
        values: the table.
        where: its place in the file, with a dot at its end; "" for the file itself.

    Raises:
        SettingsError: with all its problems.
    """
    hints = get_type_hints(kind)
    fitted: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in values.items():
        if name not in hints:
            hint = did_you_mean(str(name), list(hints))
            problems.append(f"unknown setting {where}{str(name)[:60]!r}{hint}")
            continue
        try:
            fitted[name] = _fitted(value, hints[name], where + name)
        except ConfigError as error:
            problems += problems_of(error)
    found: list[str] = []
    try:
        made_of = kind(**fitted)
        if not problems:
            return made_of
    except FieldsError as error:
        # What is not there may be what is misspelt.
        found = [problem for name, problem in error.fields if name in fitted or not problems]
    except ConfigError as error:
        found = problems_of(error) if not problems else []
    found = _alone(kind, fitted) or found
    raise SettingsError(problems + [f"{where[:-1]}: {one}" if where else one for one in found])


def _alone(kind: type[Any], fitted: Mapping[str, Any]) -> list[str]:
    """Return the problem of each value by itself: a dataclass says only the first of its own."""
    problems: list[str] = []
    try:
        kind()
    except ConfigError:
        return problems  # without some of its fields it makes no sense
    for name, value in fitted.items():
        try:
            kind(**{name: value})
        except TogetherError:
            pass  # what it needs may be among the others
        except ConfigError as error:
            problems += problems_of(error)
    return problems


def given_number(value: object) -> str:
    """Return what may be told of what was given for a number, or a yes or no.

    No secret belongs there, so a number is shown: it says more than its type. A text is not: it may be a
    secret that stands one line too high.
    """
    is_number = isinstance(value, (int, float)) and abs(value) < 1e15
    return f"got {value!r}" if is_number else given(value)


def problems_of(error: ConfigError | MissingExtra) -> list[str]:
    """Return each problem that an error tells of."""
    return error.problems if isinstance(error, SettingsError) else [str(error)]


def _each(values: Iterable[Any], of: Any, where: str) -> tuple[Any, ...]:
    found, problems = [], []
    for i, value in enumerate(values):
        try:
            found.append(_fitted(value, of, f"{where}[{i}]"))
        except ConfigError as error:
            problems += problems_of(error)
    if problems:
        raise SettingsError(problems)
    return tuple(found)


def _fitted(value: Any, hint: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list, {given(value)}")
        of = get_args(hint)[0]
        return _each(value, of, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, {given(value)}")
        return made(hint, value, f"{where}.")  # type: ignore[arg-type]
    if origin not in (None, Union):
        if not isinstance(value, Mapping) or not all(
            isinstance(name, str) and isinstance(item, str) for name, item in value.items()
        ):
            raise ConfigError(f"{where} must be a table of texts, {given(value)}")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        told = given(value) if hint is str else given_number(value)
        raise ConfigError(f"{where} must be {hint.__name__}, {told}")
    return value
