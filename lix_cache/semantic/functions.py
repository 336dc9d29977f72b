"""What a function is known by: its name or its code, and what it reads besides its arguments.

The qualified name is enough where it leads to one function. A lambda, a function inside another
one, one that a decorator put before another, and one of a script share theirs with others, so their
code belongs to it. What a function closes over, and the global data that it reads, decides its answers as
much as its arguments do, so it counts as it is at each call:

* What can be compared counts by content, settings in dataclasses included.
* An object that cannot be compared counts by which one it is. No other process has it, so answers
  are not shared with others; a global one is what its name says, until another takes its place.
* What the function itself writes (a counter, a list of its calls) counts as it was when the cache was
  put before the function, if it closes over it, and not at all if it is global, until another takes its
  place. No call would be equal to another otherwise. Items of it that it reads by name and does not set
  count as they are.
* What is too large to be read at each call counts by which one it is.
"""

from __future__ import annotations

import contextlib
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
from lix_cache.semantic.content import content, cost_of
from lix_cache.semantic.named import is_its_own_name, named_by_itself, of_code
from lix_cache.semantic.uses import uses_of
from lix_cache.values.identity import digest_of, take

__all__ = ["Known"]

_DEEPEST = 8
_MODULES_DEEP = 3
#: Values that one container may hold, and that one look may read: some 8 us each, on the event loop.
_MOST, _MOST_IN_ALL = 300, 1000
#: Things that are remembered for a function, beyond which those that it does not hold now are forgotten.
_MANY_KEPT = 64
_CONTAINERS = (list, dict, set)
_MISSING = object()
#: The number of an object to a reference to it, and the token that stands for it wherever it is met.
_TOKENS: dict[int, tuple[weakref.ref[Any], str]] = {}
#: Another one in each process.
_process = object()


@dataclasses.dataclass
class _Kept:
    """A cell or a container that the function writes, held so that no other gets its number.

    Attributes:
        thing: which one.
        form: what stands for what it held at first; None until it was read.
        is_own: whether that holds for this process alone.
        put: keys that the function sets.
    """

    thing: Any
    form: str | None = None
    is_own: bool = False
    put: set[str] = dataclasses.field(default_factory=set)


