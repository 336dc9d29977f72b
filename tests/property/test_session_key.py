"""No two sessions have one stored id, one key or one file, whatever their ids and namespaces are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lix_cache import InvalidSessionId, SessionKey
from lix_cache.archive.names import file_stem, is_encoded, plain_stem, session_id_of_stem
from lix_cache.hot.keys import Keys
from lix_cache.hot.old_keys import OldSessions, old_list_key
from lix_cache.messages.session_key import (
    in_namespace,
    is_stored,
    name_fields,
    named,
    plain_of,
    shown,
    spoken,
    stored_id,
    stored_start,
)

pytestmark = pytest.mark.promise("isolation")

# Few letters, and those that stand between parts of names: what collides at all collides here.
LETTERS = st.one_of(st.sampled_from("\x1f\x1f\x1faAbB%1F~:{}/.*"), st.characters(codec="utf-8"))
IDS = st.text(LETTERS, min_size=1, max_size=12)
NAMESPACES = IDS.filter(lambda text: "\x1f" not in text)
SESSIONS = st.one_of(IDS, st.builds(SessionKey, NAMESPACES, IDS))

INVALID: list[tuple[Any, str]] = [
    ("", "must not be empty"),
    (5, "must be a str, got an int"),
    (b"acme", "must be a str, got bytes"),
    ("a\ud800", "must be encodable as UTF-8, and holds half a surrogate pair"),
]


@given(SESSIONS)
def test_a_stored_id_leads_back_to_its_session_and_to_no_other(session: str | SessionKey) -> None:
    stored = stored_id(session)
    assert shown(stored) == session
    assert stored_id(shown(stored)) == stored
    assert is_stored(stored)
    assert plain_of(stored) == (session if isinstance(session, str) else None)


@given(SESSIONS, SESSIONS)
@example("\x1fa\x1fb", SessionKey("a", "b"))
@example("\x1f\x1fa\x1fb", SessionKey("a", "b"))
@example(SessionKey("a", "\x1fb"), SessionKey("a", "b"))
@example("%1Fa%1Fb", SessionKey("a", "b"))
@example("%1fa%1fb", SessionKey("a", "b"))
@example(SessionKey("A", "b"), SessionKey("a", "b"))
@example(SessionKey("a", "B"), SessionKey("a", "b"))
@example(SessionKey("a" * 250, "b"), SessionKey("A" * 250, "b"))
def test_two_sessions_share_no_name(one: str | SessionKey, other: str | SessionKey) -> None:
    assume(one != other)
    first, second = stored_id(one), stored_id(other)
    assert first != second
    keys = Keys("lix", 3)
    for name in ("window", "ticket", "refused", "known", "semantic_scopes"):
        assert getattr(keys, name)(first) != getattr(keys, name)(second)
    assert file_stem(first) != file_stem(second)
    if not (isinstance(one, str) and isinstance(other, str)):
        assert file_stem(first).casefold() != file_stem(second).casefold()


@given(st.builds(SessionKey, NAMESPACES, IDS))
def test_a_name_of_a_session_with_a_namespace_is_one_plain_file_and_no_old_one(key: SessionKey) -> None:
    stored = stored_id(key)
    stem = file_stem(stored)
    assert stem.isascii()
    assert stem[0] in "%~"
    assert "/" not in stem
    assert len(stem) <= 180
    assert is_encoded(stem)
    if stem[0] != "~":
        assert session_id_of_stem(stem) == stored
    assert plain_stem(stored) is None
    assert old_list_key("lix", stored) == ""


@given(IDS)
def test_an_old_session_is_looked_for_under_the_very_id_it_had(session_id: str) -> None:
    stored = stored_id(session_id)
    key = f"lix:session_order:{session_id}"
    assert old_list_key("lix", stored) == key
    assert OldSessions("lix").session_ids([key.encode()]) == [stored]
    assert OldSessions("lix").message_key(stored, b"7").decode() == f"lix:session_context:{session_id}:7"
    stem = plain_stem(stored)
    assert stem in (None, session_id)


@given(NAMESPACES, SESSIONS)
def test_a_namespace_has_its_own_sessions_and_no_others(namespace: str, session: str | SessionKey) -> None:
    is_its_own = isinstance(session, SessionKey) and session.namespace == namespace
    assert in_namespace(stored_id(session), stored_start(namespace)) == is_its_own
    assert in_namespace(stored_id(session), None)


@given(st.text(LETTERS, max_size=12))
def test_any_text_at_all_is_shown_as_something_and_only_stored_ids_lead_back(text: str) -> None:
    found = shown(text)
    assert is_stored(text) == (bool(text) and stored_id(found) == text)
    assert spoken(found) == named(text)


@given(st.builds(SessionKey, NAMESPACES, IDS))
def test_the_stored_form_is_never_shown(key: SessionKey) -> None:
    stored = stored_id(key)
    assert name_fields(key) == {"session_id": key.id, "namespace": key.namespace}
    assert stored not in named(stored)
    assert repr(stored)[1:-1] not in named(stored)
    assert repr(key.namespace) in named(stored)


def test_without_a_namespace_a_key_is_its_id() -> None:
    for text in ("x", "\x1fx", "\x1fa\x1fb"):
        assert stored_id(SessionKey(None, text)) == stored_id(text)
        assert shown(stored_id(SessionKey(None, text))) == text
    assert stored_id("x") == "x"


@pytest.mark.parametrize(("value", "why"), INVALID)
def test_an_id_or_a_namespace_that_cannot_be_one_is_refused(value: Any, why: str) -> None:
    with pytest.raises(InvalidSessionId, match=f"a namespace {why}"):
        SessionKey(value, "x")
    for make in (SessionKey, lambda _, value: stored_id(value)):
        with pytest.raises(InvalidSessionId, match=f"a session id {why}"):
            make(None, value)


def test_a_namespace_is_at_most_255_bytes_and_holds_no_separator() -> None:
    assert shown(stored_id(SessionKey("é" * 127, "x" * 65_536))) == SessionKey("é" * 127, "x" * 65_536)
    with pytest.raises(InvalidSessionId, match="at most 255 bytes of UTF-8, got 256"):
        SessionKey("é" * 128, "x")
    with pytest.raises(InvalidSessionId, match="at most 65536 bytes"):
        SessionKey("acme", "x" * 65_537)
    for text in ("\x1f", "\x1facme", "acme\x1f", "ac\x1fme"):
        with pytest.raises(InvalidSessionId, match="x1f"):
            SessionKey(text, "x")
        with pytest.raises(InvalidSessionId, match="x1f"):
            stored_start(text)


def test_a_key_that_went_around_its_checks_is_refused_at_the_door() -> None:
    for name, value in (("namespace", "a\x1fb"), ("namespace", ""), ("id", ""), ("id", "a\ud800"), ("id", 5)):
        key = SessionKey("acme", "x")
        object.__setattr__(key, name, value)
        for made in (key, copy.copy(key), pickle.loads(pickle.dumps(key))):
            with pytest.raises(InvalidSessionId):
                stored_id(made)


def test_a_key_is_a_value() -> None:
    key = SessionKey("acme", "x")
    assert key == pickle.loads(pickle.dumps(key)) == copy.deepcopy(key)
    assert len({key, SessionKey("acme", "x"), SessionKey("acme", "y"), SessionKey(None, "x"), "x"}) == 4
    with pytest.raises(AttributeError):
        key.id = "y"  # type: ignore[misc]
