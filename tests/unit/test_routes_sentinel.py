"""Which server is asked behind Sentinel: the flow, driven by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis
import pytest
import redis.exceptions as rx

from lix_cache.config import CacheConfig
from lix_cache.drivers.routes import Routes
from lix_cache.effects import NodeAsk
from lix_cache.errors import RedisUnavailable
from lix_cache.hot.connections import NewConnection, next_number
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.places import check_is_master
from lix_cache.hot.slots import Range
from tests.support.flows import played
from tests.support.twins import ManualClock

A, B = 7001, 7002
SENTINELS = 26001, 26002, 26003
READONLY = rx.ReadOnlyError("READONLY You can't write against a read only replica.")


class Play:
    """Two servers and their sentinels. A connection to a server is opened by the first request to it.

    Attributes:
        says: whom each sentinel names; None where it does not answer.
        sent: what came to the servers, by port.
    """

    def __init__(self, answer: Callable[[int, list[bytes]], Any] = lambda port, words: b"OK") -> None:
        url = "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in SENTINELS) + "/main"
        self.clock = ManualClock()
        self.routes = Routes(endpoint_for(CacheConfig(redis_url=url).redis, 0), self.clock)
        self.answer = answer
        self.says: dict[int, int | None] = dict.fromkeys(SENTINELS, A)
        self.sent: list[tuple[int, bytes]] = []
        self.looks = 0
        self.seconds = 0.01
        self.opened: dict[int, int] = {}

    def __call__(self, *commands: Any, opened: int | None = None) -> list[Any]:
        return played(self.routes.answers(commands, opened), self._asked, self.clock.advance)

    def _asked(self, ask: NodeAsk) -> Any:
        reader = hiredis.Reader()
        reader.feed(ask.request)
        port = ask.node.endpoint.port
        if port in SENTINELS:
            self.looks += 1
            self.clock.advance(self.seconds)
            named = self.says[port]
            if named is None:
                return rx.ConnectionError("refused")
            master = [b"ip", b"127.0.0.1", b"config-epoch", b"2" if named == B else b"1"]
            return [[b"127.0.0.1", str(named).encode()], master]
        number = self.opened.setdefault(port, next_number())
        if ask.opened is not None and number > ask.opened:
            return NewConnection(number)
        answers = []
        for _ in range(ask.count):
            words = reader.gets()
            self.sent.append((port, b" ".join(words)))
            answers.append(self.answer(port, words))
        return answers


@pytest.mark.promise("no-loss")
def test_the_sentinels_are_asked_behind_each_new_connection_and_then_no_more() -> None:
    play = Play()
    assert play(("GET", "k")) == [b"OK"]
    looks = play.looks
    assert looks == 4, "one says who it is; then all, that it still is"
    assert play(("GET", "k")) == [b"OK"]
    assert play.looks == looks
    # It was closed: the server may have been away.
    del play.opened[A]
    assert play(("GET", "k")) == [b"OK"]
    assert play.looks > looks


@pytest.mark.promise("no-loss")
def test_a_server_that_came_back_as_the_master_that_it_was_is_sent_nothing() -> None:
    play = Play()
    play(("GET", "k"))
    del play.opened[A]
    play.says = dict.fromkeys(SENTINELS, B)
    assert play(("SET", "k", "v")) == [b"OK"]
    assert play.sent == [(A, b"GET k"), (B, b"SET k v")]


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("knows", SENTINELS)
def test_one_sentinel_that_has_heard_of_another_master_decides(knows: int) -> None:
    play = Play()
    play(("GET", "k"))
    del play.opened[A]
    play.says[knows] = B
    assert play(("SET", "k", "v")) == [b"OK"]
    # Nor does it lead back.
    del play.opened[B]
    assert play(("SET", "k", "w")) == [b"OK"]
    assert play.sent[1:] == [(B, b"SET k v"), (B, b"SET k w")]


@pytest.mark.promise("no-loss")
def test_who_reckons_with_an_older_connection_hears_of_the_new_one_before_anything_is_sent() -> None:
    play = Play()
    play(("GET", "k"))
    known = play.opened[A]
    del play.opened[A]
    with pytest.raises(NewConnection) as caught:
        play(("GET", "k"), opened=known)
    assert caught.value.number == play.opened[A]
    assert play(("GET", "k"), opened=caught.value.number) == [b"OK"]


def test_without_a_sentinel_that_answers_nothing_is_sent_on_a_new_connection() -> None:
    play = Play()
    play(("GET", "k"))
    play.says = dict.fromkeys(SENTINELS, None)
    assert play(("GET", "k")) == [b"OK"], "nothing has happened to the connection"
    del play.opened[A]
    (refused,) = play(("SET", "k", "v"))
    assert isinstance(refused, RedisUnavailable)
    assert not refused.maybe_done
    assert len(play.sent) == 2


@pytest.mark.promise("no-loss")
def test_a_look_that_began_before_another_one_does_not_lead_back() -> None:
    play = Play()
    play(("GET", "k"))
    nodes = play.routes.nodes
    early = next_number()
    nodes.take([Range(0, 0, "127.0.0.1", B)], next_number(), 2)
    looked = nodes.looked
    nodes.take([Range(0, 0, "127.0.0.1", A)], early, 1)
    assert [node and node.endpoint.port for node in nodes.owners] == [B]
    assert (nodes.epoch, nodes.looked) == (2, looked)


def test_what_the_sentinels_name_a_server_for_is_sent_though_asking_took_all_the_time() -> None:
    play = Play()
    play.seconds = 60
    assert play(("GET", "k")) == [b"OK"]


@pytest.mark.promise("no-loss")
def test_one_sentinel_that_is_left_and_has_heard_of_nothing_leads_to_no_old_master() -> None:
    play = Play()
    play.says = dict.fromkeys(SENTINELS, B)
    play(("GET", "k"))
    del play.opened[B]
    play.says = {SENTINELS[0]: A, SENTINELS[1]: None, SENTINELS[2]: None}
    (refused,) = play(("SET", "k", "v"))
    assert isinstance(refused, RedisUnavailable)
    assert not refused.maybe_done
    # Sentinels that were set up anew count from the beginning.
    play.says = dict.fromkeys(SENTINELS, A)
    assert play(("SET", "k", "v")) == [b"OK"]
    assert play.sent[-1] == (A, b"SET k v")


def test_connections_that_never_last_end_with_the_time_and_not_as_if_there_were_nothing() -> None:
    play = Play()
    play(("GET", "k"))
    play.opened = _AlwaysNew()
    (refused,) = play(("GET", "k"))
    assert isinstance(refused, RedisUnavailable)
    assert len(play.sent) == 1


class _AlwaysNew(dict[int, int]):
    def setdefault(self, key: int, default: int = 0) -> int:
        return default


@pytest.mark.promise("no-loss")
def test_what_a_replica_reads_beside_a_write_that_it_refuses_is_no_answer() -> None:
    def answer(port: int, words: list[bytes]) -> Any:
        if words[0] == b"SET":
            return READONLY if port == A else b"OK"
        return None if port == A else b"there"

    play = Play(answer)
    assert play(("GET", "k")) == [None]
    play.says = dict.fromkeys(SENTINELS, B)
    assert play(("SET", "k", "v", "NX"), ("GET", "k")) == [b"OK", b"there"]


@pytest.mark.parametrize(
    "said", [[b"role", b"replica"], ["proto", 2, "role", "replica"], {b"role": b"replica"}]
)
def test_a_server_that_says_it_is_a_replica_is_parted_from(said: Any) -> None:
    with pytest.raises(rx.ReadOnlyError):
        check_is_master(said)


@pytest.mark.parametrize("said", [[b"proto", 2, b"role", b"master"], (), {}])
def test_a_master_and_one_that_does_not_say_are_used(said: Any) -> None:
    check_is_master(said)
