"""``lix-cache archive``: the archive as a whole."""

from __future__ import annotations

import typer

from lix_cache import StoreAdmin
from lix_cache.cli.options import settings_of
from lix_cache.cli.output import for_humans

__all__ = ["archive"]

archive = typer.Typer(help="The archive as a whole.")


@archive.command(epilog="Example: lix-cache --archive-dir s3://bucket/chats archive adopt")
def adopt(ctx: typer.Context) -> None:
    """Let the sessions in Redis move to this archive from now on: it has taken the place of another.

    Copy what the other one has before. Stop the processes that use it: they stop with an
    ArchiveMismatch at the next round of their daemon.
    """
    StoreAdmin(settings_of(ctx).config_of_store()).adopt_archive()
    for_humans().print("Redis names this archive now", soft_wrap=True)
