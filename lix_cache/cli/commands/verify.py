"""``lix-cache verify``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from lix_cache import ConversationArchive, StoreAdmin
from lix_cache.admin import FileCheck
from lix_cache.cli.errors import PROBLEM
from lix_cache.cli.naming import archived, name_fields
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import counted, for_humans, print_json, progress, to_stderr, visible

__all__ = ["verify"]


def verify(
    ctx: typer.Context,
    session: Annotated[str | None, typer.Argument(metavar="SESSION", help="Only this session.")] = None,
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this namespace; without SESSION, all of it.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="NAME", help="Go on behind this one, where a check was stopped.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte of the archive: frames, CRCs, contents, counts and order.

    Changes nothing and needs no Redis. Exits with 1 if anything is damaged. A check that is stopped by Ctrl-C
    says where to go on.
    """
    admin = StoreAdmin(settings_of(ctx).config_of_store())
    name = None
    if session is not None:
        name = archived(ConversationArchive(admin.config.archive_place), session, namespace)
    names = admin.archive_files(namespace=namespace) if session is None else [session]
    total = sum(after is None or one > after for one in names)
    checks: list[FileCheck] = []
    try:
        with progress("checking") as tell:
            for check in admin.verify(name, namespace=namespace, after=after):
                checks.append(check)
                tell(len(checks), total)
    except KeyboardInterrupt:
        if checks and session is None:
            to_stderr().print(Text(f"stopped; go on with --after {checks[-1].file!r}"), soft_wrap=True)
        raise
    damaged = [check for check in checks if not check.is_intact]
    set_aside = admin.set_aside_files() if session is None and namespace is None else []
    if as_json:
        print_json(
            {
                "files": [
                    {**asdict(check), **name_fields(check.session_id), "is_intact": check.is_intact}
                    for check in checks
                ],
                "damaged": len(damaged),
                "set_aside": set_aside,
            }
        )
    else:
        _show(for_humans(), admin.config.archive_place, checks, damaged, set_aside)
    if damaged:
        raise typer.Exit(PROBLEM)


def _id(check: FileCheck) -> str:
    if isinstance(check.session_id, str):
        return visible(check.session_id)
    return f"{visible(check.session_id.id)}, namespace {visible(check.session_id.namespace or '')}"


def _show(
    console: Console, folder: str, checks: list[FileCheck], damaged: list[FileCheck], set_aside: list[str]
) -> None:
    for check in damaged:
        console.print(
            Text(f"✗ {visible(check.file)}  session {_id(check)}", style="bold red"),
            soft_wrap=True,
        )
        for problem in check.problems:
            console.print(Text(f"    {visible(problem)}", style="red"), soft_wrap=True)
        console.print(
            Text(f"    {check.turns:,} messages in {check.frames:,} frames are intact"), soft_wrap=True
        )
    for name in set_aside:
        console.print(
            Text(f"! {visible(name)}  damaged bytes that a repair set aside", style="yellow"), soft_wrap=True
        )
    turns = sum(check.turns for check in checks)
    frames = sum(check.frames for check in checks)
    found = f"{counted(frames, 'frame')}, {counted(turns, 'message')}"
    what = counted(len(checks), "session" if "://" in folder else "file")
    sums = f"{what} in {visible(folder)}, {found}"
    if damaged:
        console.print(Text(f"✗ {len(damaged):,} damaged of {sums}", style="bold red"), soft_wrap=True)
    else:
        console.print(Text(f"✓ {sums}: all intact", style="bold green"), soft_wrap=True)
