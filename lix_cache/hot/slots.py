"""Which node serves which key: slots, the map of a cluster, and what its nodes say of it. Sends nothing."""

from __future__ import annotations

from binascii import crc_hqx
from typing import TYPE_CHECKING, Any, NamedTuple

from lix_cache.hot.connections import next_number
from lix_cache.hot.scripts import ScriptCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lix_cache.hot.endpoint import Endpoint
    from lix_cache.hot.scripts import Command

__all__ = [
    "SLOTS",
    "Node",
    "Nodes",
    "Range",
    "address_of",
    "is_taking_over",
    "key_of",
    "nodes_for",
    "ranges_of",
    "redirected",
    "slot_of",
]

SLOTS = 16384

#: Commands that are not about one key.
_WITHOUT_KEY = frozenset(
    {"PING", "TIME", "INFO", "SCAN", "CONFIG", "DBSIZE", "ACL", "COMMAND", "CLIENT", "CLUSTER", "MGET"}
)


#: Where the first key stands, if not after the name.
_KEY_AT: dict[Any, int] = {"MEMORY": 2, "EVAL": 3}


def slot_of(key: str | bytes) -> int:
    """Return the slot of a key: the CRC16 of its hash tag, if it has one, else of the whole."""
    data = key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
    start = data.find(b"{")
    if start >= 0:
        end = data.find(b"}", start + 1)
        if end > start + 1:
            data = data[start + 1 : end]
    return crc_hqx(data, 0) & (SLOTS - 1)


def key_of(command: Command) -> str | bytes | None:
    """Return the key that says where a command goes; None for one that is not about one key."""
    if isinstance(command, ScriptCall):
        return command.keys[0]
    if command[0] in _WITHOUT_KEY:
        return None
    key = command[_KEY_AT.get(command[0], 1)]
    return key if isinstance(key, (str, bytes)) else str(key)


class Node:
    """A server of several. There is one object for each address, so it is its own key.

    Attributes:
        endpoint: how it is reached.
        label: what it is called in errors; it has breakers by this name.
    """

    __slots__ = ("endpoint", "label")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self.label = endpoint, endpoint.label

    def __repr__(self) -> str:
        return f"Node({self.label})"


class Range(NamedTuple):
    """Slots that one node serves, the last included."""

    first: int
    last: int
    host: str
    port: int


class Nodes:
    """What this process knows of the servers behind one endpoint: who serves which slot.

    All drivers of an endpoint share it. It is read without a lock: an owner that is out of date answers
    MOVED, and does nothing.

    Attributes:
        owners: the node of each slot; None where none is known. Behind Sentinel there is one slot.
        masters: the nodes that serve slots, in the order of their addresses.
        seeds: the addresses that were configured.
        doubted: a node that did not answer, or serves no slots any more, since the map was last read.
        promoted: a node that serves slots since then.
        generation: how often the masters have changed, from 1 on.
        looked: behind Sentinel, the number since when no sentinel was asked: a connection that is newer may
            be to a server that came back as the master that it was. None in a cluster, whose nodes know.
        epoch: of the sentinels' configuration that names the master: each failover has a larger one.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.is_cluster = endpoint.kind == "cluster"
        self._known: dict[tuple[str, int], Node] = {}
        self.seeds = [self._node(*address, of_data=self.is_cluster) for address in endpoint.nodes]
        self.owners: list[Node | None] = [None] * (SLOTS if self.is_cluster else 1)
        self.masters: tuple[Node, ...] = ()
        self.doubted: Node | None = None
        self.promoted: Node | None = None
        self.generation = 1
        self.looked: int | None = None if self.is_cluster else 0
        self.epoch = 0
        self._silent: set[Node] = set()
        # By slot: connections up to this number know nothing of the node that serves it now.
        self._moved: dict[int, int] = {}

    def _node(self, host: str, port: int, *, of_data: bool = True) -> Node:
        if not of_data:
            return Node(self.endpoint.sentinel(host, port))
        known = self._known.get((host, port))
        if known is None:
            known = self._known.setdefault((host, port), Node(self.endpoint.at(host, port)))
        return known

    def slot(self, command: Command) -> int | None:
        """Return the slot of a command; None for one that is not about one slot."""
        if not self.is_cluster:
            return 0
        key = key_of(command)
        return None if key is None else slot_of(key)

    def owner(self, key: str | bytes) -> Node | None:
        """Return the node that serves a key, as far as is known."""
        return self.owners[slot_of(key) if self.is_cluster else 0]

    def moved_since(self, slot: int, opened: int) -> int | None:
        """Return the number from which on connections know a slot's node, if that is a newer one."""
        number = self._moved.get(slot, 0) if self._moved else 0
        return number if number > opened else None

    def take(self, ranges: Sequence[Range], asked: int = 0, epoch: int = 0) -> None:
        """Take over what a node says of all slots.

        Args:
            ranges: what it says.
            asked: a number from before it was asked.
            epoch: of what a sentinel says.
        """
        if self.looked is not None and asked < self.looked:
            # Another thread has asked since, and may have heard of more.
            return
        owners: list[Node | None] = [None] * len(self.owners)
        for first, last, host, port in ranges:
            owners[first : last + 1] = [self._node(host, port)] * (last + 1 - first)
        before = self.owners
        if self.masters:
            # Another server, which may not have heard of everything: what goes there is compared first. So
            # the numbers come before the owners.
            changed = [slot for slot, node in enumerate(owners) if node is not before[slot]]
            if changed:
                self._moved.update(dict.fromkeys(changed, next_number()))
        self.owners = owners
        masters = tuple(sorted({node for node in owners if node is not None}, key=address_of))
        if masters != self.masters:
            self.generation += 1
            self.masters = masters
        self.doubted = self.promoted = None
        self.epoch = epoch
        if self.looked is not None:
            self.looked = asked

    @property
    def is_stale(self) -> bool:
        """Whether the map is to be read before it is used."""
        return self.doubted is not None or self.promoted is not None or not self.masters

    def move(self, slot: int, host: str, port: int) -> None:
        """Take over what a node says of one slot."""
        node = self._node(host, port)
        if self.owners[slot] is node:
            return
        self._moved[slot] = next_number()
        self.owners[slot] = node
        if node not in self.masters:
            # A replica that took over, or a node that is new: there is more to learn.
            self.promoted = node

    def node(self, host: str, port: int) -> Node:
        """Return the node of an address."""
        return self._node(host, port)

    def askable(self) -> list[Node]:
        """Return the servers that may say who serves what, the likeliest to know first.

        Those that did not answer are the last: each of them may take all the time there is.
        """
        if not self.is_cluster:
            return sorted(self.seeds, key=self._silent.__contains__)
        first, last = self.promoted, self.doubted
        every = dict.fromkeys(
            node for node in (first, *self.masters, *self.seeds) if node not in (None, last)
        )
        nodes = [node for node in (*every, last) if node is not None]
        return sorted(nodes, key=self._silent.__contains__)

    def is_silent(self, node: Node) -> bool:
        """Whether a node did not answer when it was asked last."""
        return node in self._silent

    def heard(self, node: Node, *, answers: bool) -> None:
        """Note whether a node answered. One that did not is asked who serves what after all others."""
        (self._silent.discard if answers else self._silent.add)(node)


