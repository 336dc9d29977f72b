"""What was dropped: what it fits, how long it is remembered, and what is refused of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lix_cache.errors import CodecError
from lix_cache.gateway import deletions
from lix_cache.gateway.answer import Answer
from lix_cache.gateway.deletions import Drop, Dropped, any_of
from lix_cache.gateway.tiers import Entry

pytestmark = pytest.mark.promise("right-answer")
PURGE = Drop("ann", 10.0)


@pytest.fixture
def entry() -> Callable[..., Entry]:
    def made(identity: str = "resp_1", *, tenant: str = "ann", created: float = 10.0) -> Entry:
        answer = Answer("responses", identity, "m-1-long", ("completed",), None, False, False, b"{}")
        return Entry(tenant, answer, created, created + 100, "m-1", ("tag",))

    return made


@pytest.mark.parametrize(
    "drop",
    [
        PURGE,
        Drop("ann", 10.0, "resp_1"),
        Drop("ann", 10.0, model="m-1", tag="tag", newest=10.0),
        Drop.of_response("ann", "r" * 10_000, 10.0),
    ],
)
def test_what_is_told_is_what_was_said(drop: Drop, entry: Callable[..., Entry]) -> None:
    assert Drop.decode(drop.encode()) == drop
    assert len(drop.encode()) < 1000
    fits = any_of([drop])
    assert fits(entry())
    assert not fits(entry(tenant="bob"))


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize(
    "data",
    [
        b"nonsense",
        b"[]",
        b"{}",
        b'{"tenant":"ann"}',
        b'{"tenant":1,"at":1.0}',
        b'{"tenant":"ann","at":"1"}',
        b'{"tenant":"ann","at":1.0,"newest":"1"}',
        b'{"tenant":"ann","at":1.0,"id":null}',
        b'{"tenant":"ann","at":1.0,"more":1}',
    ],
)
def test_what_makes_no_sense_is_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        Drop.decode(data)


@pytest.mark.parametrize(
    ("drop", "is_gone"),
    [
        (Drop("ann", 10.0, model="m-2"), False),
        (Drop("ann", 10.0, tag="other"), False),
        (Drop("ann", 10.0, newest=9.0), False),
        (Drop("ann", 9.0), False),
        (PURGE, True),
        (Drop("ann", 1.0, "resp_1"), True),
        (Drop("ann", 1.0, "resp_2"), False),
    ],
)
def test_what_is_under_way_is_gone_if_it_was_dropped_since_it_was_asked_for(
    drop: Drop, is_gone: bool, entry: Callable[..., Entry]
) -> None:
    dropped = Dropped()
    dropped.add(drop, 20.0)
    assert dropped.has(entry()) is is_gone


def test_clocks_of_other_machines_hide_no_purge(entry: Callable[..., Entry]) -> None:
    dropped = Dropped()
    dropped.add(Drop("ann", 1e12), 10.0)  # far ahead
    dropped.add(Drop("bob", 1.0), 11.0)  # far behind
    assert dropped.has(entry(created=10.0))
    assert not dropped.has(entry(created=10.5)), "nothing is gone that was asked for later"


def test_many_deletions_push_no_purge_out_and_are_bounded(entry: Callable[..., Entry]) -> None:
    dropped = Dropped()
    dropped.add(PURGE, 10.0)
    for number in range(deletions._MOST_RESPONSES + 10):
        dropped.add(Drop("bob", 10.0, f"resp_{number}"), 10.0)
    assert dropped.has(entry())
    assert dropped.has(entry("resp_10", tenant="bob", created=20.0))
    assert len(dropped._responses["bob"]) == deletions._MOST_RESPONSES


def test_what_one_tenant_deletes_pushes_out_no_deletion_of_another(entry: Callable[..., Entry]) -> None:
    dropped = Dropped()
    dropped.add(Drop("ann", 10.0, "resp_1"), 10.0)
    for number in range(deletions._MOST_RESPONSES + 10):
        dropped.add(Drop("bob", 10.0, f"resp_{number}"), 10.0)
    assert dropped.has(entry())


def test_what_was_missed_hides_what_is_under_way_and_nothing_read_later(entry: Callable[..., Entry]) -> None:
    dropped = Dropped()
    dropped.miss(10.0)
    assert dropped.has(entry(created=10.0))
    assert not dropped.has(entry(created=10.5))
    assert dropped.has(entry(created=1.0), 9.5)
    assert not dropped.has(entry(created=1.0), 10.5)
