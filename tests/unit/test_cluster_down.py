"""How long a call waits for a cluster that is down: the flow, driven by hand."""

from __future__ import annotations

from typing import Any

import pytest
import redis.exceptions as rx

from lix_cache.effects import NodeAsk
from lix_cache.errors import RedisUnavailable
from lix_cache.hot.slots import is_taking_over
from tests.unit.test_routes import GET, A, B, C, Play, slots_reply

_ALIVE = "a 127.0.0.1:7001@17001 myself,master - 0 0 1 connected 0-99\n"
_DEAD = "b 127.0.0.1:7002@17002 master,fail - 1 1 2 disconnected 100-199\n"
_REPLICA = "c 127.0.0.1:7003@17003 slave b 0 1 2 connected\n"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (_ALIVE + _DEAD + _REPLICA, True),
        (_ALIVE + _DEAD, False),
        (_ALIVE + _DEAD + _REPLICA.replace("slave", "slave,fail"), False),
        # Not yet known to be dead, or on this side of a network that is cut in two.
        (_ALIVE + _DEAD.replace("fail", "fail?") + _REPLICA, False),
        # One that has followed: its slots are another's.
        (_ALIVE + _DEAD.replace(" 100-199", "") + _REPLICA, False),
        (_ALIVE + _DEAD + _REPLICA + _DEAD.replace("b 127", "d 127"), False),
        ("", False),
        ("something else", False),
    ],
)
def test_a_replica_takes_over_where_each_master_that_failed_has_one(said: str, expected: bool) -> None:
    assert is_taking_over(said.encode()) is expected
    assert not is_taking_over(rx.ResponseError(said))


class Down(Play):
    """A cluster that is down, until a moment.

    Args:
        nodes: what CLUSTER NODES answers.
        until: seconds on the clock of the play from which on it is up; None for never.
    """

    def __init__(self, nodes: str, until: float | None = None) -> None:
        super().__init__(self._answered, redis_socket_timeout=5)
        self.said, self.until, self.asked = nodes, until, []
        self.silent: set[int] = set()
        self.began = self.clock.monotonic()

    def _answered(self, port: int, _: list[bytes]) -> Any:
        is_up = self.until is not None and self.clock.monotonic() - self.began >= self.until
        return port if is_up else rx.ClusterDownError("The cluster is down")

    def _node(self, ask: NodeAsk) -> Any:
        if b"CLUSTER" in ask.request:
            self.asked.append(ask.node.endpoint.port)
            if self.asked[-1] in self.silent:
                return rx.TimeoutError("Timeout reading from socket")
        answers = super()._node(ask)
        if b"NODES" in ask.request:
            # All say the same of who serves what.
            answers = [slots_reply(self.owner), self.said.encode()]
        return answers


def given_up(answer: Any) -> bool:
    return isinstance(answer, RedisUnavailable) and answer.code == "CLUSTERDOWN" and not answer.maybe_done


@pytest.mark.promise("no-stall")
def test_a_cluster_that_no_replica_mends_is_given_up_soon_and_by_all_calls_that_follow_at_once() -> None:
    play = Down(_ALIVE + _DEAD)
    assert given_up(play(GET)[0])
    assert 0 < play.slept < 0.5
    for _ in range(20):
        play.slept, play.sent = 0, []
        play.clock.advance(1)
        assert given_up(play(GET)[0])
        assert (play.slept, len(play.sent)) == (0, 1)
    # Long after that it may be something else.
    play.clock.advance(60)
    assert given_up(play(GET)[0])
    assert play.slept > 0


@pytest.mark.promise("no-stall")
def test_a_replica_that_takes_over_is_waited_for() -> None:
    play = Down(_ALIVE + _DEAD + _REPLICA, until=1.5)
    assert play(GET) == [A]


@pytest.mark.promise("no-stall")
def test_a_replica_that_never_takes_over_is_waited_for_once() -> None:
    play = Down(_ALIVE + _DEAD + _REPLICA)
    assert given_up(play(GET)[0])
    assert 4.5 < play.slept < 5.5
    play.slept = 0
    assert given_up(play(GET)[0])
    assert play.slept == 0


@pytest.mark.promise("no-stall")
def test_what_another_node_serves_by_now_is_sent_there_though_the_cluster_was_given_up() -> None:
    play = Down(_ALIVE + _DEAD)
    play(GET)
    play.answer = lambda port, _: port if port == B else rx.ClusterDownError("The cluster is down")
    play.owner = B
    assert play(GET) == [B]


@pytest.mark.promise("no-stall")
def test_nodes_of_a_cluster_that_is_down_and_name_each_other_are_given_up_too() -> None:
    play = Down(_ALIVE + _DEAD)

    def answer(port: int, _: list[bytes]) -> Any:
        play.owner = B if port == A else A
        return rx.ClusterDownError("The cluster is down")

    play.answer = answer
    assert given_up(play(GET)[0])
    play.slept, play.sent = 0, []
    assert given_up(play(GET)[0])
    assert len(play.sent) == 2


@pytest.mark.promise("no-stall")
def test_a_node_that_did_not_answer_is_the_last_to_be_asked_who_serves_what() -> None:
    play = Down(_ALIVE + _DEAD)
    play(GET)
    nodes = play.routes.nodes
    play.silent = {A}
    nodes.doubted = nodes.node("127.0.0.1", C)
    play.asked.clear()
    play(GET)
    assert play.asked[:2] == [A, B]
    # It was the first to be asked, once.
    play.asked.clear()
    for _ in range(3):
        play(GET)
    assert A not in play.asked
