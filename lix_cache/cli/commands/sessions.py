"""``lix-cache sessions``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from lix_cache import StoreAdmin
from lix_cache.admin import SessionInfo
from lix_cache.cli.errors import PROBLEM, complain
from lix_cache.cli.naming import name_fields, say_if_of_other_prefixes
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import ago, for_humans, human_bytes, id_text, print_json, to_stderr, visible

__all__ = ["sessions"]


def sessions(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=0, help="Most sessions to list; 0 for all.")] = 50,
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Those of this namespace alone; else all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the sessions, hot and cold together, the last used first.

    A message that was brought back from disk is counted on both sides. Exits with 1 if an
    archive file cannot be read: its session is not in the list.
    """
    admin = StoreAdmin(settings_of(ctx).config_to_look())
    # One more than asked for tells whether there are more.
    found = admin.sessions(limit + 1 if limit else None, namespace=namespace)
    shown = found[:limit] if limit else found
    unreadable = admin.unreadable_files()
    say_if_of_other_prefixes(admin)
    if as_json:
        print_json(
            {
                "sessions": [{**asdict(info), **name_fields(info.session_id)} for info in shown],
                "has_more": len(found) > len(shown),
                "unreadable_files": unreadable,
            }
        )
    else:
        if shown:
            _show(shown)
        else:
            what = f"no sessions under the prefix {admin.config.redis_key_prefix!r}"
            what += "" if namespace is None else f" in the namespace {visible(repr(namespace))}"
            to_stderr().print(what, soft_wrap=True)
        if len(found) > len(shown):
            to_stderr().print(f"the last {limit} used; --limit 0 lists all")
        if unreadable:
            complain(f"{len(unreadable):,} archive files cannot be read", "'lix-cache verify' names them")
    if unreadable:
        raise typer.Exit(PROBLEM)


def _show(shown: list[SessionInfo]) -> None:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    has_namespaces = any(not isinstance(info.session_id, str) for info in shown)
    names = ("namespace", "session") if has_namespaces else ("session",)
    for title in (*names, "hot", "cold", "last use", "Redis", "disk"):
        table.add_column(title, justify="left" if title in names else "right")
    for info in shown:
        fields = name_fields(info.session_id)
        table.add_row(
            *(id_text(fields.get(name) or "–") for name in ("namespace", "session_id")[-len(names) :]),
            f"{info.hot_messages:,}" if info.hot_messages else "–",
            f"{info.cold_messages:,}" if info.cold_messages else "–",
            ago(info.last_use),
            human_bytes(info.redis_bytes) if info.redis_bytes else "–",
            human_bytes(info.disk_bytes) if info.disk_bytes else "–",
        )
    for_humans().print(table)