_nodes: dict[Endpoint, Nodes] = {}


def nodes_for(endpoint: Endpoint) -> Nodes:
    """Return what this process knows of the servers behind an endpoint."""
    return _nodes.get(endpoint) or _nodes.setdefault(endpoint, Nodes(endpoint))


def address_of(node: Node) -> tuple[str, int]:
    """Return the host and port of a node."""
    return node.endpoint.host, node.endpoint.port


def epoch_of(reply: Any) -> int:
    """Return the configuration epoch in what SENTINEL MASTER answered; 0 where it does not say."""
    if not isinstance(reply, list):
        return 0
    epoch = dict(zip(reply[::2], reply[1::2], strict=False)).get(b"config-epoch", b"")
    return int(epoch) if epoch.isdigit() else 0


def ranges_of(reply: Any, asked: Node) -> list[Range]:
    """Return what CLUSTER SLOTS answered.

    Raises:
        ValueError: it is nothing of the kind.
    """
    found = []
    try:
        for first, last, master, *_ in reply:
            # Without a name of its own it is reached as the node that was asked.
            host = _text(master[0]) or asked.endpoint.host
            if not 0 <= int(first) <= int(last) < SLOTS:
                raise ValueError("a slot that there is not")
            found.append(Range(int(first), int(last), host, int(master[1])))
    except (TypeError, IndexError) as error:
        raise ValueError("not an answer to CLUSTER SLOTS") from error
    return found


def is_taking_over(reply: Any) -> bool:
    """Return whether a replica is there for each master that failed, as CLUSTER NODES answers.

    False where no master failed, and where the answer is an error.
    """
    failed, followed = set[str](), set[str]()
    for line in _text(reply).splitlines() if isinstance(reply, (bytes, str)) else ():
        words = line.split(" ")
        has_failed = "fail" in "".join(words[2:3]).split(",")
        # The first eight are of the node itself, the others its slots.
        if has_failed and words[8:]:
            failed.add(words[0])
        elif not has_failed:
            followed.update(words[3:4])
    return bool(failed) and failed <= followed


def redirected(error: BaseException, asked: Node) -> tuple[int, str, int]:
    """Return the slot, host and port that a node names in MOVED or ASK.

    Raises:
        ValueError: it names none.
    """
    slot, address = str(error.args[0]).split(" ")[-2:]
    host, _, port = address.rpartition(":")
    return int(slot), host.strip("[]") or asked.endpoint.host, int(port)


def _text(value: Any) -> str:
    found = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    return "" if found == "?" else found
