"""``lix-cache demo``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from lix_cache.cli.conversations import load
from lix_cache.cli.demo.replay import Replay
from lix_cache.cli.demo.report import as_dict, show
from lix_cache.cli.demo.stage import set_up
from lix_cache.cli.errors import PROBLEM
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import for_humans, print_json, progress, to_stderr, visible

__all__ = ["demo"]


def demo(
    ctx: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help='Conversations to replay: JSONL of {"messages": …}, ShareGPT or {"turns": …}. Repeatable.',
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most conversations to replay.")] = None,
    data_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the private server and the demo's archive.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the demo's keys and files.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay real conversations through all layers and check that every message comes back.

    Uses the Redis that answers, else starts a private one. Works on keys and a folder of
    its own, and removes both at the end.
    """
    settings = settings_of(ctx)
    conversations = load(inputs or [], limit)
    total = sum(len(conversation.messages) for conversation in conversations)
    with (
        set_up(settings.config(), data_dir, url_was_given=settings.redis_url is not None, keep=keep) as stage,
        progress("replaying") as tell,
    ):
        what = f"{len(conversations):,} conversations, {total:,} messages"
        to_stderr().print(Text(f"{what}\nRedis: {visible(stage.server)}", style="dim"), soft_wrap=True)
        replay = Replay(conversations, stage.config, lambda: tell(replay.totals.messages, total))
        try:
            replay.run()
        finally:
            replay.stop()
    kept = stage.how_to_return if keep else None
    if as_json:
        print_json({**as_dict(replay.totals), "server": stage.server, "kept": kept})
    else:
        show(for_humans(), replay.totals)
        if kept:
            for_humans().print(Text(f"kept: {visible(kept)} sessions", style="dim"), soft_wrap=True)
    if not replay.totals.passed:
        raise typer.Exit(PROBLEM)
