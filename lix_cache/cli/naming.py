"""Which session is meant: its id, or the id as a command printed it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import typer

from lix_cache import ConversationArchive, SessionKey, StoreAdmin
from lix_cache.cli.errors import PROBLEM, complain
from lix_cache.cli.output import id_text, to_stderr
from lix_cache.cli.terminal import in_plain_letters, visible

__all__ = [
    "Session",
    "archived",
    "hot_or_cold",
    "listed_failures",
    "meant",
    "name_fields",
    "refused_as_of_other_prefixes",
    "say_if_of_other_prefixes",
    "spoken",
]

#: What names a session: its id, or a key where it has a namespace.
Session = str | SessionKey


def hot_or_cold(admin: StoreAdmin, given: str, namespace: str | None) -> Session:
    """Return the name of a session that is there, hot or cold.

    Raises:
        typer.Exit: there is none, or several are printed so; said on stderr.
    """
    try:
        return meant(given, namespace, lambda sid: admin.session(sid) is not None, admin.session_ids)
    except typer.Exit:
        say_if_of_other_prefixes(admin)  # it may be in Redis, under another
        raise


def archived(archive: ConversationArchive, given: str, namespace: str | None) -> Session:
    """Return the name of a session that has an archive file.

    Raises:
        typer.Exit: as :func:`hot_or_cold`.
    """
    return meant(
        given,
        namespace,
        archive.session_exists,
        lambda: [meta["session_id"] for meta in archive.list_sessions()],
        "there is no archive file of session",
    )


def meant(
    given: str,
    namespace: str | None,
    exists: Callable[[Session], bool],
    names: Callable[[], Iterable[Session]],
    what: str = "there is no session",
    advice: str = "'lix-cache sessions' lists them",
) -> Session:
    """Return the session that was meant by what was pasted.

    An id is printed with its control characters escaped, cut where it is long, and in plain letters
    where the terminal has no others. Its own text comes first, so no id hides another.

    Args:
        given: what the user wrote.
        namespace: whose session; None for one without.
        exists: whether there is a session of that name.
        names: all there are, of every namespace; asked only if that one is not there.
        what: how the complaint begins.
        advice: what to do about it.

    Raises:
        typer.Exit: as :func:`hot_or_cold`.
    """
    wanted = _name(namespace, given)
    if exists(wanted):
        return wanted
    every = [SessionKey(None, name) if isinstance(name, str) else name for name in names()]
    found = sorted({key.id for key in every if key.namespace == namespace and given in _printed(key.id)})
    if len(found) == 1:
        return _name(namespace, found[0])
    if found:
        complain(f"{given!r} may be {len(found):,} sessions", "'lix-cache sessions --json' shows whole ids")
    else:
        others = {key.namespace for key in every if key.id == given}
        complain(f"{what} {spoken(wanted)}", _elsewhere(others) or advice)
    raise typer.Exit(PROBLEM)


def _name(namespace: str | None, session_id: str) -> Session:
    return session_id if namespace is None else SessionKey(namespace, session_id)


def _elsewhere(namespaces: set[str | None]) -> str:
    """Return how to come by sessions of the same id; "" where there are none."""
    named = [visible(shlex.quote(name)) for name in sorted(filter(None, namespaces))]
    if named:
        return f"one of that id is in another namespace: --namespace {' or '.join(named[:3])}"
    return "one of that id has no namespace: leave --namespace out" if namespaces else ""


def spoken(session: Session) -> str:
    """Return what a sentence calls a session."""
    if isinstance(session, str):
        return repr(session)
    return f"{session.id!r} of namespace {session.namespace!r}"


def name_fields(session: Session) -> dict[str, str | None]:
    """Return what JSON calls a session: its id, and its namespace if it has one."""
    if isinstance(session, str):
        return {"session_id": session}
    return {"session_id": session.id, "namespace": session.namespace}


def listed_failures(failed: Mapping[Session, str]) -> dict[str, Any]:
    """Return failures for JSON: by id, and those of namespaces by namespace and id."""
    found: dict[str, Any] = {"failed": {}}
    for session, why in failed.items():
        if isinstance(session, str):
            found["failed"][session] = why
        else:
            found.setdefault("failed_in", {}).setdefault(session.namespace, {})[session.id] = why
    return found


def say_if_of_other_prefixes(admin: StoreAdmin) -> None:
    """Say on stderr that what was listed is from disk alone, and that the prefix may be a slip."""
    if admin.is_of_other_prefixes():
        to_stderr().print(
            f"{_of_other_prefixes(admin)}: what it holds is shown whatever prefix it was stored under",
            soft_wrap=True,
        )


def refused_as_of_other_prefixes(admin: StoreAdmin, what: str) -> bool:
    """Tell whether a command cannot have met the messages in Redis, after saying so on stderr.

    Args:
        admin: of the archive, under the prefix that may be a slip.
        what: what that did to the command.
    """
    if not admin.is_of_other_prefixes():
        return False
    complain(
        f"{_of_other_prefixes(admin)}: {what}",
        "name the application's redis_key_prefix, before the command: lix-cache --prefix NAME …; an archive "
        "that it is to use from now on, it must use once",
    )
    return True


def _of_other_prefixes(admin: StoreAdmin) -> str:
    prefix = visible(repr(admin.config.redis_key_prefix))
    return f"no process has used this archive under the prefix {prefix}"


def _printed(session_id: str) -> set[str]:
    """Return all that commands print for an id: in tables, in JSON, in errors."""
    whole = (
        visible(session_id),
        id_text(session_id).plain,
        json.dumps(session_id)[1:-1],
        repr(session_id)[1:-1],
    )
    return {form for text in whole for form in (text, in_plain_letters(text))}
