"""Which session is meant: an id, alone or in a namespace, and the one text that stands for both. Pure.

Above the doors (public classes and methods) a session is named by a ``str``, or by a
:class:`SessionKey` where it has a namespace. Below them it has one name, its *stored id*: what keys,
files and digests are made of.

====================  =========================  ==============================
a session             its stored id              begins with
====================  =========================  ==============================
``"x"``               ``x``                      anything else
``"\\x1fx"``           ``\\x1f\\x1fx``              ``\\x1f\\x1f``
``("acme", "x")``     ``\\x1facme\\x1fx``          ``\\x1f`` and another character
====================  =========================  ==============================

A namespace is not empty and holds no ``\\x1f``, so no two sessions have one stored id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from lix_cache.checks import given, kind_of
from lix_cache.errors import InvalidSessionId, InvalidType

__all__ = [
    "MAX_NAMESPACE_BYTES",
    "MAX_SESSION_ID_BYTES",
    "SessionKey",
    "SessionName",
    "ids_of",
    "in_namespace",
    "is_stored",
    "name_fields",
    "named",
    "plain_of",
    "shown",
    "spoken",
    "stored_id",
    "stored_plain",
    "stored_start",
]

MAX_SESSION_ID_BYTES = 65_536
MAX_NAMESPACE_BYTES = 255
#: The unit separator: no text that people write holds it.
_MARK = "\x1f"


@dataclass(frozen=True)
class SessionKey:
    """A session of a namespace: of a tenant, or of a user.

    Every class and method that takes a session id takes a key as well. Sessions of different namespaces
    share nothing, whatever their ids. ``SessionKey(None, "x")`` is the session ``"x"``.

    Attributes:
        namespace: not empty, at most 255 bytes of UTF-8, without ``\\x1f``; None for none.
        id: the session's id within the namespace: any text of 1 to 65,536 bytes of UTF-8.

    Raises:
        InvalidSessionId: one of them cannot be used, with the reason.

    .. versionadded:: 1.0.0
    """

    namespace: str | None
    id: str

    def __post_init__(self) -> None:
        if self.namespace is not None:
            _check_namespace(self.namespace)
        _check("a session id", self.id, MAX_SESSION_ID_BYTES)


#: What names a session: an id, or a key.
SessionName: TypeAlias = str | SessionKey


def _check(what: str, text: object, most: int) -> str:
    if not isinstance(text, str):
        raise InvalidSessionId(f"{what} must be a str, got {kind_of(text)}: turn it into text")
    if not text:
        raise InvalidSessionId(f"{what} must not be empty")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = -1
    if size < 0:
        raise InvalidSessionId(f"{what} must be encodable as UTF-8, and holds half a surrogate pair")
    if size > most:
        raise InvalidSessionId(f"{what} must have at most {most} bytes of UTF-8, got {size}")
    return text


def _check_namespace(namespace: object) -> str:
    text = _check("a namespace", namespace, MAX_NAMESPACE_BYTES)
    if _MARK in text:
        raise InvalidSessionId("a namespace must not hold the character \\x1f")
    return text


def stored_id(session: object) -> str:
    """Return the stored id of a session; the door of every public method.

    Any text can be an id, whatever it looks like: ids are data and never become a path, a
    pattern or a command. Refused are other types, the empty string, lone surrogates (they have no
    UTF-8) and more than 65,536 bytes.

    Raises:
        InvalidSessionId: with the reason.
    """
    namespace, given = (session.namespace, session.id) if isinstance(session, SessionKey) else (None, session)
    # Of a key as well: one that was unpickled was not checked.
    session_id = _check("a session id", given, MAX_SESSION_ID_BYTES)
    return stored_plain(session_id) if namespace is None else stored_start(namespace) + session_id


def ids_of(name: str, sessions: object) -> list[str]:
    """Return the stored ids of several sessions, each once; ``name`` is the argument's, for errors.

    Raises:
        InvalidType: that is no collection of ids. One id is not: its characters would be taken for ids.
        InvalidSessionId: one of them is no id.
    """
    if isinstance(sessions, (str, bytes, SessionKey, Mapping)) or not isinstance(sessions, Iterable):
        raise InvalidType(f"{name} must be a list of session ids, {given(sessions)}")
    found = []
    for position, session in enumerate(sessions):
        try:
            found.append(stored_id(session))
        except InvalidSessionId as error:
            raise InvalidSessionId(f"{name}[{position}]: {error}") from None
    return list(dict.fromkeys(found))


def stored_plain(text: str) -> str:
    """Return the stored id of the session that has this id and no namespace."""
    return _MARK + text if text.startswith(_MARK) else text


def stored_start(namespace: str) -> str:
    """Return what the stored ids of a namespace begin with, and no others.

    Raises:
        InvalidSessionId: no namespace.
    """
    return f"{_MARK}{_check_namespace(namespace)}{_MARK}"


def plain_of(stored: str) -> str | None:
    """Return the id of a session without a namespace; None if it has one."""
    found = shown(stored)
    return found if isinstance(found, str) else None


def shown(stored: str) -> SessionName:
    """Return what names a session to users: its id, or its key where it has a namespace.

    The inverse of :func:`stored_id`. What no session has as its stored id (in a file that was not made by us)
    is returned as it is: :func:`stored_id` of that is another session's.
    """
    if not stored.startswith(_MARK):
        return stored
    namespace, mark, session_id = stored[1:].partition(_MARK)
    if mark and not namespace:
        return stored[1:]
    try:
        return SessionKey(namespace, session_id)
    except InvalidSessionId:
        return stored


def name_fields(session: SessionName) -> dict[str, str]:
    """Return what statistics call a session: its id, and its namespace if it has one."""
    if isinstance(session, str):
        return {"session_id": session}
    return {"session_id": session.id, **({"namespace": session.namespace} if session.namespace else {})}


def is_stored(text: str) -> bool:
    """Whether a text is the stored id of a session."""
    try:
        return stored_id(shown(text)) == text
    except InvalidSessionId:
        return False


def in_namespace(stored: str, start: str | None) -> bool:
    """Whether a session is of the namespace whose stored ids begin so; always, if that is None."""
    return start is None or (stored.startswith(start) and len(stored) > len(start))


def spoken(session: SessionName) -> str:
    """Return what errors and logs call a session, cut where it is long."""
    if isinstance(session, str):
        return f"{session[:60]!r}"
    return f"{session.id[:60]!r} of namespace {session.namespace!r}"


def named(stored: str) -> str:
    """Return what errors and logs call the session of a stored id."""
    return spoken(shown(stored))
