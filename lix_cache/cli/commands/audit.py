"""``lix-cache audit``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from lix_cache import RedisUnavailable, SemanticCache, SemanticSettings
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import for_humans, print_json

__all__ = ["audit"]

_NAMES = ("scopes", "audits", "audits_wrong", "false_hit_rate_95", "closed_scopes")


def audit(
    ctx: typer.Context,
    target: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="The target_false_hit_rate of the caches; it decides which scopes count as closed.",
        ),
    ] = 0.02,
    as_json: AsJson = False,
) -> None:
    """Show the false-hit rate that running caches measured.

    A part of the hits (``audit_rate``) runs the function anyway, and the two answers are compared.
    The interval is exact, at 95 %, over all caches under the prefix since their first audit.
    """
    found = SemanticCache(
        None, settings_of(ctx).config(), settings=SemanticSettings(target_false_hit_rate=target)
    ).get_stats()
    if found["redis"] != "ok":
        raise RedisUnavailable(found["redis"])
    if as_json:
        print_json({**{name: found[name] for name in _NAMES}, "target": target})
        return
    console = for_humans()
    low, high = found["false_hit_rate_95"]
    if not found["audits"]:
        console.print("no hit has been audited yet", soft_wrap=True)
    else:
        share = found["audits_wrong"] / found["audits"]
        console.print(
            f"{found['audits']:,} hits audited, {found['audits_wrong']:,} of them wrong: "
            f"{share:.2%} (95 % interval {low:.2%} to {high:.2%})",
            soft_wrap=True,
        )
    if found["closed_scopes"]:
        words = (
            f"{found['closed_scopes']:,} of {found['scopes']:,} scopes are closed where the target is "
            f"{target:.2%}: too many hits were wrong"
        )
        console.print(Text(words, style="yellow"), soft_wrap=True)
