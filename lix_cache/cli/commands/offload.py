"""``lix-cache offload``."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import typer

from lix_cache import StoreAdmin
from lix_cache.cli.errors import PROBLEM, complain
from lix_cache.cli.naming import hot_or_cold, listed_failures, refused_as_of_other_prefixes, spoken
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import counted, for_humans, print_json, progress

__all__ = ["offload"]


def offload(
    ctx: typer.Context,
    idle_minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Idle time of the sessions to move; the configured one by default."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every hot session, idle or not.")] = False,
    session: Annotated[
        list[str] | None, typer.Option(metavar="SESSION", help="This session. Repeatable.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this namespace; without --session, else all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Move sessions from Redis to the archive now, and reconcile what an outage left in two parts.

    Nothing is lost: the next use brings a session back. Ends with code 1 if a session could not be moved, or
    if this archive was never used under the prefix: then nothing is found that could move.
    """
    if sum((idle_minutes is not None, everything, bool(session))) > 1:
        raise typer.BadParameter("use one of --idle-minutes, --all and --session")
    admin = StoreAdmin(settings_of(ctx).config_of_store())
    seconds = 0.0 if everything else None if idle_minutes is None else idle_minutes * 60
    chosen = [hot_or_cold(admin, name, namespace) for name in session or ()]
    where = "disk" if admin.config.archive_url is None else "the archive"
    with progress(f"moving to {where}") as tell:
        moved = admin.offload(seconds, session_ids=chosen or None, namespace=namespace, on_progress=tell)
    if as_json:
        print_json({**asdict(replace(moved, failed={})), **listed_failures(moved.failed)})
    else:
        text = f"{counted(moved.sessions, 'session')} moved to {where}, {counted(moved.messages, 'message')}"
        if moved.reconciled:
            text += f"; {moved.reconciled:,} reconciled after an outage"
        for_humans().print(text, soft_wrap=True)
    for session_id, why in moved.failed.items():
        complain(f"session {spoken(session_id)} stays hot: {why}", "'lix-cache verify' looks at its archive")
    is_slip = refused_as_of_other_prefixes(admin, "sessions in Redis under another one were not moved")
    if moved.failed or is_slip:
        raise typer.Exit(PROBLEM)
