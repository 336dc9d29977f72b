"""Where commands go on a cluster: the flow, driven by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis.exceptions as rx

from lix_cache.config import CacheConfig
from lix_cache.drivers.routes import Routes
from lix_cache.effects import NodeAsk, RedisCall
from lix_cache.errors import ConfigError, RedisCommandError, RedisUnavailable
from lix_cache.hot.clients import create_redis_client
from lix_cache.hot.connections import NewConnection, next_number
from lix_cache.hot.endpoint import Endpoint, endpoint_for
from lix_cache.hot.slots import slot_of
from lix_cache.hot.spread import SCAN_AGAIN
from lix_cache.session import old_sessions
from lix_cache.session.store import open_store
from tests.support.flows import played
from tests.support.twins import ManualClock

A, B, C = 7001, 7002, 7003
SLOT = slot_of("{1}k")


def slots_reply(owner_of_slot: int) -> list[Any]:
    """Return what CLUSTER SLOTS answers: A has all but one slot."""
    return [
        [0, SLOT - 1, [b"127.0.0.1", A, b"id"], [b"127.0.0.1", C, b"id"]],
        [SLOT, SLOT, [b"127.0.0.1", owner_of_slot, b"id"]],
        [SLOT + 1, 16383, [b"127.0.0.1", A, b"id"]],
    ]


class Play:
    """Answers what a flow asks, by the ports of the nodes.

    Args:
        answer: what a node answers to the words of a command; an exception ends the request.
        owner: who has the one slot, as CLUSTER SLOTS says.
    """

    def __init__(self, answer: Callable[[int, list[bytes]], Any], owner: int = A, **settings: Any) -> None:
        url = f"redis+cluster://127.0.0.1:{A},127.0.0.1:{B}"
        self.clock = ManualClock()
        self.routes = Routes(endpoint_for(CacheConfig(redis_url=url, **settings).redis, 0), self.clock)
        self.answer, self.owner = answer, owner
        self.sent: list[tuple[int, bytes]] = []
        self.looks = 0
        self.slept = 0.0

    def __call__(self, *commands: Any, opened: int | None = None, first: Any = None) -> list[Any]:
        return played(self.routes.answers(commands, opened, first=first), self._node, self._pause)

    def _pause(self, seconds: float) -> None:
        self.slept += seconds
        self.clock.advance(seconds)

    def _node(self, ask: NodeAsk) -> Any:
        reader = hiredis.Reader()
        reader.feed(ask.request)
        answers = []
        for _ in range(ask.count):
            words = reader.gets()
            if words[0] == b"CLUSTER":
                self.looks += 1
                # One that has a slot knows it, whatever the others have heard.
                answers.append(slots_reply(B if ask.node.endpoint.port == B else self.owner))
                continue
            self.sent.append((ask.node.endpoint.port, b" ".join(words)))
            answers.append(self.answer(ask.node.endpoint.port, words))
        lost = next((a for a in answers if isinstance(a, (rx.ConnectionError, rx.TimeoutError))), None)
        return answers if lost is None else lost


GET = ("GET", "{1}k")


def moved(to: int) -> Exception:
    return rx.MovedError(f"{SLOT} 127.0.0.1:{to}")


def test_a_slot_is_that_of_the_hash_tag() -> None:
    assert slot_of("123456789") == 12739  # the check value of this CRC16
    assert slot_of(b"lix:{17}:win:}{") == slot_of("17") == slot_of("{17}")
    assert slot_of("{}x") != slot_of("")  # an empty tag is none


def test_the_map_is_read_once_and_commands_go_to_their_nodes() -> None:
    play = Play(lambda port, _: port, owner=B)
    assert play(GET, ("GET", "{2}k"), GET) == [B, A, B]
    assert play(GET) == [B]
    assert play.looks == 1


@pytest.mark.promise("no-loss")
def test_a_slot_that_moved_is_followed_and_remembered() -> None:
    play = Play(lambda port, _: port if port == B else moved(B))
    assert play(GET) == [B]
    play.sent.clear()
    assert play(GET) == [B]
    assert play.sent == [(B, b"GET {1}k")]


@pytest.mark.promise("no-loss")
def test_what_is_asked_of_a_node_that_takes_a_slot_over_is_compared_first() -> None:
    play = Play(lambda port, _: port if port == B else moved(B))
    opened = next_number()
    with pytest.raises(NewConnection) as new:
        play(GET, opened=opened)
    assert new.value.number > opened
    assert play(GET, opened=new.value.number) == [B]


def test_a_slot_on_its_way_is_asked_for_with_asking_and_not_remembered() -> None:
    seen: list[int] = []

    def answer(port: int, words: list[bytes]) -> Any:
        seen.append(port)
        return rx.AskError(f"{SLOT} 127.0.0.1:{B}") if port == A else b"OK" if words[0] == b"ASKING" else b"v"

    play = Play(answer)
    assert play(GET) == [b"v"]
    assert [words for port, words in play.sent if port == B] == [b"ASKING", b"GET {1}k"]
    play(GET)
    assert play.sent[3][0] == A


@pytest.mark.parametrize("trouble", [rx.TryAgainError("x"), rx.ClusterDownError("x")])
def test_what_passes_is_waited_for(trouble: Exception) -> None:
    left = [trouble, trouble]
    play = Play(lambda port, _: left.pop() if left else port)
    assert play(GET) == [A]
    assert play.slept > 0


def test_waiting_ends_when_the_time_for_an_answer_is_over() -> None:
    play = Play(lambda *_: rx.TryAgainError("x"), redis_socket_timeout=0.5)
    (answer,) = play(GET)
    assert isinstance(answer, RedisUnavailable)
    assert answer.code == "TRYAGAIN"
    assert not answer.maybe_done
    assert 0.5 <= play.slept < 0.6


def test_requests_that_take_their_time_count_towards_the_end() -> None:
    def answer(*_: Any) -> Any:
        play.clock.advance(0.2)
        return rx.TryAgainError("x")

    play = Play(answer, redis_socket_timeout=0.5)
    play(GET)
    assert len(play.sent) == 3


def test_nodes_that_send_in_a_circle_end_too() -> None:
    play = Play(lambda port, _: moved(A + B - port), redis_socket_timeout=0.5)
    (answer,) = play(GET)
    # Not the error of a command that is refused: an add goes to disk.
    assert isinstance(answer, RedisUnavailable)
    assert (answer.code, answer.maybe_done) == ("MOVED", False)
    assert 0.5 <= play.slept < 0.6


def test_an_error_names_the_node_that_a_slot_is_moving_to_and_not_the_slots_owner() -> None:
    def answer(port: int, words: list[bytes]) -> Any:
        if port == B:
            return rx.TimeoutError("Timeout reading from socket")
        return rx.AskError(f"{SLOT} 127.0.0.1:{B}") if words[1] == b"{1}k" else port

    play = Play(answer)
    moving, other = play(GET, ("GET", "{2}k"))
    assert isinstance(moving, RedisUnavailable)
    assert (moving.server, moving.timed_out, other) == (f"redis://127.0.0.1:{B} db 0", True, A)


def test_an_error_names_the_node_that_a_command_was_sent_on_to() -> None:
    refusal = rx.ResponseError("LOADING Redis is loading the dataset in memory")
    play = Play(lambda port, _: moved(B) if port == A else refusal)
    (answer,) = play(GET)
    assert isinstance(answer, RedisUnavailable)
    assert (answer.code, answer.server) == ("LOADING", f"redis://127.0.0.1:{B} db 0")


def test_an_error_names_no_node_where_none_can_be_asked_who_serves_what() -> None:
    play = Play(lambda port, _: port)
    play._node = lambda _: rx.ConnectionError("Error 111 connecting to 127.0.0.1:7001. Refused.")  # type: ignore[method-assign]
    with pytest.raises(RedisUnavailable) as caught:
        play(GET)
    assert caught.value.server == ""


@pytest.mark.promise("no-loss")
def test_a_command_whose_connection_broke_is_not_sent_again() -> None:
    def answer(port: int, _: list[bytes]) -> Any:
        return rx.ConnectionError("Connection closed by server.") if port == A else port

    play = Play(answer)
    play.owner = B
    play.routes.nodes.take([])
    play.owner = A
    (answered,) = play(GET)
    assert isinstance(answered, RedisUnavailable)
    assert answered.maybe_done
    # The next one looks first, and goes to the node that took over.
    play.owner = B
    assert play(GET) == [B]
    assert [port for port, _ in play.sent] == [A, B]


@pytest.mark.promise("no-loss")
def test_what_came_of_a_command_is_kept_when_no_node_can_be_asked_any_more() -> None:
    # Two adds are under way when the network breaks: the first has found the node away meanwhile.
    refused = rx.ConnectionError("Error 111 connecting to 127.0.0.1:7001. Refused.")
    play = Play(lambda port, _: port)
    play(GET)
    nodes, owner = play.routes.nodes, play.routes.nodes.masters[0]
    play._node = lambda _: refused  # type: ignore[method-assign]
    nodes.doubted = owner
    (answer,) = play(GET, first=(owner, rx.ConnectionError("Connection closed by server.")))
    assert isinstance(answer, RedisUnavailable)
    assert answer.maybe_done
    assert nodes.is_stale
    assert play(GET, first=(owner, [b"OK"])) == [b"OK"]
    (answer,) = play(GET, first=(owner, refused))
    assert isinstance(answer, RedisUnavailable)
    assert not answer.maybe_done


def test_a_node_that_refuses_connections_is_asked_elsewhere_once_another_has_its_slots() -> None:
    def answer(port: int, _: list[bytes]) -> Any:
        return rx.ConnectionError("Error 111 connecting to 127.0.0.1:7001. Refused.") if port == A else port

    play = Play(answer, owner=B)
    play.routes.nodes.take([])
    assert play(GET) == [B]
    (answered,) = play(("GET", "{2}k"))
    assert isinstance(answered, RedisUnavailable)
    assert not answered.maybe_done


def test_one_node_in_trouble_keeps_no_other_from_answering() -> None:
    play = Play(
        lambda port, _: rx.TimeoutError("Timeout reading from socket") if port == B else port, owner=B
    )
    first, second = play(GET, ("GET", "{2}k"))
    assert isinstance(first, RedisUnavailable)
    assert first.timed_out
    assert second == A


def test_a_script_that_a_node_does_not_know_is_sent_whole() -> None:
    from lix_cache.hot.scripts import LEASE, ScriptCall

    def answer(_: int, words: list[bytes]) -> Any:
        return 1 if words[0] == b"EVAL" else rx.NoScriptError("No matching script.")

    assert Play(answer)(ScriptCall(LEASE, ("{1}lease",), ("me", 1))) == [1]


def test_a_script_that_a_node_has_lost_when_the_time_is_over_is_no_command_that_is_refused() -> None:
    from lix_cache.hot.scripts import LEASE, ScriptCall

    def answer(*_: Any) -> Any:
        play.clock.advance(0.6)
        return rx.NoScriptError("No matching script.")

    play = Play(answer, redis_socket_timeout=0.5)
    (said,) = play(ScriptCall(LEASE, ("{1}lease",), ("me", 1)))
    assert isinstance(said, RedisUnavailable)
    assert (said.code, said.maybe_done) == ("NOSCRIPT", False)


def test_urls_are_read_where_they_are() -> None:
    play = Play(lambda port, words: b"%d %s" % (port, words[1]), owner=B)
    assert play(("MGET", "{1}k", "x", "y")) == [[b"%d {1}k" % B, b"%d x" % A, b"%d y" % A]]
    assert play.looks == 1


def test_a_scan_goes_through_all_nodes() -> None:
    def answer(port: int, words: list[bytes]) -> Any:
        cursor = int(words[1])
        return [b"77" if cursor == 0 and port == A else b"0", [b"%d-%d" % (port, cursor)]]

    play, cursor, keys = Play(answer, owner=B), 0, []
    while True:
        ((following, found),) = play(("SCAN", cursor, "COUNT", 10))
        keys += found
        cursor = int(following)
        if not cursor:
            break
    assert keys == [b"%d-0" % A, b"%d-77" % A, b"%d-0" % B]


@pytest.mark.promise("no-false-empty")
def test_a_scan_whose_masters_change_does_not_end_as_if_it_had_seen_all() -> None:
    def answer(_: int, words: list[bytes]) -> Any:
        return b"PONG" if words == [b"PING"] else [b"77" if words[1] == b"0" else b"0", []]

    for changes_at in (1, 2, 3):
        play, cursor = Play(answer, owner=B), 0
        for _ in range(changes_at):
            ((following, _keys),) = play(("SCAN", cursor))
            cursor = int(following)
        # Another takes over from B, the list of masters is as long as before.
        play.owner = C
        play.routes.nodes.doubted = play.routes.nodes.masters[1]
        (answered,) = play(("SCAN", cursor))
        assert isinstance(answered, RedisUnavailable), changes_at
        assert answered.code == SCAN_AGAIN
        assert not isinstance(play(("SCAN", 0))[0], Exception)


def test_the_daemons_look_for_old_sessions_begins_again_when_the_masters_have_changed(tmp_path: Path) -> None:
    store = open_store(CacheConfig(archive_dir=tmp_path))
    look = old_sessions.rescue(store, old_sessions.Pass(5), lambda _: pytest.fail("nothing is met"))
    cursors = []
    effect = next(look)
    for _ in range(2):
        assert isinstance(effect, RedisCall)
        assert isinstance(effect.command, tuple)
        cursors.append(effect.command[1])
        effect = look.throw(RedisUnavailable("changed", code=SCAN_AGAIN))
    assert cursors == [5, 0]


def test_a_scan_goes_on_when_the_map_was_read_again_and_is_the_same() -> None:
    play = Play(lambda port, words: [b"0", [b"%d" % port]], owner=B)
    ((following, keys),) = play(("SCAN", 0))
    play.routes.nodes.doubted = play.routes.nodes.masters[1]
    assert (play(("SCAN", int(following)))[0], keys) == ([b"0", [b"%d" % B]], [b"%d" % A])


def test_memory_is_that_of_all_nodes_together() -> None:
    play = Play(lambda port, _: b"redis_version:7\r\nused_memory:%d\r\nrole:master\r\n" % port, owner=B)
    (info,) = play(("INFO",))
    assert info.split() == [b"redis_version:7", b"used_memory:%d" % (A + B), b"role:master"]


def test_a_node_that_is_no_cluster_is_an_error_that_says_so() -> None:
    play = Play(lambda *_: None)
    play._node = lambda _: [rx.ResponseError("This instance has cluster support disabled")]  # type: ignore[method-assign]
    with pytest.raises(RedisCommandError, match="cluster support disabled"):
        play(GET)


# -- addresses -------------------------------------------------------------------------------


def endpoint(**settings: Any) -> Endpoint:
    return endpoint_for(CacheConfig(**settings).redis, 2)


def test_the_nodes_of_a_cluster_and_its_one_database() -> None:
    found = endpoint(redis_url="rediss+cluster://bob:p%40w@a:1,[::1]:2,c")
    assert (found.kind, found.scheme, found.db) == ("cluster", "rediss", 0)
    assert found.nodes == (("a", 1), ("::1", 2), ("c", 6379))
    assert (found.username, found.password) == ("bob", "p@w")
    assert endpoint(redis_cluster=True, redis_port=7).nodes == (("localhost", 7),)
    assert endpoint(redis_cluster=True, redis_url="redis://h:8").nodes == (("h", 8),)


def test_the_sentinels_of_a_service() -> None:
    found = endpoint(redis_url="redis+sentinel://:pw@a,b:2/main", redis_sentinel_password="other")
    assert (found.kind, found.service, found.db, found.password) == ("sentinel", "main", 2, "pw")
    assert found.nodes == (("a", 26379), ("b", 2))
    assert found.sentinel("a", 1).password == "other"
    assert found.at("m", 3).sentinel_password is None


def test_buckets_are_many_on_a_cluster_and_one_elsewhere() -> None:
    assert CacheConfig().redis.buckets == 1
    assert CacheConfig(redis_cluster=True).redis.buckets == 1024
    assert CacheConfig(redis_url="redis+cluster://h").redis.buckets == 1024
    assert CacheConfig(redis_cluster=True, redis_buckets=3).redis.buckets == 3


@pytest.mark.promise("no-leak")
@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",
        "redis+cluster://:hunter2@",
        "redis+cluster://:hunter2@a,,b",
        "redis+cluster://:hunt/er2@a:1",
        "redis+cluster://a:hunter2",
        "redis+cluster://:hunter2@a/service",
        "redis+sentinel://:hunter2@a",
        "redis+sentinel://:hunter2@a/x/y",
        "redis+sentinel://:hunter2@a/s?option=hunter2",
        "redis+other://:hunter2@a",
    ],
)
def test_an_address_that_cannot_be_understood_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        endpoint(redis_url=url)
    assert "hunter2" not in str(error.value)
    assert "er2" not in str(error.value)


def test_a_cluster_on_a_unix_socket_and_a_client_of_many_are_refused() -> None:
    with pytest.raises(ConfigError, match="redis_cluster"):
        endpoint(redis_cluster=True, redis_url="unix:///s")
    with pytest.raises(ConfigError, match="RedisCluster"):
        create_redis_client(config=CacheConfig(redis_url="redis+cluster://h"))
