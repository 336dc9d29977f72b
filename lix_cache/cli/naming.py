"""Which session is meant: its id, or the id as a command printed it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import typer

from lix_cache import StoreAdmin
from lix_cache.cli.errors import PROBLEM, complain
from lix_cache.cli.output import id_text
from lix_cache.cli.terminal import in_plain_letters, visible

__all__ = ["hot_or_cold", "meant"]


def hot_or_cold(admin: StoreAdmin, given: str) -> str:
    """Return the id of a session that is there, hot or cold.

    Raises:
        typer.Exit: there is none, or several are printed so; said on stderr.
    """
    return meant(given, lambda sid: admin.session(sid) is not None, admin.session_ids)


def meant(
    given: str,
    exists: Callable[[str], bool],
    ids: Callable[[], Iterable[str]],
    what: str = "there is no session",
    advice: str = "'lix-cache sessions' lists them",
) -> str:
    """Return the id that was meant by what was pasted.

    An id is printed with its control characters escaped, cut where it is long, and in plain letters
    where the terminal has no others. Its own text comes first, so no id hides another.

    Args:
        given: what the user wrote.
        exists: whether there is a session of an id.
        ids: all there are; asked only if that one is not there.
        what: how the complaint begins.
        advice: what to do about it.

    Raises:
        typer.Exit: as :func:`hot_or_cold`.
    """
    if exists(given):
        return given
    found = sorted({sid for sid in ids() if given in _printed(sid)})
    if len(found) == 1:
        return found[0]
    if found:
        complain(f"{given!r} may be {len(found):,} sessions", "'lix-cache sessions --json' shows whole ids")
    else:
        complain(f"{what} {given!r}", advice)
    raise typer.Exit(PROBLEM)


def _printed(session_id: str) -> set[str]:
    """Return all that commands print for an id: in tables, in JSON, in errors."""
    whole = (
        visible(session_id),
        id_text(session_id).plain,
        json.dumps(session_id)[1:-1],
        repr(session_id)[1:-1],
    )
    return {form for text in whole for form in (text, in_plain_letters(text))}
