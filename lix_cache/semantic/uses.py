"""What code reads and what it writes, as its instructions show. Pure.

Instructions differ between Python versions. A pattern that is not known counts as reading: to take an
input for something written would serve old answers, and the other mistake costs hits alone.
"""

from __future__ import annotations

import functools
import types
from typing import Any, NamedTuple

__all__ = ["Uses", "uses_of"]

#: Methods that change a list, a dict or a set, and return nothing of it. ``pop`` and ``setdefault`` read.
_MUTATORS = frozenset(
    ("add", "append", "clear", "discard", "extend", "insert", "remove", "reverse", "sort", "update")
)
#: Instructions that put one value on the stack, and do nothing else.
_LOADS = frozenset(
    ("LOAD_CONST", "LOAD_DEREF", "LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_GLOBAL", "LOAD_SMALL_INT")
)
#: Two in one: the window below is of single ones.
_PAIRS = {
    "LOAD_FAST_LOAD_FAST": ("LOAD_FAST", "LOAD_FAST"),
    "STORE_FAST_LOAD_FAST": ("STORE_FAST", "LOAD_FAST"),
    "STORE_FAST_STORE_FAST": ("STORE_FAST", "STORE_FAST"),
}
_SILENT = frozenset(("CACHE", "EXTENDED_ARG", "NOP", "PUSH_NULL"))


class Uses(NamedTuple):
    """Names of globals and, with ``&`` before them, of what is closed over.

    Attributes:
        read: names that may be read: of globals, and of what is in modules.
        loaded: names that surely are of globals; others may be of attributes alone.
        rebound: names that get a new value.
        changed: names whose items are set or deleted, or that one of the methods is called of that
            change a list, a dict or a set. What else has such a method is not changed by it.
        got: name and key of the items that are read by a constant text.
        put: name and key of those that are set by one.
    """

    read: frozenset[str]
    loaded: frozenset[str]
    rebound: frozenset[str]
    changed: frozenset[str]
    got: frozenset[tuple[str, str]]
    put: frozenset[tuple[str, str]]


class _One(NamedTuple):
    op: str
    value: Any
    is_target: bool

    @property
    def name(self) -> str | None:
        """The name that it loads. Not LOAD_NAME: that is of a class body, and may be the class's own."""
        return {"LOAD_GLOBAL": f"{self.value}", "LOAD_DEREF": f"&{self.value}"}.get(self.op)


_START = _One("", None, True)


@functools.lru_cache(maxsize=1024)
def uses_of(code: types.CodeType) -> Uses:
    """Return what code, and the code inside it, reads and writes."""
    read, loaded, rebound = set(code.co_names), set[str](), set[str]()
    changed: set[str | None] = set()
    got, put = set[tuple[str, str]](), set[tuple[str, str]]()
    before = [_START] * 4
    for one in _instructions(code):
        if one.op == "LOAD_GLOBAL":
            loaded.add(str(one.value))
        elif one.op in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            rebound.add(str(one.value))
        elif one.op in ("STORE_DEREF", "DELETE_DEREF"):
            rebound.add(f"&{one.value}")
        elif one.op in ("LOAD_METHOD", "LOAD_ATTR") and one.value in _MUTATORS and not one.is_target:
            changed.add(before[-1].name)
        elif one.op in ("STORE_SUBSCR", "DELETE_SUBSCR", "DUP_TOP_TWO"):  # the last of them is "+=" on 3.10
            _note(before[-2], before[-1], one, changed, put)
        elif _is_copy(one) and _is_copy(before[-1]):  # and this on later ones
            _note(before[-3], before[-2], before[-1], changed, put)
        elif one.op == "BINARY_SUBSCR":
            _note(before[-2], before[-1], one, set(), got)
        elif one.op == "LOAD_CONST" and before[-1][:2] in (("LOAD_METHOD", "get"), ("LOAD_ATTR", "get")):
            _note(before[-2], one, before[-1], set(), got)
        before = [*before[1:], one]
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            more = uses_of(inner)
            read |= more.read
            loaded |= more.loaded
            rebound |= more.rebound
            changed |= more.changed
            got |= more.got
            put |= more.put
    # Its own variables, that code inside it closes over, may have names of outer ones.
    own = {f"&{name}" for name in code.co_cellvars}
    return Uses(
        frozenset(read),
        frozenset(loaded),
        frozenset(rebound - own),
        frozenset(name for name in changed if name is not None and name not in own),
        frozenset(one for one in got if one[0] not in own),
        frozenset(one for one in put if one[0] not in own),
    )


def _note(
    container: _One, key: _One, last: _One, changed: set[str | None], items: set[tuple[str, str]]
) -> None:
    """Note a container, if it was loaded just before its key, and the key, if it is a constant text."""
    # Where a jump leads in between, another value may lie in its place.
    if container.name is None or key.op not in _LOADS or key.is_target or last.is_target:
        return
    changed.add(container.name)
    if key.op == "LOAD_CONST" and isinstance(key.value, str):
        items.add((container.name, key.value))


def _instructions(code: types.CodeType) -> list[_One]:
    import dis

    found: list[_One] = []
    for one in dis.get_instructions(code):
        pair = _PAIRS.get(one.opname)
        if pair is not None:
            found.append(_One(pair[0], None, one.is_jump_target))
            found.append(_One(pair[1], None, False))
        elif one.opname not in _SILENT or one.is_jump_target:
            value = one.arg if one.opname == "COPY" else one.argval
            found.append(_One(one.opname, value, one.is_jump_target))
    return found


def _is_copy(one: _One) -> bool:
    return one.op == "COPY" and one.value == 2 and not one.is_target
