"""``lix-cache restore``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from lix_cache import StoreAdmin
from lix_cache.cli.naming import Session, meant, name_fields
from lix_cache.cli.options import AsJson, Namespace, settings_of
from lix_cache.cli.output import ago, counted, for_humans, print_json, visible

__all__ = ["restore"]


def restore(
    ctx: typer.Context,
    sessions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SESSION]...", help="Sessions to restore; without any, list the trash."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Restore everything in the trash.")] = False,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Restore sessions from the trash, where they stay for some days when they expire.

    A session that was written to since is merged with the copy in the trash. Without a
    session, lists what is there. Needs no Redis.
    """
    if everything and sessions:
        raise typer.BadParameter("use --all or name sessions")
    admin = StoreAdmin(settings_of(ctx).config_of_store())
    trashed = admin.trashed(namespace=namespace)
    if not everything and not sessions:
        if as_json:
            print_json({"trashed": [{**one, **name_fields(one["session_id"])} for one in trashed]})
            return
        for one in trashed:
            # The namespace first, if there is one.
            name = "  ".join(
                visible(text or "") for text in reversed(name_fields(one["session_id"]).values())
            )
            line = f"{name}  {ago(one['trashed_at'])}  {one['size_bytes']:,} bytes"
            for_humans().print(Text(line), soft_wrap=True)
        for_humans().print(Text(f"{counted(len(trashed), 'session')} in the trash"), soft_wrap=True)
        return
    there = list(dict.fromkeys(one["session_id"] for one in trashed))
    wanted = there if everything else [_trashed(name, namespace, there) for name in sessions or ()]
    back = [session_id for session_id in wanted if admin.restore(session_id)]
    if as_json:
        print_json({"restored": [one if isinstance(one, str) else name_fields(one) for one in back]})
    else:
        for_humans().print(Text(f"{counted(len(back), 'session')} restored"), soft_wrap=True)


def _trashed(given: str, namespace: str | None, there: list[Session]) -> Session:
    advice = "'lix-cache restore' lists what is there"
    return meant(
        given, namespace, there.__contains__, lambda: there, "there is no session in the trash:", advice
    )
