"""``lix-cache top``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.live import Live

from lix_cache import InvalidInput
from lix_cache.cli.errors import PROBLEM
from lix_cache.cli.live.gathering import Look, Looker
from lix_cache.cli.live.metrics import KEY_VARIABLE, check_url
from lix_cache.cli.live.screen import draw
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import for_humans, write_all
from lix_cache.cli.terminal import has_reader

__all__ = ["ended_by_signals", "top"]

#: A look counts keys and lists files: on a large store it takes its time, and then the next one waits longer.
_PAUSE_BY_LOOK = 4


def top(
    ctx: typer.Context,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two samples.")] = 2.0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Sessions to show, the last used.")] = 10,
    metrics: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Prometheus metrics of a process with caches; may be repeated."),
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option(
            "--metrics-key-env",
            metavar="NAME",
            help=f"The variable with the key that each --metrics address gets, else {KEY_VARIABLE}.",
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Take one sample and end; also without a terminal.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a store: sessions, windows, memory, the evictor, cached answers, and lookups by reason.

    Sessions, sizes and audits are read from the store. Hits by reason and latencies are counted by each
    process. Pass the URL of a process's Prometheus metrics with --metrics: a gateway's /metrics, or what
    register_metrics serves. If the gateway has an admin key, put it into LIX_CACHE_METRICS_KEY or the
    variable that --metrics-key-env names.

    While the store cannot be read it says so, shows what it saw last, and tries again. With --once the
    command ends with 1 if the store or all of the metrics cannot be read. --json writes a line for each
    sample. Ctrl-C ends.
    """
    urls = [check_url(url) for url in metrics or ()]
    key = os.environ.get(key_env or KEY_VARIABLE, "")
    if key_env and not key:
        raise InvalidInput(f"the variable {key_env!r} of --metrics-key-env is not set")
    looker = Looker(settings_of(ctx).config_to_look(), limit, urls, key)
    if once or not (as_json or for_humans().is_terminal):
        _look_once(looker, as_json=as_json)
    elif as_json:
        with ended_by_signals() as is_ended:
            while has_reader() and not is_ended():
                look = looker.look_on()
                _show(look, as_json=True)
                time.sleep(_pause(look, interval))
    else:
        _watch(looker, interval)


def _look_once(looker: Looker, *, as_json: bool) -> None:
    look = looker.look()
    _show(look, as_json=as_json)
    if look.processes and all(one.error for one in look.processes):
        raise typer.Exit(PROBLEM)


def _show(look: Look, *, as_json: bool) -> None:
    if as_json:
        write_all(sys.stdout.buffer, json.dumps(look.as_dict()).encode("ascii") + b"\n")
        sys.stdout.buffer.flush()
    else:
        for_humans().print(draw(look))


def _watch(looker: Looker, interval: float) -> None:
    console = for_humans()
    with (
        ended_by_signals() as is_ended,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        before: Look | None = None
        while not is_ended():
            look = looker.look_on()
            live.update(draw(look, before), refresh=True)
            before = look if look.trouble is None else before
            time.sleep(_pause(look, interval))


def _pause(look: Look, interval: float) -> float:
    return max(interval, _PAUSE_BY_LOOK * look.took)


@contextmanager
def ended_by_signals() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C end the command as it should, and SIGTERM leave the terminal as it was.

    Yields whether one of them came: the exception of a signal that interrupts a destructor or a callback is
    ignored there, and never arrives.
    """
    came: list[int] = []

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        came.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(143)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
        if signal.SIGTERM in came:
            raise SystemExit(143)
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
