"""What stands for a thing that has a name in every process, and for the code of one that has none."""

from __future__ import annotations

import functools
import inspect
import os
import pathlib
import re
import types
from collections.abc import Callable
from typing import Any

from lix_cache.semantic.content import content
from lix_cache.values.identity import digest_of

__all__ = ["is_its_own_name", "named_by_itself", "of_code"]


def named_by_itself(value: Any, again: Callable[[Any], Any]) -> Any:
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


def is_its_own_name(function: types.FunctionType, name: str) -> bool:
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


@functools.lru_cache(maxsize=1024)
def of_code(code: types.CodeType) -> str:
    constants = [of_code(one) if inspect.iscode(one) else content(one) for one in code.co_consts]
    return digest_of([code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants])
