"""The Lua that runs inside Redis: one round trip, and nothing in between.

The scripts are files beside this one, ``lua/NAME.lua``, each with what it takes and returns at its
top. ``--#include FILE`` stands for what scripts share. Plain Lua for Redis 6.2 and later and Valkey,
without modules or functions. Every script takes its keys as KEYS, all under one hash tag. A script
that writes does its checks first, so that it either does all of its work or none. While one runs the
server serves no other client, so none does work in proportion to what there is: each has a bound that
stands in it or in what its caller asks for, and what is left is done by the calls that follow.

A command may be carried out at any time after its caller gave up: a server that hung goes on, a proxy
lets go of what it held. Meanwhile the session may have been moved, cleared or deleted. So each
script that removes or puts back says what it is about, and does nothing where that is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from lix_cache._cached_property import cached_property

__all__ = ["KEYS_MS", "PAGE", "Command", "Script", "ScriptCall", "Value"]

Value: TypeAlias = "bytes | str | int | float"

_INCLUDE = "--#include "


@dataclass(frozen=True)
class Script:
    """A script, read when it is first used.

    Attributes:
        name: of its file, without ``.lua``.
    """

    name: str

    @cached_property
    def source(self) -> str:
        """The Lua that is sent, without comments."""
        return _text(f"{self.name}.lua")

    @cached_property
    def sha(self) -> str:
        """SHA-1 of the source, as ``EVALSHA`` wants it."""
        import hashlib

        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class ScriptCall:
    """A script with its keys and arguments."""

    script: Script
    keys: tuple[str | bytes, ...]
    args: tuple[Value, ...]


#: What can be sent in a round trip: a script, or the words of a plain command.
Command: TypeAlias = "ScriptCall | tuple[Value, ...]"


def _text(name: str) -> str:
    from pkgutil import get_data

    data = get_data("lix_cache.hot", f"lua/{name}")
    if data is None:
        raise ImportError(f"lix_cache/hot/lua/{name} cannot be read: the package's files are needed")
    text = []
    for line in data.decode("ascii").splitlines():
        if line.startswith(_INCLUDE):
            text.append(_text(line.removeprefix(_INCLUDE)))
        elif not line.lstrip().startswith("--"):
            text.append(line + "\n")
    return "".join(text)


#: Messages in a page of a window, at most (lua/session/pages.lua).
PAGE = 2000
#: How long a key of a message is known at least (lua/session/add.lua).
KEYS_MS = 86_400_000

ADD = Script("session/add")
FIND = Script("session/find")
TAKE_BACK = Script("session/take_back")
TAKE_OUT = Script("session/take_out")
GIVEN = Script("session/given")
DOUBT_KEYS = Script("session/doubt_keys")
READ = Script("session/read")
OLDEST = Script("session/oldest")
TRIM = Script("session/trim")
REHYDRATE = Script("session/rehydrate")
ENDS = Script("session/ends")
FORGET = Script("session/forget")
REFUSE = Script("session/refuse")
IDLE = Script("session/idle")
LAST_USED = Script("session/last_used")
LEASE = Script("session/lease")

RING_SET = Script("ring/set")
RING_COUNT = Script("ring/count")
RING_CLEAR = Script("ring/clear")
