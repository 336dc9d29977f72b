"""``lix-cache import``."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import IO, Annotated, Any

import typer

from lix_cache import ConversationArchive, HybridConversationCache, InvalidInput, SessionKey, StoreAdmin
from lix_cache.cli.jsonl import Record, kind_of, read_records
from lix_cache.cli.naming import Session, spoken
from lix_cache.cli.options import settings_of
from lix_cache.cli.output import counted, for_humans, progress

__all__ = ["import_"]


@dataclass(frozen=True)
class _Incoming:
    """A session to import.

    Attributes:
        session: its id, or its key.
        messages: in order.
        where: where it was read, for errors.
    """

    session: Session
    messages: list[dict[str, Any]]
    where: str


def import_(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What export wrote; - for stdin.")],
    append: Annotated[bool, typer.Option("--append", help="Add to sessions that exist.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave sessions that exist as they are.")
    ] = False,
    namespace: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Put sessions that have none into this one; refuse any other."),
    ] = None,
) -> None:
    """Read sessions from JSONL into the archive, with their timestamps and everything else.

    Each session is imported whole or not at all, and one that exists is refused before
    anything is imported: after an interruption, import again with --skip-existing. The
    sessions are cold until they are used.
    """
    if append and skip_existing:
        raise typer.BadParameter("use one of --append and --skip-existing")
    config = settings_of(ctx).config()
    incoming = _read(file, namespace)
    admin = StoreAdmin(config)
    existing = {one.session for one in incoming if _exists(admin, one)}
    if skip_existing:
        incoming = [one for one in incoming if one.session not in existing]
    elif not append:
        _refuse_existing(incoming, existing)
    archive = ConversationArchive(
        config.archive_place,
        config.disk_ttl_days,
        codec=config.archive_codec,
        dictionary=config.archive_dictionary,
        on_damage=config.on_archive_damage,
        lock_timeout_seconds=config.archive_lock_timeout_seconds,
    )
    with progress("importing") as tell:
        for number, one in enumerate(incoming, 1):
            if one.session in existing:
                # What is hot is older than what comes now, and must be so on disk as well.
                HybridConversationCache(one.session, config).flush_to_disk()
            try:
                archive.append_turns(one.session, one.messages)
            except InvalidInput as error:
                done = f"the {number - 1:,} sessions before it were imported"
                raise InvalidInput(f"{one.where}: {error}; {done}") from None
            existing.add(one.session)
            tell(number, len(incoming))
    messages = sum(len(one.messages) for one in incoming)
    for_humans().print(
        f"{counted(len(incoming), 'session')}, {counted(messages, 'message')} imported", soft_wrap=True
    )


def _exists(admin: StoreAdmin, one: _Incoming) -> bool:
    try:
        return admin.session(one.session) is not None
    except InvalidInput as error:
        raise InvalidInput(f"{one.where}: {error}; nothing was imported") from None


def _refuse_existing(incoming: list[_Incoming], existing: set[Session]) -> None:
    seen: set[Session] = set()
    for one in incoming:
        if one.session in existing or one.session in seen:
            what = "exists" if one.session in existing else "comes twice"
            raise InvalidInput(
                f"{one.where}: session {spoken(one.session)} {what}; nothing was imported. "
                "Use --append to add to it, or --skip-existing to leave it"
            )
        seen.add(one.session)


def _read(path: str, namespace: str | None) -> list[_Incoming]:
    if path == "-":
        return _sessions(sys.stdin.buffer, "stdin", namespace)
    try:
        with open(path, "rb") as file:
            return _sessions(file, os.path.basename(path), namespace)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None


def _sessions(file: IO[bytes], name: str, namespace: str | None) -> list[_Incoming]:
    return [_session(record, namespace) for record in read_records(file, name)]


def _session(record: Record, namespace: str | None) -> _Incoming:
    session_id = record.value.get("session_id")
    if not isinstance(session_id, str):
        what = "is missing" if session_id is None else f"must be a string, not {kind_of(session_id)}"
        raise record.refuse(f'"session_id" {what}')
    messages = record.value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise record.refuse('"messages" must be an array with at least one message')
    for position, message in enumerate(messages):
        if not isinstance(message, dict):
            raise record.refuse(f"messages[{position}] must be an object, not {kind_of(message)}")
    return _Incoming(_named(record, session_id, namespace), messages, record.where)


def _named(record: Record, session_id: str, namespace: str | None) -> Session:
    own = record.value.get("namespace")
    if own is not None and not isinstance(own, str):
        raise record.refuse(f'"namespace" must be a string, not {kind_of(own)}')
    if namespace is not None and own not in (None, namespace):
        # Moved in silence, two sessions of two tenants would become one.
        raise record.refuse(f"session {session_id!r} is of the namespace {own!r}, not {namespace!r}")
    found = namespace if own is None else own
    try:
        return session_id if found is None else SessionKey(found, session_id)
    except InvalidInput as error:
        raise record.refuse(f"{error}; nothing was imported") from None
