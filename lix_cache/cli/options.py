"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from lix_cache.cli.settings import Settings

__all__ = ["AsJson", "Namespace", "settings_of"]

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and nothing else there.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", metavar="NAME", help="Of this namespace; else of none.")
]


def settings_of(ctx: typer.Context) -> Settings:
    """Return the global options."""
    settings = ctx.obj
    if not isinstance(settings, Settings):  # the callback of the group has set it
        raise TypeError(f"no settings, but {type(settings).__name__}")
    return settings