class _Look:
    """One look at a function: what it may still read, and what it has met."""

    def __init__(self) -> None:
        self.left = _MOST_IN_ALL
        self.tokens = 0
        self.hearsay = 0  # above 0 at functions that it may not call: what they write, it may read
        self.met: dict[int, _Kept] = {}
        self.own: dict[int, tuple[Any, str]] = {}


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
        self._rebound: set[str] = set()  # names of globals
        self._changed: set[str] = set()
        self._put: set[tuple[str, str]] = set()
        self._kept: dict[int, _Kept] = {}
        self._seen: dict[str, Any] = {}  # global objects by name, as they were at first
        self._own: dict[int, tuple[Any, str]] = {}  # tokens of what no weak reference can be had of
        self._process = _process
        self._told = False
        self.held = {*function.__code__.co_freevars, *uses_of(function.__code__).read}
        self.now()  # what the function writes counts as it is now

    def now(self) -> str:
        """Return what stands for the function at this moment, the same in every process where it can be."""
        if self._process is not _process:
            self._leave_to_parent()
        known = -1
        while known < self._known_writes():
            # What a function further down writes to is seen after it was read.
            known = self._known_writes()
            look = _Look()
            parts = self._of_function(self._function, (), look)
        if len(self._kept) > _MANY_KEPT:
            # One that comes back is known by what it holds then: that costs hits, and no answer.
            self._kept = look.met
        # Only what is read now is held: a large list that another has replaced must not stay for ever.
        self._own = look.own
        return self.name if len(parts) == 1 else f"{self.name} {digest_of(parts)}"

    def _known_writes(self) -> int:
        puts = sum(len(kept.put) for kept in list(self._kept.values()))
        return len(self._rebound) + len(self._changed) + len(self._put) + len(self._kept) + puts

    def _leave_to_parent(self) -> None:
        """Forget what stands for an object of the process that this one was forked from."""
        self._own = {}
        for kept in list(self._kept.values()):
            if kept.is_own:
                kept.form = None
        self._process = _process

    # -- functions ------------------------------------------------------------------------

    def _of_function(
        self, function: types.FunctionType, around: tuple[types.FunctionType, ...], look: _Look
    ) -> list[Any]:
        name = f"{function.__module__}.{function.__qualname__}"
        if function in around:
            return [name, around.index(function)]  # it closes over itself
        inside = (*around, function)
        is_ours = function.__globals__ is self._function.__globals__
        parts: list[Any] = [name]
        if not is_its_own_name(function, name):
            parts.append(of_code(function.__code__))
        elif not is_ours or len(inside) > _DEEPEST:
            return parts  # another module's: what it reads there is that module's
        parts += self._of_cells(function, inside, look)
        if around or hasattr(function, "__wrapped__"):
            # Elsewhere they are arguments of each call.
            own = [*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]
            parts += [["default", self._of_value(one, inside, look)] for one in own]
        if is_ours:
            parts += self._of_globals(function, inside, look)
        return parts

    def _of_cells(
        self, function: types.FunctionType, inside: tuple[types.FunctionType, ...], look: _Look
    ) -> Iterator[Any]:
        uses = uses_of(function.__code__)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            # A method that calls super() closes over its class, whose name it has.
            if name == "__class__" or name in self._ignore:
                continue
            kept = self._keep(cell, f"&{name}" in uses.rebound, look)
            value = _MISSING
            with contextlib.suppress(ValueError):  # it is empty still
                value = cell.cell_contents
            if isinstance(value, types.ModuleType):
                yield from self._of_module(name, value, uses.read, look)
            is_changed = type(value) in _CONTAINERS and f"&{name}" in uses.changed
            inner = self._keep(value, is_changed, look) if type(value) in _CONTAINERS else None
            if inner is not None:
                inner.put |= {key for owner, key in uses.put if owner == f"&{name}"}
                keys = {key for owner, key in uses.got if owner == f"&{name}"} - inner.put
                yield from self._of_items(name, value, keys, inside, look)
            kept = kept or inner
            if kept is not None and kept.form is not None and name not in self._identify:
                yield [name, kept.form]
            elif value is _MISSING:
                yield [name]
            else:
                before = look.tokens
                form = digest_of(self._named(name, value, inside, look))
                if kept is not None:
                    kept.form, kept.is_own = form, look.tokens > before
                yield [name, form]

    def _keep(self, thing: Any, is_written: bool, look: _Look) -> _Kept | None:
        """Return what is kept of a thing that the function writes; None if it does not."""
        kept = self._kept.get(id(thing))
        if kept is None and is_written and not look.hearsay:
            kept = self._kept[id(thing)] = _Kept(thing)
        if kept is None or kept.thing is not thing:
            return None
        look.met[id(thing)] = kept
        return kept

    def _of_globals(
        self, function: types.FunctionType, inside: tuple[types.FunctionType, ...], look: _Look
    ) -> Iterator[Any]:
        uses, around = uses_of(function.__code__), function.__globals__
        if not look.hearsay:
            self._rebound |= {name for name in uses.rebound if name[0] != "&"}
            self._changed |= {name for name in uses.changed if name[0] != "&"}
            self._put |= {one for one in uses.put if one[0][0] != "&"}
        for name in sorted(uses.read - self._ignore):
            value = around.get(name, _MISSING)
            if value is _MISSING:
                continue
            if name in self._identify:
                yield [name, self._named(name, value, inside, look)]
                continue
            if isinstance(value, types.ModuleType):
                yield from self._of_module(name, value, uses.read, look)
            if name in self._rebound:
                continue
            if name in self._changed and type(value) in _CONTAINERS:
                keys = {one for one in uses.got - self._put if one[0] == name}
                yield from self._of_items(name, value, {key for _, key in keys}, inside, look)
                form: Any = self._of_object(name, value, look)
            else:
                form = self._of_global(name, value, inside, look)
            if form:
                yield [name, form]
            plain = inspect.unwrap(value) if isinstance(value, types.FunctionType) else None
            if (
                plain is not None
                and plain.__globals__ is around
                and not plain.__closure__
                and plain not in inside
            ):
                look.hearsay += name not in uses.loaded
                inner = self._of_function(plain, inside, look)
                look.hearsay -= name not in uses.loaded
                if len(inner) > 1:
                    yield [name, inner]

    def _of_module(
        self, name: str, module: types.ModuleType, read: Collection[str], look: _Look, depth: int = 0
    ) -> Iterator[Any]:
        """Yield the data of a module that the function may read: what it reads has one of these names."""
        for attribute in sorted(vars(module).keys() & read):
            value, path = vars(module).get(attribute), f"{name}.{attribute}"
            if isinstance(value, types.ModuleType) and depth < _MODULES_DEEP:
                yield from self._of_module(path, value, read, look, depth + 1)
            elif form := self._of_global(path, value, (), look):
                yield [path, form]

    def _of_items(
        self, name: str, value: Any, keys: Collection[str],
        inside: tuple[types.FunctionType, ...], look: _Look,
    ) -> Iterator[Any]:  # fmt: skip
        """Yield items of a dict that the function changes elsewhere."""
        if type(value) is dict:
            for key in sorted(keys & value.keys()):
                yield [name, key, self._of_value(value.get(key), inside, look, name)]

    def _of_global(
        self, path: str, value: Any, inside: tuple[types.FunctionType, ...], look: _Look, depth: int = 0
    ) -> Any:
        """Return what stands for global data: what it holds, and of what cannot be compared its place."""
        form = self._compared(value, look, path)
        if form is not None:
            return form

        def part(name: object, one: Any) -> Any:
            return self._of_global(f"{path}.{name}", one, inside, look, depth + 1)

        look.left -= 1
        if look.left < 0 or depth > _DEEPEST:
            return self._of_object(path, value, look)
        if isinstance(value, functools.partial):
            return [
                "partial",
                part("func", value.func),
                part("args", value.args),
                part("keywords", value.keywords),
            ]
        if depth and isinstance(value, types.FunctionType):
            return self._of_function(value, inside, look)
        if isinstance(value, (re.Pattern, pathlib.PurePath)):
            return named_by_itself(value, repr)
        if isinstance(value, (list, tuple)) and len(value) <= look.left:
            return ["list", *(part(i, one) for i, one in enumerate(list(value)))]
        if isinstance(value, dict) and len(value) <= look.left:
            return [
                "dict",
                *([part("key", key), part(i, one)] for i, (key, one) in enumerate(list(value.items()))),
            ]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [field.name for field in dataclasses.fields(value)]
            return [
                "data",
                type(value).__qualname__,
                *(part(one, getattr(value, one, None)) for one in fields),
            ]
        return self._of_object(path, value, look)

    def _of_object(self, name: str, value: Any, look: _Look) -> str:
        """Return what stands for a global object: nothing, until it is another than at first."""
        return "" if self._seen.setdefault(name, value) is value else self._token(value, look)

    # -- values ---------------------------------------------------------------------------

    def _named(self, name: str, value: Any, inside: tuple[types.FunctionType, ...], look: _Look) -> Any:
        identify = self._identify.get(name)
        if identify is not None:
            return take(identify(value), f"what identify says of {name!r}")[0]
        return self._of_value(value, inside, look, name)

    def _of_value(
        self, value: Any, inside: tuple[types.FunctionType, ...], look: _Look, name: str = "", depth: int = 0
    ) -> Any:
        """Return what stands for something that a function holds, in plain values."""
        again = functools.partial(self._of_value, inside=inside, look=look, name=name, depth=depth + 1)
        kind = type(value)
        look.left -= 1
        if look.left < 0 or depth > _DEEPEST:
            self._tell(name, kind)
            return self._token(value, look)
        if isinstance(value, types.FunctionType):
            return self._of_function(value, inside, look)
        if isinstance(value, types.MethodType):
            return ["method", again(value.__func__), again(value.__self__)]
        if isinstance(value, functools.partial):
            return ["partial", again(value.func), again(value.args), again(value.keywords)]
        named = named_by_itself(value, again)
        if named is not None:
            return named
        form = self._compared(value, look, name)
        if form is not None:
            return form
        if kind in (list, tuple) and len(value) <= look.left:
            return [kind.__name__, *map(again, list(value))]
        if kind is dict and len(value) <= look.left:
            return ["dict", *([again(key), again(item)] for key, item in list(value.items()))]
        self._tell(name, kind)
        return self._token(value, look)

    def _compared(self, value: Any, look: _Look, name: str) -> str | None:
        """Return what stands for a thing that can be compared, None for any other."""
        cost = cost_of(value, min(_MOST, look.left))
        if cost is None:
            self._tell(name, type(value), "is too large to be compared at each call")
            return self._token(value, look)
        look.left -= cost
        return content(value) if cost else None

    def _token(self, value: Any, look: _Look) -> str:
        """Return what stands for an object in this process, and for no other one ever after."""
        look.tokens += 1
        number = id(value)
        for known in (_TOKENS.get(number), self._own.get(number)):
            if known is not None and (known[0]() if isinstance(known[0], weakref.ref) else known[0]) is value:
                if not isinstance(known[0], weakref.ref):
                    look.own[number] = known
                return known[1]
        token = os.urandom(16).hex()
        try:
            # When it is gone, another object may get its number.
            _TOKENS[number] = weakref.ref(value, lambda _: _TOKENS.pop(number, None)), token
        except TypeError:
            self._own[number] = look.own[number] = value, token
        return token

    def _tell(self, name: str, kind: type, why: str = "cannot be compared") -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "answers of {} are shared with no other process: it holds {}, a {}, which {}. A change "
                "inside it is not seen. Name it in ignore if it changes nothing, or in identify with what "
                "does",
                self.name, repr(name) if name else "something", kind.__qualname__, why,
            )  # fmt: skip


def _after_fork_in_child() -> None:
    # From now on an object here may differ from the one of the same number there.
    global _process
    _process = object()
    _TOKENS.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
