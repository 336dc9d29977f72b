"""``lix-cache archive``: the archive as a whole."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated

import typer
from rich.text import Text

from lix_cache import CacheConfig, ConversationArchive, StoreAdmin
from lix_cache.admin import copy_archive
from lix_cache.cli.errors import PROBLEM, complain
from lix_cache.cli.naming import listed_failures, spoken
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import counted, for_humans, print_json, progress, to_stderr, visible
from lix_cache.cli.settings import has_archive

__all__ = ["archive"]

archive = typer.Typer(help="The archive as a whole.")


@archive.command(epilog="Example: lix-cache --prefix chat --archive-dir s3://bucket/chats archive adopt")
def adopt(ctx: typer.Context) -> None:
    """Let the sessions in Redis move to this archive from now on: it has taken the place of another.

    Those of one prefix: --prefix, the application's redis_key_prefix. A folder that is not there is made.
    Copy what the other archive has before. Stop the processes that use it: they stop with an
    ArchiveMismatch at the next round of their daemon.
    """
    # Not config_of_store(): the folder may be new, and no session can make it before Redis names it.
    config = settings_of(ctx).config()
    before = StoreAdmin(config).adopt_archive()
    store = ConversationArchive(config.archive_place).store
    own = store.archive_id()
    others = f"archive {before}" if before != own else "this archive, or a copy of it"
    text = (
        f"Redis names {config.archive_place} (archive {own}) now, for the prefix {config.redis_key_prefix!r}"
    )
    text += f"; before: {'none' if before is None else others}"
    for_humans().print(Text(visible(text)), soft_wrap=True)
    if before is None:
        _warn("if it was to take another's place, the prefix is not that of the application: see --prefix")
    elif before != own and next(iter(store.all_metadata()), None) is None:
        _warn("it has no sessions: 'lix-cache archive copy' brings those of the other one, if that is there")


@archive.command(epilog="Example: lix-cache archive copy ./data/conversations s3://bucket/chats")
def copy(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, or s3://bucket/prefix.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The same; made if there is none.")],
    shards: Annotated[
        int | None,
        typer.Option(
            help="Logs of a TARGET on object storage that is made: as many as SOURCE has, of a folder "
            "redis_buckets. It never changes."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy every session to another archive: from a folder to object storage, back, or to more shards.

    Needs no Redis, may be stopped and repeated, and may run while the source is in use: what is there is
    recognised, and what has changed since is brought up to date. To move a store: copy, stop its processes,
    copy again, run 'archive adopt' with the new place, and start them with it.
    """
    places = [place if "://" in place else os.path.expanduser(place) for place in (source, target)]
    is_folder = "://" not in places[0]
    if is_folder and not os.path.isdir(places[0]):
        raise typer.BadParameter("SOURCE is no folder, and no URL such as s3://bucket/prefix")
    if not is_folder and not has_archive(places[0]):
        raise typer.BadParameter(f"there is no archive at SOURCE, {places[0]}")
    # Of the configuration only a number is asked for: nothing is started, nothing is reached.
    config = replace(settings_of(ctx), embedded=False, archive_dir=None).config()
    buckets = config.redis.buckets
    with progress("copying") as tell:
        done = copy_archive(places[0], places[1], shards=shards, buckets=buckets, on_progress=tell)
    if as_json:
        numbers = {"sessions": done.sessions, "messages": done.messages, "shards": done.shards}
        print_json({**numbers, **listed_failures(done.failed)})
    else:
        text = f"{counted(done.sessions, 'session')} changed, {counted(done.messages, 'message')} copied"
        for_humans().print(text, soft_wrap=True)
        if done.is_new:
            chosen = f"{visible(places[1])} was made with {counted(done.shards or 0, 'shard')}, for good"
            why = f": {_why_so_many(config)}. For more, copy to another prefix with --shards"
            why = why if shards is None and is_folder else ""
            for_humans().print(Text(chosen + why), soft_wrap=True)
    for session_id, why in done.failed.items():
        complain(f"session {spoken(session_id)} was not copied: {why}", "copy again")
    if done.failed:
        raise typer.Exit(PROBLEM)


def _warn(text: str) -> None:
    to_stderr().print(Text(text, style="yellow"), soft_wrap=True)


def _why_so_many(config: CacheConfig) -> str:
    if config.redis_buckets:
        return "redis_buckets says so"
    if config.redis.cluster:
        return "that is redis_buckets of a cluster"
    return "neither --shards nor redis_buckets asks for more"
