"""What a function is known by: its name or its code, and what it reads besides its arguments.

The qualified name is enough where it leads to one function. A lambda, a function inside another
one, one that a decorator put before another, and one of a script share theirs with others, so their
code belongs to it. What a function closes over, and the global data that it reads, decides its answers as
much as its arguments do, so it counts as it is at each call:

* What can be compared counts by content, settings in dataclasses included.
* An object that cannot be compared counts by which one it is. No other process has it, so answers
  are not shared with others; a global one is what its name says, until another takes its place.
* What the function itself writes (a counter, a list of its calls) counts as it was when the cache was
  put before the function, if it closes over it, and not at all if it is global. No call would be
  equal to another otherwise.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import pathlib
import re
import types
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from lix_cache._log import logger
from lix_cache.errors import InvalidInput
from lix_cache.values.identity import digest_of, take

__all__ = ["Known"]

_DEEPEST = 8
#: A larger container counts as an object: it would be read whole at each call.
_MOST = 10_000
_MUTATORS = frozenset(
    ("add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "reverse",
     "setdefault", "sort", "update")
)  # fmt: skip
#: The number of an object to a reference to it, and the token that stands for it wherever it is met.
_TOKENS: dict[int, tuple[weakref.ref[Any], str]] = {}


class Known:
    """One function, as its answers are kept under.

    Args:
        function: which one.
        ignore: names that it closes over or reads, and that change nothing.
        identify: such names, and what stands for their values.

    Attributes:
        name: module and qualified name.
        held: the names of what it may read besides its arguments.
    """

    def __init__(
        self,
        function: types.FunctionType,
        ignore: Collection[str] = (),
        identify: Mapping[str, Callable[[Any], Any]] | None = None,
    ) -> None:
        self.name = f"{function.__module__}.{function.__qualname__}"
        self._function = function
        self._ignore = frozenset(ignore)
        self._identify = identify or {}
        self._written: set[Any] = set()  # names of globals, numbers of cells
        self._first: dict[int, str] = {}  # what written cells held at first
        self._seen: dict[str, Any] = {}  # global objects by name, as they were at first
        self._own: dict[int, tuple[Any, str]] = {}  # tokens of what no weak reference can be had of
        self._told = False
        self.held = {*function.__code__.co_freevars, *_uses(function.__code__)[0]}
        self.now()  # what the function writes counts as it is now

    def now(self) -> str:
        """Return what stands for the function at this moment, the same in every process where it can be."""
        known = -1
        while known < len(self._written):
            # What a function further down writes to is seen after it was read.
            known = len(self._written)
            parts = self._of_function(self._function, ())
        return self.name if len(parts) == 1 else f"{self.name} {digest_of(parts)}"

    # -- functions ------------------------------------------------------------------------

    def _of_function(self, function: types.FunctionType, around: tuple[types.FunctionType, ...]) -> list[Any]:
        name = f"{function.__module__}.{function.__qualname__}"
        if function in around:
            return [name, around.index(function)]  # it closes over itself
        inside = (*around, function)
        is_ours = function.__globals__ is self._function.__globals__
        parts: list[Any] = [name]
        if not _is_its_own_name(function, name):
            parts.append(_of_code(function.__code__))
        elif not is_ours or len(inside) > _DEEPEST:
            return parts  # another module's: what it reads there is that module's
        parts += self._of_cells(function, inside)
        if around or hasattr(function, "__wrapped__"):
            # Elsewhere they are arguments of each call.
            own = [*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]
            parts += [["default", self._of_value(one, inside)] for one in own]
        if is_ours:
            parts += self._of_globals(function, inside)
        return parts

    def _of_cells(
        self, function: types.FunctionType, inside: tuple[types.FunctionType, ...]
    ) -> Iterator[Any]:
        _, written = _uses(function.__code__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            # A method that calls super() closes over its class, whose name it has.
            if name == "__class__" or name in self._ignore:
                continue
            if f"&{name}" in written:
                self._written.add(id(cell))
            if id(cell) in self._first:
                yield [name, self._first[id(cell)]]
                continue
            try:
                value = cell.cell_contents
            except ValueError:
                yield [name]  # it is empty still
                continue
            form = digest_of(self._named(name, value, inside))
            if id(cell) in self._written:
                self._first[id(cell)] = form
            yield [name, form]

    def _of_globals(
        self, function: types.FunctionType, inside: tuple[types.FunctionType, ...]
    ) -> Iterator[Any]:
        read, written = _uses(function.__code__)
        around = function.__globals__
        self._written |= {name for name in written if not name.startswith("&")}
        for name in sorted(read - self._written - self._ignore):
            if name not in around:
                continue
            value = around[name]
            if name in self._identify:
                yield [name, self._named(name, value, inside)]
                continue
            if isinstance(value, types.ModuleType):
                yield from self._of_module(name, value, read)
            form = _content(value) or self._of_object(name, value)
            if form:
                yield [name, form]
            plain = inspect.unwrap(value) if isinstance(value, types.FunctionType) else None
            if (
                plain is not None
                and plain.__globals__ is around
                and not plain.__closure__
                and plain not in inside
            ):
                inner = self._of_function(plain, inside)
                if len(inner) > 1:
                    yield [name, inner]

    def _of_module(self, name: str, module: types.ModuleType, read: Collection[str]) -> Iterator[Any]:
        """Yield the data of a module that the function may read: what it reads has one of these names."""
        for attribute in sorted(vars(module).keys() & read):
            if (form := _content(vars(module)[attribute])) is not None:
                yield [f"{name}.{attribute}", form]

    def _of_object(self, name: str, value: Any) -> str:
        """Return what stands for a global object: nothing, until it is another than at first."""
        return "" if self._seen.setdefault(name, value) is value else self._token(value)

    # -- values ---------------------------------------------------------------------------

    def _named(self, name: str, value: Any, inside: tuple[types.FunctionType, ...]) -> Any:
        identify = self._identify.get(name)
        if identify is not None:
            return take(identify(value), f"what identify says of {name!r}")[0]
        return self._of_value(value, inside, name)

    def _of_value(
        self, value: Any, inside: tuple[types.FunctionType, ...], name: str = "", depth: int = 0
    ) -> Any:
        """Return what stands for something that a function holds, in plain values."""
        again = functools.partial(self._of_value, inside=inside, name=name, depth=depth + 1)
        kind = type(value)
        if isinstance(value, types.FunctionType):
            return self._of_function(value, inside)
        if isinstance(value, types.MethodType):
            return ["method", again(value.__func__), again(value.__self__)]
        if isinstance(value, functools.partial):
            return ["partial", again(value.func), again(value.args), again(value.keywords)]
        named = _named_by_itself(value, again)
        if named is not None:
            return named
        form = _content(value)
        if form is not None:
            return form
        if depth < _DEEPEST and kind in (list, tuple):
            return [kind.__name__, *map(again, list(value))]
        if depth < _DEEPEST and kind is dict:
            return ["dict", *([again(key), again(item)] for key, item in list(value.items()))]
        self._tell(name, kind)
        return self._token(value)

    def _token(self, value: Any) -> str:
        """Return what stands for an object in this process, and for no other one ever after."""
        number = id(value)
        known = _TOKENS.get(number)
        if known is not None and known[0]() is value:
            return known[1]
        token = os.urandom(16).hex()
        try:
            # When it is gone, another object may get its number.
            _TOKENS[number] = weakref.ref(value, lambda _: _TOKENS.pop(number, None)), token
        except TypeError:
            return self._own.setdefault(number, (value, token))[1]
        return token

    def _tell(self, name: str, kind: type) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "answers of {} are shared with no other process: it holds {}, a {}, which cannot be "
                "compared. Name it in ignore if it changes nothing, or in identify with what does",
                self.name, repr(name) if name else "something", kind.__qualname__,
            )  # fmt: skip


def _named_by_itself(value: Any, again: Callable[[Any], Any]) -> Any:
    """Return what stands for a thing that has a name, or a text, in every process; None for any other."""
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if isinstance(value, types.BuiltinFunctionType):
        return ["builtin", again(value.__self__), value.__name__]
    if isinstance(value, (types.MethodDescriptorType, types.WrapperDescriptorType)):
        return ["builtin", again(value.__objclass__), value.__name__]
    if isinstance(value, functools._lru_cache_wrapper):  # noqa: SLF001 - it has no other name
        return again(value.__wrapped__)
    if isinstance(value, type) and "<" not in value.__qualname__ and value.__module__ != "__main__":
        return ["class", value.__module__, value.__qualname__]
    if isinstance(value, re.Pattern):
        return ["pattern", value.pattern, value.flags]
    return ["path", os.fspath(value)] if isinstance(value, pathlib.PurePath) else None


def _content(value: Any) -> str | None:
    """Return a digest of what can be compared, None of anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {
            field.name: _content(getattr(value, field.name, None)) for field in dataclasses.fields(value)
        }
        whole = [kind.__module__, kind.__qualname__, fields]
        return None if None in fields.values() else digest_of(whole)
    if type(value) is types.SimpleNamespace:
        return _content(["a namespace", vars(value)])
    if isinstance(value, (list, tuple, dict, set, frozenset)) and len(value) > _MOST:
        return None
    try:
        return digest_of(value, "")
    except InvalidInput:
        return None


