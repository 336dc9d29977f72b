"""Commands that are about all nodes of a cluster, or about keys in many slots: what each node is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from lix_cache.errors import RedisUnavailable
from lix_cache.hot.scripts import ScriptCall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lix_cache.hot.scripts import Command
    from lix_cache.hot.slots import Node, Nodes

__all__ = ["SCAN_AGAIN", "Joined", "spread"]

#: What INFO counts on each node, and the store has the sum of.
_SUMS = frozenset({b"used_memory", b"maxmemory", b"total_system_memory"})

#: A node's own cursor of SCAN is multiplied by both; what is added says which node, and of which masters.
_MOST_NODES = 1024
_MOST_GENERATIONS = 65536

#: The code of the error where a scan is to begin again.
SCAN_AGAIN = "SCANAGAIN"


class Joined(NamedTuple):
    """How the answer to one command comes of the answers to its parts.

    Attributes:
        start, end: the places of the parts.
        join: makes one answer of theirs.
    """

    start: int
    end: int
    join: Callable[[Sequence[Any]], Any]

    def __call__(self, replies: Sequence[Any]) -> Any:
        parts = replies[self.start : self.end]
        if self.join is _any or self.join is _all:
            return self.join(parts)
        for part in parts:
            if isinstance(part, Exception):
                return part
        return self.join(parts)


def spread(
    command: Command, nodes: Nodes
) -> tuple[list[tuple[Command, int, Node | None]], Callable[[Sequence[Any]], Any]]:
    """Return the parts of a command, each with its slot and the node that alone is meant, and how to join."""
    slot = nodes.slot(command)
    if isinstance(command, ScriptCall):
        return [(command, slot or 0, None)], _first
    name, *rest = command
    if name == "MGET":
        gets: list[Command] = [("GET", key) for key in rest]
        return [(get, nodes.slot(get) or 0, None) for get in gets], list
    if slot is not None:
        return [(command, slot, None)], _first
    if name == "SCAN":
        return _scan(command, nodes)
    if name in ("PING", "INFO"):
        join = _sum_of_infos if name == "INFO" else _all
        return [(command, 0, node) for node in nodes.masters], join
    if name == "TIME":
        # Any clock will do, so no node that is away keeps it from being told.
        return [(command, 0, node) for node in nodes.masters], _any
    return [(command, 0, nodes.masters[0])], _first


def _first(parts: Sequence[Any]) -> Any:
    return parts[0]


def _any(parts: Sequence[Any]) -> Any:
    return next((part for part in parts if not isinstance(part, Exception)), parts[0])


def _all(parts: Sequence[Any]) -> Any:
    """Return the answer of all nodes, or the first one's trouble with how many have some."""
    troubles = [part for part in parts if isinstance(part, Exception)]
    if not troubles:
        return parts[0]
    first = troubles[0]
    if isinstance(first, RedisUnavailable) and len(parts) > 1:
        first.args = (f"{len(troubles)} of {len(parts)} masters do not serve: {first}",)
    return first


def _scan(
    command: tuple[Any, ...], nodes: Nodes
) -> tuple[list[tuple[Command, int, Node | None]], Callable[[Sequence[Any]], Any]]:
    """Go through the nodes one after the other: the cursor says where it is.

    A place among the masters, and a cursor of one of them, say nothing once there are other masters.
    """
    masters, generation = nodes.masters, nodes.generation % _MOST_GENERATIONS
    rest, began = divmod(int(command[1]), _MOST_GENERATIONS)
    cursor, at = divmod(rest, _MOST_NODES)
    if (rest or began) and (began != generation or at >= len(masters)):
        again = RedisUnavailable(
            "the masters of the cluster have changed, and keys would be passed over: scan again",
            code=SCAN_AGAIN,
        )
        return [(("PING",), 0, masters[0])], lambda _: again

    def join(parts: Sequence[Any]) -> Any:
        following, keys = parts[0]
        theirs = int(following)
        place = theirs * _MOST_NODES + at if theirs else at + 1
        ended = not theirs and place == len(masters)
        return [b"0" if ended else b"%d" % (place * _MOST_GENERATIONS + generation), keys]

    return [((command[0], cursor, *command[2:]), 0, masters[at])], join


def _sum_of_infos(parts: Sequence[bytes]) -> bytes:
    """Return the first node's answer, with the sums of what all have."""
    sums: dict[bytes, int] = {}
    for part in parts:
        for line in part.splitlines():
            name, _, value = line.partition(b":")
            if name in _SUMS and value.isdigit():
                sums[name] = sums.get(name, 0) + int(value)
    lines = []
    for line in parts[0].splitlines():
        name = line.partition(b":")[0]
        lines.append(b"%b:%d" % (name, sums[name]) if name in sums else line)
    return b"\r\n".join(lines)
