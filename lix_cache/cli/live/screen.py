"""A look, drawn for a terminal."""

from __future__ import annotations

import time

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lix_cache.admin import StoreStats
from lix_cache.cli.live.gathering import Look
from lix_cache.cli.live.metrics import Metrics
from lix_cache.cli.naming import name_fields
from lix_cache.cli.output import ago, counted, human_bytes, id_text, server_memory, visible

__all__ = ["draw"]

_HITS = ("hit", "exact", "semantic")


def draw(look: Look, before: Look | None = None) -> RenderableType:
    """Return the whole screen.

    Args:
        look: what there is.
        before: the look before, to say how many lookups there were in a second.
    """
    parts: list[RenderableType] = [_head(look)]
    if look.stats is not None:
        parts += [Text(), _totals(look, look.stats), Text(), _windows(look)]
    parts += [Text(), _lookups(look, before)]
    return Group(*parts)


def _head(look: Look) -> Text:
    if look.trouble is None:
        clock = time.strftime("%H:%M:%S", time.localtime(look.at))
        return Text(f"lix-cache top   {clock}   looked in {1000 * look.took:.0f} ms", style="bold")
    line = Text(f"the store cannot be read: {visible(look.trouble)}", style="bold red")
    if look.stats is None:
        return line.append("\ntrying again; Ctrl-C ends", style="not bold default")
    return line.append(f"\nwhat follows is {ago(look.at)}; trying again", style="not bold default")


def _totals(look: Look, stats: StoreStats) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(justify="right", style="cyan")
    table.add_column(style="dim")
    answers = look.answers
    table.add_row("server", visible(f"{stats.server} {stats.server_version}"), server_memory(stats))
    of_redis = f"{stats.hot_messages:,} messages, {human_bytes(stats.window_bytes)}"
    table.add_row("hot sessions", f"{stats.hot_sessions:,}", of_redis)
    on_disk = f"{stats.archive_turns:,} messages, {human_bytes(stats.archive_bytes)}"
    table.add_row("archived sessions", f"{stats.archive_files:,}", on_disk)
    table.add_row("evictor", "at work" if stats.evictor_runs else "idle", _daemon(stats))
    scopes = f"in {counted(answers.get('scopes', 0), 'scope')}, {human_bytes(answers.get('bytes') or 0)}"
    table.add_row("cached answers", f"{answers.get('entries') or 0:,}", scopes)
    table.add_row("audited hits", f"{answers.get('audits', 0):,}", _audits(look))
    table.add_row("URL vectors", f"{stats.url_embeddings:,}", "")
    return table


def _daemon(stats: StoreStats) -> str:
    words = [
        "a process does its rounds"
        if stats.evictor_runs
        else "no round of late: an application's process runs it, while it uses sessions"
    ]
    if stats.overdue_sessions:
        words.append(f"{counted(stats.overdue_sessions, 'session')} should be on disk by now")
    if stats.pending_sessions:
        words.append(f"{stats.pending_sessions:,} to reconcile after an outage")
    if stats.unreadable_files or stats.set_aside_files:
        words.append("damaged files: lix-cache verify")
    return "; ".join(words)


def _audits(look: Look) -> str:
    if not look.answers.get("audits"):
        return "the false-hit rate is not known yet"
    low, high = look.answers["false_hit_rate_95"]
    closed = look.answers.get("closed_scopes") or 0
    text = f"{look.answers['audits_wrong']:,} wrong: false-hit rate {low:.2%} to {high:.2%}"
    return f"{text}; {closed:,} scopes closed" if closed else text


def _windows(look: Look) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("session", "namespace", "window", "archived", "Redis", "disk", "last use"):
        table.add_column(title, justify="left" if title in ("session", "namespace") else "right")
    for one in look.sessions:
        fields = name_fields(one.session_id)
        table.add_row(
            id_text(fields["session_id"] or "–", 40),
            id_text(fields.get("namespace") or "–", 20),
            f"{one.hot_messages:,}" if one.hot_messages else "–",
            f"{one.cold_messages:,}" if one.cold_messages else "–",
            human_bytes(one.redis_bytes) if one.redis_bytes else "–",
            human_bytes(one.disk_bytes) if one.disk_bytes else "–",
            ago(one.last_use),
        )
    if not look.sessions:
        table.add_row(Text("no sessions", style="dim"))
    return table


def _lookups(look: Look, before: Look | None) -> RenderableType:
    if not look.processes:
        words = "Hits by reason and latencies are counted in each process: --metrics URL shows those of one."
        return Text(words, style="dim")
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("process", "lookups by reason", "each second", "latencies: p50 / p95 / p99 ms"):
        table.add_column(title, overflow="fold")
    earlier = {one.url: one for one in before.processes} if before else {}
    seconds = look.at - before.at if before else 0.0
    for one in look.processes:
        if one.error:
            table.add_row(visible(one.url), Text(visible(one.error), style="red"))
            continue
        rate = _rate(one, earlier.get(one.url), seconds)
        table.add_row(visible(one.url), _reasons(one), rate, _latencies(one))
    return table


def _reasons(one: Metrics) -> Text:
    lines = []
    for outcome in sorted(one.lookups, key=lambda name: (name not in _HITS, name)):
        reasons = sorted(one.lookups[outcome].items(), key=lambda item: -item[1])
        told = ", ".join(f"{visible(reason)} {count:,}" for reason, count in reasons)
        lines.append(f"{visible(outcome)}: {told}")
    return Text("\n".join(lines) or "none yet")


def _rate(one: Metrics, earlier: Metrics | None, seconds: float) -> str:
    if earlier is None or earlier.error or seconds <= 0:
        return ""
    lookups, had = (sum(sum(r.values()) for r in m.lookups.values()) for m in (one, earlier))
    return f"{max(0, lookups - had) / seconds:,.1f}"


def _latencies(one: Metrics) -> Text:
    lines = []
    for step, quantiles in sorted(one.latency_ms.items()):
        numbers = " / ".join(f"{quantiles.get(name, 0.0):.2f}" for name in ("0.5", "0.95", "0.99"))
        lines.append(f"{visible(step)}: {numbers}")
    return Text("\n".join(lines) or "none yet")
