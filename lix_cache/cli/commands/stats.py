"""``lix-cache stats``."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table
from rich.text import Text

from lix_cache import StoreAdmin
from lix_cache.cli.naming import say_if_of_other_prefixes
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import for_humans, human_bytes, print_json, server_memory, visible

__all__ = ["stats"]


def stats(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show the totals of the store: sessions, memory, archive, caches.

    Keys are counted in small steps, so a busy server is not held up.
    """
    admin = StoreAdmin(settings_of(ctx).config_to_look())
    found = admin.stats()
    say_if_of_other_prefixes(admin)
    if as_json:
        print_json(asdict(found))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(justify="right", style="cyan")
    table.add_column(style="dim")
    is_folder = admin.config.archive_url is None
    size = f"{human_bytes(found.archive_bytes)} {'on disk' if is_folder else 'of the archive'}"
    rows = (
        ("server", f"{found.server} {found.server_version}", server_memory(found)),
        ("hot sessions", f"{found.hot_sessions:,}", f"keys begin with {admin.config.redis_key_prefix}"),
        ("hot messages", f"{found.hot_messages:,}", f"{human_bytes(found.window_bytes)} of Redis"),
        (
            "archive files" if is_folder else "archived sessions",
            f"{found.archive_files:,}",
            f"in {admin.config.archive_place}",
        ),
        ("archived messages", f"{found.archive_turns:,}", size),
        ("cached answers", f"{found.answer_scopes:,}", "contexts that have some (SemanticCache)"),
        ("", f"{found.semantic_scopes:,}", "pairs of session and URL that have some (SemanticCacheRedis)"),
        ("cached URL vectors", f"{found.url_embeddings:,}", ""),
    )
    for name, value, note in rows:
        table.add_row(name, Text(visible(value)), Text(visible(note)))
    console = for_humans()
    console.print(table)
    for count, what in (
        (found.unreadable_files, "archive files cannot be read: lix-cache verify"),
        (found.set_aside_files, "files hold damaged bytes that were set aside: lix-cache verify"),
        (found.pending_sessions, "sessions were written to while Redis was away: lix-cache offload"),
    ):
        if count:
            console.print(Text(f"{count:,} {what}", style="yellow"), soft_wrap=True)
