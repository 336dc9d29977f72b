"""``lix-cache compact``."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated

import typer

from lix_cache import ConversationArchive, StoreAdmin
from lix_cache.cli.errors import PROBLEM, complain
from lix_cache.cli.naming import Session, archived, listed_failures, spoken
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import for_humans, human_bytes, print_json, progress

__all__ = ["compact"]


def compact(
    ctx: typer.Context,
    idle_minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Idle time of the sessions to compact; the configured one by default."),
    ] = None,
    session: Annotated[
        list[str] | None, typer.Option(metavar="SESSION", help="This session. Repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; report the savings.")] = False,
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this namespace; without --session, else all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Merge the small frames of archived sessions into larger ones, which take less space.

    Every message stays. Needs no Redis, may be stopped at any moment, and may run beside
    everything else: a session that is in use is left alone.
    """
    admin = StoreAdmin(settings_of(ctx).config_of_store())
    archive = ConversationArchive(admin.config.archive_place)
    chosen: list[Session] | None = None
    if session:
        chosen = [archived(archive, name, namespace) for name in session]
    elif namespace is not None:
        chosen = [meta["session_id"] for meta in archive.list_sessions(namespace)]
    with progress("compacting") as tell:
        done = admin.compact(
            None if idle_minutes is None else idle_minutes * 60,
            session_ids=chosen,
            dry_run=dry_run,
            on_progress=tell,
        )
    if as_json:
        print_json({**asdict(replace(done, failed={})), **listed_failures(done.failed), "dry_run": dry_run})
    else:
        verb = "would be compacted" if dry_run else "compacted"
        what = "files" if admin.config.archive_url is None else "sessions"
        text = f"{done.compacted:,} of {done.files:,} {what} {verb}"
        if done.compacted:
            text += f": {done.frames_before:,} frames → {done.frames_after:,}, "
            text += f"{human_bytes(done.bytes_before)} → {human_bytes(done.bytes_after)}"
        if done.active:
            text += f"; {done.active:,} skipped, used lately"
        for_humans().print(text, soft_wrap=True)
    for session_id, why in done.failed.items():
        complain(
            f"session {spoken(session_id)} stays as it is: {why}", "'lix-cache verify' looks at its archive"
        )
    if done.failed:
        raise typer.Exit(PROBLEM)
