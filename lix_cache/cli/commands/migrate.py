"""``lix-cache migrate``."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import Annotated

import typer

from lix_cache import StoreAdmin
from lix_cache.cli.errors import PROBLEM, complain
from lix_cache.cli.naming import listed_failures, spoken
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import counted, for_humans, print_json, progress, to_stderr, visible

__all__ = ["migrate"]


def migrate(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; report what would move, at most.")
    ] = False,
    new_buckets: Annotated[
        bool,
        typer.Option(
            "--new-buckets", help="Instead: change to the number of buckets in LIX_CACHE_REDIS_BUCKETS."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Move the sessions that lix-open-cache left in Redis to disk, every message once.

    Each session is also moved by its first use, so nothing waits for this. But its keys in Redis end
    24 hours (session_ttl_seconds) after the old package used it last: run this once, soon after
    the old processes have stopped. Use the old settings: --prefix, --archive-dir, and the
    number of the database in the variable LIX_CACHE_SESSION_REDIS_DB if it is not 2.

    It may be stopped at any moment, repeated, and run while the application is in use. The old
    .huff files need no step: they are read as they are.

    With --new-buckets it moves the sessions of every other redis_buckets, and notes the new number. Stop all
    processes of the store before, and start them with the new number afterwards.
    """
    config = settings_of(ctx).config()
    if not dry_run and not config.archive_url and not os.path.isdir(config.archive_place):
        # Made here it may be another one than the application's, which would not find its messages.
        to_stderr().print(
            f"the archive folder is new: {visible(os.path.abspath(config.archive_place))}. The application "
            "must use the same (--archive-dir)",
            style="yellow",
            soft_wrap=True,
        )
    admin = StoreAdmin(config)
    with progress("moving over") as tell:
        if new_buckets:
            done = admin.migrate_buckets(dry_run=dry_run)
        else:
            done = admin.migrate(dry_run=dry_run, on_progress=tell)
    if as_json:
        print_json({**asdict(replace(done, failed={})), **listed_failures(done.failed), "dry_run": dry_run})
    else:
        verb = "would be moved" if dry_run else "moved"
        # Some may be in the archive already, or have been replaced by another of their millisecond.
        messages = f"{'at most ' if dry_run else ''}{counted(done.messages, 'message')}"
        text = f"{counted(done.sessions, 'session')} {verb}, {messages}"
        for_humans().print(text, soft_wrap=True)
    for session_id, why in done.failed.items():
        complain(
            f"session {spoken(session_id)} stays where it is: {why}",
            "'lix-cache doctor' looks at server and disk",
        )
    if done.failed:
        raise typer.Exit(PROBLEM)
