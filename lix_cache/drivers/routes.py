"""How commands reach the nodes of a cluster, or the server that Sentinel names: one flow for both variants.

A node that does not serve a slot says so and does nothing. So what it sends elsewhere is sent there (MOVED
and ASK name the node), and what it cannot do yet is sent again (TRYAGAIN), until the time for an answer is
over. So is what a cluster that is down refuses (CLUSTERDOWN), as long as a replica is taking over; else it is
given up soon, because that may last and each call would wait. A command whose connection broke is not sent
again here: it may have been done, and the flow that sent it decides what to make of that.

Sentinel moves nobody: a master that was down comes back as one, until it is told otherwise. So the sentinels
are asked behind each new connection, before anything is sent on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.drivers.commands import packed, with_replicas
from lix_cache.drivers.routing import Round, Todo, ask_of
from lix_cache.effects import Flow, NodeAsk, NodeAsks, RedisCall, Sleep
from lix_cache.errors import RedisError, RedisUnavailable
from lix_cache.hot.connections import NewConnection, next_number
from lix_cache.hot.slots import (
    Node,
    Nodes,
    Range,
    address_of,
    epoch_of,
    is_taking_over,
    nodes_for,
    ranges_of,
    redirected,
)
from lix_cache.hot.spread import Joined, spread
from lix_cache.hot.trouble import reply_code, translate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lix_cache.hot.endpoint import Endpoint
    from lix_cache.hot.scripts import Command

__all__ = ["Routes", "routes_for"]

#: Seconds before each further try, and then as the last. A slot moves in milliseconds, a replica takes over
#: in about one second.
_PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.025)
#: So often a command is sent elsewhere without a pause.
_HOPS = 3
#: Seconds after which a cluster that is down is given up, unless a replica was taking over in this time: its
#: nodes hear of each other's state within tenths of a second.
_DOWN_SECONDS = 0.3
#: Seconds for which no further call waits for it. What finds it down again, puts the end of them off.
_DOWN_FOR = 10.0
_ELSEWHERE = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY"})


class Routes:
    """Where the commands of one endpoint go. All drivers of the endpoint share it.

    Args:
        endpoint: of several servers.
        clock: how long a command has been tried.
        nodes: what is known of the servers; nothing by default.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock = SYSTEM_CLOCK, nodes: Nodes | None = None) -> None:
        self.endpoint, self._clock = endpoint, clock
        self.nodes = nodes or Nodes(endpoint)
        # When a look last found that a replica takes over, and when a cluster that is down was given up.
        self._taken_over = self._given_up = -_DOWN_FOR

    def owner(self, call: RedisCall) -> Node | None:
        """Return the node that a command can be sent to at once; None where the flow must look first."""
        nodes = self.nodes
        slot = None if nodes.is_stale or call.replica_ms is not None else nodes.slot(call.command)
        if slot is None:
            return None
        if call.opened is not None and nodes.moved_since(slot, call.opened) is not None:
            return None
        return nodes.owners[slot]

    def fence(self, opened: int | None) -> int | None:
        """Return the number of the newest connection that may be used, of a caller who said one, or none."""
        looked = self.nodes.looked
        if looked is None:
            return opened
        return looked if opened is None else min(looked, opened)

    def answers(
        self,
        commands: Sequence[Command],
        opened: int | None = None,
        replica_ms: int | None = None,
        first: tuple[Node, Any] | None = None,
    ) -> Flow[list[Any]]:
        """Send commands to where they belong. An error takes the place of an answer.

        ``first`` is the node that has been asked already, and what came of it.

        ``opened`` and ``replica_ms`` are those of :class:`~lix_cache.effects.RedisCall`.

        Raises:
            NewConnection: the connection at hand is newer; nothing was sent.
            RedisError: no server says where the commands go; nothing was sent.
        """
        began = self._clock.monotonic()
        end = began + self.endpoint.timeout
        # What came of a command that was sent is never replaced by a look that fails: it may have been done.
        if first is None and self.nodes.is_stale:
            trouble = yield from self._look()
            if trouble is not None:
                try:
                    raise trouble
                finally:
                    del trouble  # it refers to this frame
        todo, joined = self._planned(commands)
        replies: list[Any] = [None] * len(todo)
        tries, is_late = 0, False
        while True:
            one = Round(replies, opened, waits_for_replica=replica_ms is not None)
            if first is not None:
                groups, results, first = {first[0]: todo}, [first[1]], None
            else:
                groups = self._grouped(todo, opened, one)
                fence = self.fence(opened)
                asks = [ask_of(node, group, fence, replica_ms) for node, group in groups.items()]
                results = yield NodeAsks(asks)
            for (node, group), result in zip(groups.items(), results, strict=True):
                self._sort(node, group, result, one)
            if not (one.again or one.elsewhere or one.down or one.unvouched):
                break
            todo = yield from self._left(one, began)
            # Requests and looks take their time too: a node that does not answer holds up each of them.
            # Asking the sentinels may take it all: once, what they name a server for is sent all the same.
            was_late, is_late = is_late, self._clock.monotonic() >= end
            if not todo or (is_late and (was_late or not one.unvouched)):
                if todo and one.down:
                    self._given_up = self._clock.monotonic()
                break
            tries += 1
            if one.waits or tries > _HOPS:
                yield Sleep(_PAUSES[min(tries, len(_PAUSES)) - 1])
        return replies if joined is None else [join(replies) for join in joined]

    def _planned(self, commands: Sequence[Command]) -> tuple[list[Todo], list[Joined] | None]:
        nodes = self.nodes
        slots = [nodes.slot(command) for command in commands]
        if None not in slots:
            pairs = zip(commands, slots, strict=True)
            return [Todo(i, command, slot or 0) for i, (command, slot) in enumerate(pairs)], None
        todo: list[Todo] = []
        joined = []
        for command in commands:
            parts, join = spread(command, nodes)
            joined.append(Joined(len(todo), len(todo) + len(parts), join))
            for part, slot, node in parts:
                todo.append(Todo(len(todo), part, slot, node, is_fixed=node is not None))
        return todo, joined

    def _grouped(self, todo: Iterable[Todo], opened: int | None, one: Round) -> dict[Node, list[Todo]]:
        nodes = self.nodes
        groups: dict[Node, list[Todo]] = {}
        for command in todo:
            node = command.node or nodes.owners[command.slot]
            if node is None:
                nodes.doubted = nodes.masters[0]
                one.replies[command.at] = self._unserved(command.slot)
                one.down.append((command, None))
                continue
            if opened is not None and (number := nodes.moved_since(command.slot, opened)) is not None:
                raise NewConnection(number)
            if node in groups:
                groups[node].append(command)
            else:
                groups[node] = [command]
        # In one order, so that no two callers wait for each other's connections.
        return groups if len(groups) < 2 else {node: groups[node] for node in sorted(groups, key=address_of)}

    def _sort(self, node: Node, group: list[Todo], result: Any, one: Round) -> None:
        """Put answers in their places, and what was not done on the list of what is left."""
        if isinstance(result, Exception):
            self._failed(node, group, result, one)
            return
        answers = iter(result)
        is_master = True
        for command in group:
            if command.is_asking:
                next(answers)
            answer = next(answers)
            if one.waits_for_replica:
                answer = with_replicas(answer, next(answers))
            one.replies[command.at] = answer
            if isinstance(answer, Exception):
                self._refused(node, command, answer, one)
                is_master = is_master and reply_code(answer) != "READONLY"
            elif not is_master and not command.is_fixed:
                # What a replica read may be old, or not there yet.
                one.elsewhere.append((command, node))

    def _failed(self, node: Node, group: list[Todo], error: Exception, one: Round) -> None:
        if isinstance(error, NewConnection):
            if one.opened is None or error.number <= one.opened:
                self.nodes.doubted = node
                one.unvouched += group
                for command in group:
                    # If there is no time left to ask.
                    one.replies[command.at] = RedisUnavailable(f"no sentinel has named {node.label} yet")
                return
            # Another than that among the results, which would refer to itself by where it went.
            raise NewConnection(error.number)
        ours = _of(node, error)
        if not isinstance(ours, RedisError):
            raise error
        for command in group:
            one.replies[command.at] = ours
        if isinstance(ours, RedisUnavailable):
            self.nodes.doubted = node
            self.nodes.heard(node, answers=False)
            if not ours.maybe_done:
                one.elsewhere += [(command, node) for command in group if not command.is_fixed]

    def _refused(self, node: Node, command: Todo, error: Exception, one: Round) -> None:
        code = reply_code(error)
        if code == "NOSCRIPT" and not command.is_whole:
            # If there is no time left to send it whole: it is not the command that is refused.
            one.replies[command.at] = _of(
                node, RedisUnavailable(f"{node.label} has lost its scripts", code=code)
            )
            command.is_whole = True
            one.again.append(command)
            return
        if command.is_fixed or code not in ("MOVED", "ASK"):
            one.replies[command.at] = _of(node, error)
        else:
            # If there is no time left to go there: it is not the command that is refused.
            one.replies[command.at] = RedisUnavailable(f"{node.label} sends elsewhere: {error}", code=code)
        if command.is_fixed or code not in _ELSEWHERE:
            return
        command.node, command.is_asking = None, False
        if code == "READONLY":
            # A master that is one no more.
            self.nodes.doubted = node
            one.elsewhere.append((command, node))
            return
        if code == "CLUSTERDOWN":
            self.nodes.doubted = node
            one.down.append((command, node))
            return
        one.again.append(command)
        if code == "TRYAGAIN":
            one.waits = True
        elif code == "ASK":
            command.node, command.is_asking = self.nodes.node(*redirected(error, node)[1:]), True
        else:
            self.nodes.move(*redirected(error, node))

    def _left(self, one: Round, began: float) -> Flow[list[Todo]]:
        """Return what is to be sent again, by what the nodes say now of who has which slot."""
        if not self.nodes.is_stale:
            return one.again
        trouble = yield from self._look(is_down=bool(one.down))
        left = one.again
        for command in one.unvouched:
            if trouble is None:
                left.append(command)
            else:
                one.replies[command.at] = RedisUnavailable(f"no sentinel names the master: {trouble}")
        if one.down:
            one.waits = True
            is_given_up = self._gives_up(began)
            for command, said in one.down:
                if not is_given_up or (self.nodes.owners[command.slot] is not said and not command.is_last):
                    command.is_last = is_given_up
                    left.append(command)
        for command, before in one.elsewhere:
            if self.nodes.owners[command.slot] is not before:
                command.node, command.is_asking = None, False
                left.append(command)
        return left

    def _gives_up(self, began: float) -> bool:
        """Return whether a cluster that is down is not waited for any longer, and note it for other calls."""
        now = self._clock.monotonic()
        if now - self._given_up >= _DOWN_FOR and now - max(began, self._taken_over) < _DOWN_SECONDS:
            return False
        self._given_up = now
        return True

    def _look(self, *, is_down: bool = False) -> Flow[RedisError | None]:
        """Ask who serves what. Returns why that is not known, if no server says it.

        Of a cluster that is down it also finds out whether a replica takes over.
        """
        trouble: RedisError | None = None
        said: list[Range] = []
        asked, epoch, heard = next_number(), -1, 0
        for node in self.nodes.askable():
            # Those that did not answer the last time may take all the time there is. Of the others each is
            # asked: most of the sentinels may not have heard yet of what one knows.
            if epoch >= self.nodes.epoch and self._are_most(heard) and self.nodes.is_silent(node):
                break
            words = self._words(is_down=is_down)
            (result,) = yield NodeAsks([NodeAsk(node, packed(words), len(words))])
            self.nodes.heard(node, answers=not isinstance(result, Exception))
            answer = result if isinstance(result, Exception) else result[0]
            if isinstance(answer, Exception):
                ours = translate(answer, node.endpoint)
                if not isinstance(ours, RedisError):
                    raise answer
                trouble = trouble or ours
                continue
            found = self._ranges(answer, node)
            if isinstance(found, RedisError):
                trouble = trouble or found
                continue
            if self.nodes.is_cluster:
                said = found
                if is_down and is_taking_over(result[1]):
                    self._taken_over = self._clock.monotonic()
                break
            its_epoch = epoch_of(result[1])
            if its_epoch > epoch:
                said, epoch = found, its_epoch
            heard += 1
            if self._is_news(found, its_epoch):
                break
        # Sentinels that were set up anew count from the beginning; one alone may have been cut off.
        if heard and epoch < self.nodes.epoch and not self._are_most(heard):
            return trouble or RedisUnavailable("the sentinel that answers has not heard of the master yet")
        if said:
            self.nodes.take(said, asked, max(epoch, 0))
            return None
        return trouble

    def _are_most(self, sentinels: int) -> bool:
        return 2 * sentinels > len(self.nodes.seeds)

    def _is_news(self, found: list[Range], epoch: int) -> bool:
        """Return whether a sentinel names another master than is known, and not one of before."""
        now = self.nodes.owners[0]
        is_other = now is None or self.nodes.node(*found[0][2:]) is not now
        return epoch > self.nodes.epoch or (is_other and epoch == self.nodes.epoch)

    def _words(self, *, is_down: bool) -> tuple[Command, ...]:
        if not self.nodes.is_cluster:
            name = self.endpoint.service
            return ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name), ("SENTINEL", "MASTER", name)
        return (("CLUSTER", "SLOTS"), ("CLUSTER", "NODES")) if is_down else (("CLUSTER", "SLOTS"),)

    def _ranges(self, answer: Any, node: Node) -> list[Range] | RedisError:
        where = node.endpoint.label
        if not self.nodes.is_cluster:
            if answer is None:
                return RedisUnavailable(
                    f"the sentinel {where} knows no {self.endpoint.service!r}: redis_url ends in the name of "
                    "what it looks after, redis+sentinel://host:port/service"
                )
            return [Range(0, 0, answer[0].decode("utf-8", "replace"), int(answer[1]))]
        try:
            return ranges_of(answer, node) or RedisUnavailable(
                f"{where} has no slots yet", code="CLUSTERDOWN"
            )
        except ValueError as error:
            return RedisUnavailable(f"{where}: {error}")

    def _unserved(self, slot: int) -> RedisUnavailable:
        return RedisUnavailable(
            f"{self.endpoint.label} cannot serve now: no node has slot {slot}", code="CLUSTERDOWN"
        )


def _of(node: Node, error: Exception) -> BaseException:
    """Return what a node answered, or what kept it from answering, as an error of ours that names it."""
    ours = translate(error, node.endpoint)
    if isinstance(ours, RedisError):
        # Only here it is known who was asked last: a command may have been sent on.
        ours.server = node.label
    return ours


_routes: dict[Endpoint, Routes] = {}


def routes_for(endpoint: Endpoint) -> Routes | None:
    """Return what all drivers of an endpoint share; None where it is one server."""
    if endpoint.kind == "server":
        return None
    made = _routes.get(endpoint)
    return made or _routes.setdefault(endpoint, Routes(endpoint, nodes=nodes_for(endpoint)))
