"""``lix-cache export``."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Annotated, Any

import typer

from lix_cache import (
    ArchiveError,
    InvalidInput,
    InvalidMessage,
    StoreAdmin,
)
from lix_cache.cli.errors import PROBLEM, complain
from lix_cache.cli.jsonl import to_line
from lix_cache.cli.naming import (
    Session,
    hot_or_cold,
    name_fields,
    refused_as_of_other_prefixes,
    spoken,
)
from lix_cache.cli.options import settings_of
from lix_cache.cli.output import counted, progress, to_stderr, visible, write_all
from lix_cache.cli.terminal import has_reader

__all__ = ["export"]

_FIRST = ("role", "content", "timestamp", "metadata")


def export(
    ctx: typer.Context,
    session: Annotated[
        list[str] | None, typer.Option(metavar="SESSION", help="This session. Repeatable; all by default.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Output file; stdout by default.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this namespace; without --session, else all.")
    ] = None,
) -> None:
    """Write sessions as JSONL, hot and cold together: {"session_id": …, "messages": […]} per line.

    A line of a session with a namespace has a "namespace" too.
    'lix-cache import' reads it back. Messages added meanwhile may be in it or not. Exporting
    is no use of a session: all stays where it is. Ends
    with code 1, after writing all others, if a session cannot be read; and under a prefix that was never used
    with this archive, where stdout gets what is on disk, and a FILE stays as it was.
    """
    admin = StoreAdmin(settings_of(ctx).config_of_store())
    named = [hot_or_cold(admin, sid, namespace) for sid in session or []]
    chosen = list(dict.fromkeys(named or admin.session_ids(namespace=namespace)))
    rest = "only what is on disk is written" if output is None else f"{visible(output)} stays as it was"
    is_partial = refused_as_of_other_prefixes(admin, f"what is in Redis would be missing; {rest}")
    if is_partial and output is not None:
        # An earlier backup of that name may be whole.
        raise typer.Exit(PROBLEM)
    failed = [] if session else [f"file {name!r} cannot be read" for name in admin.unreadable_files()]
    messages = count = 0
    with _opened(output) as file, progress("exporting") as tell:
        for number, session_id in enumerate(chosen, 1):
            try:
                history = _history(admin, session_id)
            except (ArchiveError, InvalidMessage) as error:
                # Its own trouble: the others are still to be saved.
                failed.append(f"session {spoken(session_id)} is not in it: {error}")
                continue
            # One that was deleted since it was listed is no session any more.
            if history:
                write_all(file, to_line({**name_fields(session_id), "messages": history}))
                count, messages = count + 1, messages + len(history)
            tell(number, len(chosen))
            if output is None and not has_reader():
                break
    where = f" to {visible(output)}" if output else ""
    to_stderr().print(f"{counted(count, 'session')}, {counted(messages, 'message')}{where}", soft_wrap=True)
    for what in failed:
        complain(what, "'lix-cache verify' says what is damaged")
    if failed or is_partial:
        raise typer.Exit(PROBLEM)


def _history(admin: StoreAdmin, session_id: Session) -> list[dict[str, Any]]:
    # The usual keys in the usual order: the same message is the same line, hot or cold.
    return [
        {key: message[key] for key in (*_FIRST, *sorted(message.keys() - set(_FIRST))) if key in message}
        for message in admin.messages(session_id)
    ]


@contextmanager
def _opened(path: str | None) -> Iterator[IO[bytes]]:
    """Open stdout, or a file that gets its name only when it is complete."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    folder, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise InvalidInput(f"there is no folder {folder!r} to write {name!r} into")
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