# -- code ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _uses(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that code may read (of globals, and of what is in modules), and those it writes to.

    Writing is a new value, an item, or a method that changes a list, a dict or a set. What is written
    to in a way that is not seen here counts as read.
    """
    import dis

    read, written = set(code.co_names), set()
    before: list[dis.Instruction] = []
    for one in dis.get_instructions(code):
        if one.opname in ("STORE_GLOBAL", "STORE_DEREF", "DELETE_GLOBAL", "DELETE_DEREF"):
            written |= _loaded([one])
        elif one.opname in ("LOAD_METHOD", "LOAD_ATTR") and one.argval in _MUTATORS:
            written |= _loaded(before[-1:])
        elif one.opname in ("STORE_SUBSCR", "DELETE_SUBSCR", "DUP_TOP_TWO") and _is_load(before[-1:]):
            written |= _loaded(before[-2:-1])  # name, key, and this; the last of them is "+=" before 3.11
        elif _is_copy([one]) and _is_copy(before[-1:]) and _is_load(before[-2:-1]):
            written |= _loaded(before[-3:-2])  # name, key, and two copies: "+="
        if one.opname not in ("CACHE", "EXTENDED_ARG", "PUSH_NULL"):
            before = [*before[-3:], one]
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            more, changed = _uses(inner)
            read |= more
            written |= changed
    return frozenset(read), frozenset(written)


def _loaded(instructions: list[Any]) -> set[str]:
    """Return the names that these read or write; those of cells with a sign before them."""
    found = set()
    for one in instructions:
        _, _, where = one.opname.partition("_")
        if where in ("GLOBAL", "NAME"):
            found.add(one.argval)
        elif "DEREF" in where:
            found.add(f"&{one.argval}")
    return found


def _is_load(instructions: list[Any]) -> bool:
    simple = ("LOAD_CONST", "LOAD_SMALL_INT", "LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF")
    return any(one.opname in simple or one.opname.startswith("LOAD_FAST") for one in instructions)


def _is_copy(instructions: list[Any]) -> bool:
    return any(one.opname == "COPY" and one.arg == 2 for one in instructions)


def _is_its_own_name(function: types.FunctionType, name: str) -> bool:
    """Whether the name leads to this function, and was not taken over from another (functools.wraps)."""
    code = function.__code__
    return (
        "<" not in name
        and function.__module__ != "__main__"
        and not hasattr(function, "__wrapped__")
        and code.co_name == function.__name__
        # A method that calls super() closes over its class, whose name it has.
        and not set(code.co_freevars) - {"__class__"}
    )


def _of_code(code: types.CodeType) -> list[Any]:
    constants = [_of_code(one) if inspect.iscode(one) else _content(one) for one in code.co_consts]
    return [code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants]
