"""``lix-cache demo``."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.text import Text

from lix_cache.cli.conversations import load
from lix_cache.cli.demo.replay import Replay
from lix_cache.cli.demo.report import Report
from lix_cache.cli.demo.screen import Screen
from lix_cache.cli.demo.stage import Stage, set_up
from lix_cache.cli.errors import PROBLEM
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import for_humans, print_json, to_stderr, visible

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
    model_seconds: Annotated[
        float, typer.Option(min=0, help="Assumed seconds of a model call, for the time saved.")
    ] = 1.5,
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
        Screen(total) as screen,
    ):
        to_stderr().print(_opening(stage, len(conversations), total), soft_wrap=True)
        replay = Replay(conversations, stage.config, screen)
        screen.watch(replay.totals)
        began = time.monotonic()
        try:
            verdict = replay.run()
        finally:
            replay.stop()
        report = Report(
            totals=replay.totals,
            verdict=verdict,
            latencies=replay.latencies.summary(),
            seconds=time.monotonic() - began,
            model_seconds=model_seconds,
            window=stage.config.hot_window_size,
            threshold=stage.config.semantic_similarity_threshold,
            server=stage.server,
            kept=stage.how_to_return if keep else None,
        )
    if as_json:
        print_json(report.as_dict())
    else:
        report.show(for_humans())
    if not verdict.passed:
        raise typer.Exit(PROBLEM)


def _opening(stage: Stage, conversations: int, messages: int) -> Text:
    text = Text("lix-cache demo", style="bold")
    text.append(f"  {conversations:,} conversations, {messages:,} messages", style="not bold")
    return text.append(f"\nRedis: {visible(stage.server)}", style="not bold dim")
