"""``lix-cache show SESSION``."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from lix_cache import StoreAdmin
from lix_cache.cli.naming import hot_or_cold, name_fields, say_if_of_other_prefixes
from lix_cache.cli.options import AsJson, Namespace, settings_of
from lix_cache.cli.output import for_humans, print_indented, print_json, visible

__all__ = ["show"]

_STYLES = {"user": "bold cyan", "assistant": "bold green", "system": "bold yellow", "tool": "bold magenta"}


def show(
    ctx: typer.Context,
    session: Annotated[
        str,
        typer.Argument(
            metavar="SESSION", help="Session id, as 'sessions' lists it; after -- if it begins with -."
        ),
    ],
    recent: Annotated[int | None, typer.Option(min=1, help="Only the newest messages.")] = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """Show the history of a session, hot and cold together.

    Showing a session is no use of it: all stays where it is.
    """
    admin = StoreAdmin(settings_of(ctx).config_of_store())
    name = hot_or_cold(admin, session, namespace)
    say_if_of_other_prefixes(admin)
    history = admin.messages(name)
    shown = history[-recent:] if recent else history
    if as_json:
        print_json({**name_fields(name), "total": len(history), "messages": shown})
        return
    console = for_humans()
    if len(shown) < len(history):
        console.print(Text(f"… {len(history) - len(shown):,} earlier messages\n", style="dim"))
    for message in shown:
        _print(console, message)


def _print(console: Console, message: dict[str, Any]) -> None:
    role = str(message.get("role", "?"))
    head = Text(visible(role), style=_STYLES.get(role, "bold"))
    head.append(f"  {_when(message.get('timestamp'))}", style="not bold dim")
    console.print(head)
    content = message.get("content")
    if content is not None:
        text = content if isinstance(content, str) else _pretty(content)
        print_indented(console, Text(visible(text, lines=True)))
    for key, value in message.items():
        if key == "embedding":
            console.print(Text(f"  embedding: {len(value)} numbers", style="dim"))
        elif key not in ("role", "content", "timestamp") and value not in ({}, None):
            line = Text(visible(f"{key}: {_pretty(value)}", lines=True), style="dim")
            print_indented(console, line)
    console.print()


def _pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _when(timestamp: Any) -> str:
    if isinstance(timestamp, bool) or not isinstance(timestamp, (int, float)):
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(timestamp))
    except (OverflowError, ValueError, OSError):
        return f"{timestamp:g}"  # no year that a calendar has
