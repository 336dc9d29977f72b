"""``lix-cache doctor``."""

from __future__ import annotations

from dataclasses import asdict, replace

import typer
from rich.console import Console
from rich.text import Text

from lix_cache import StoreAdmin
from lix_cache._advice import for_command_line
from lix_cache.admin import Check
from lix_cache.cli.errors import PROBLEM
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import for_humans, print_json, visible

__all__ = ["doctor"]

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}
_NAME_WIDTH = 17


def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Find everything that could lose or refuse a message, and say what to do.

    Tries all operations on its own keys and file, and removes them. Exits with
    code 1 if a check fails; warnings do not.
    """
    found = StoreAdmin(settings_of(ctx).config()).doctor()
    checks = [replace(check, found=for_command_line(check.found)) for check in found]
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})
    else:
        _show(for_humans(), checks)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(PROBLEM)


def _show(console: Console, checks: list[Check]) -> None:
    for check in checks:
        mark, style = _MARKS[check.status]
        line = Text(f"{mark} {check.name:<{_NAME_WIDTH}}", style=style)
        console.print(line.append(visible(check.found), style="default not bold"), soft_wrap=True)
        if check.advice:
            console.print(Text(f"{'':<{_NAME_WIDTH + 2}}→ {visible(check.advice)}"), soft_wrap=True)
