"""One round of requests to nodes: what is sent, and what it leaves. See routes.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lix_cache.drivers.commands import packed, wait_for_replica
from lix_cache.effects import NodeAsk

if TYPE_CHECKING:
    from lix_cache.hot.scripts import Command
    from lix_cache.hot.slots import Node

__all__ = ["Round", "Todo", "ask_of"]

_ASKING: Command = ("ASKING",)


@dataclass(slots=True)
class Todo:
    """A command that has no answer yet.

    Attributes:
        at: its place among the answers.
        command: what is sent.
        slot: of its key.
        node: where it goes, if not to the owner of the slot.
        is_asking: the node does not own the slot yet.
        is_fixed: it is for that node alone.
        is_whole: a node did not know the script.
        is_last: it is not sent again, should the cluster be down there too.
    """

    at: int
    command: Command
    slot: int
    node: Node | None = None
    is_asking: bool = False
    is_fixed: bool = False
    is_whole: bool = False
    is_last: bool = False


class Round:
    """What one round of requests left.

    Attributes:
        replies: the answers so far.
        again: commands to be sent again.
        elsewhere: those that are sent again only if their slot has another owner than this.
        down: those that are sent again for as long as the cluster is waited for, or the owner is another.
        unvouched: those that are sent once a sentinel has named the server.
        waits: not at once.
        opened: see :meth:`Routes.answers`.
        waits_for_replica: after each answer comes how many replicas have it.
    """

    def __init__(self, replies: list[Any], opened: int | None, *, waits_for_replica: bool) -> None:
        self.replies = replies
        self.opened = opened
        self.waits_for_replica = waits_for_replica
        self.again: list[Todo] = []
        self.elsewhere: list[tuple[Todo, Node]] = []
        self.down: list[tuple[Todo, Node | None]] = []
        self.unvouched: list[Todo] = []
        self.waits = False


def ask_of(node: Node, group: list[Todo], opened: int | None, replica_ms: int | None) -> NodeAsk:
    """Return what a node is sent."""
    if replica_ms is not None or any(command.is_asking or command.is_whole for command in group):
        parts = []
        for command in group:
            if command.is_asking:
                parts.append(packed((_ASKING,)))
            parts.append(packed((command.command,), whole=command.is_whole))
            if replica_ms is not None:
                parts.append(packed((wait_for_replica(replica_ms),)))
        return NodeAsk(node, b"".join(parts), len(parts), opened)
    return NodeAsk(node, packed([command.command for command in group]), len(group), opened)
