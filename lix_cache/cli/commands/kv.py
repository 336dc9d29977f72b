"""``lix-cache kv``."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from lix_cache import InvalidInput
from lix_cache.cli.errors import PROBLEM, FlowingGroup
from lix_cache.cli.options import AsJson
from lix_cache.cli.output import (
    ago,
    counted,
    for_humans,
    human_bytes,
    id_text,
    print_json,
    progress,
    visible,
)
from lix_cache.kv import KvStore, explain, sessions, store_stats, verify
from lix_cache.kv.inspection import agents_of, check_session

__all__ = ["kv"]

kv = typer.Typer(
    cls=FlowingGroup,
    help="The state of local models on disk: what resumes, whether it is intact, why a prompt was not found.",
    epilog="Example: lix-cache kv list --dir data/kv",
)

_Dir = Annotated[
    str,
    typer.Option("--dir", metavar="DIR", envvar="LIX_CACHE_KV_DIR", help="Folder of the store."),
]
_Tenant = Annotated[
    str, typer.Option(help="Whose sessions; without it (or - or local) those of the tenant without a name.")
]
#: Columns beside the session's id, on a terminal of 80.
_OTHER_COLUMNS = 58
_DEFAULT = "./data/kv"
#: What the store may hold is the server's setting; to look at it takes nothing away.
_NO_LIMIT = 1 << 62


def _store(folder: str) -> KvStore:
    path = os.path.expanduser(folder)
    if not os.path.isdir(path):
        raise InvalidInput(
            f"there is no KV store at {folder!r}; name it with --dir or LIX_CACHE_KV_DIR (it appears with "
            "the first save: when a session was idle for idle_seconds, 60 by default, or the model is closed)"
        )
    return KvStore(path, budget_bytes=_NO_LIMIT, tidy=False)


def _tenant(store: KvStore, name: str) -> str:
    """Return the tenant that is meant: `kv list` and gateways have names for the one without a name."""
    if name in ("-", "local") and not any(one.tenant == name for one in sessions(store)):
        return ""
    return name


@kv.command("list", epilog="Example: lix-cache kv list --json")
def list_(folder: _Dir = _DEFAULT, as_json: AsJson = False) -> None:
    """List the sessions with a state on disk, the one used last first."""
    found = sessions(_store(folder))
    if as_json:
        print_json([asdict(one) for one in found])
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("session", "tenant", "model", "stored tokens", "size", "used"):
        # An id over two lines cannot be copied; the model is the one that may wrap.
        table.add_column(
            name,
            justify="right" if name in ("stored tokens", "size") else "left",
            no_wrap=name not in ("model", "stored tokens", "used"),
        )
    console = for_humans()
    widest = max(22, console.width - _OTHER_COLUMNS)
    for one in found:
        table.add_row(
            id_text(one.session, widest),
            id_text(one.tenant or "-", 10 if widest < 30 else 20),
            visible(one.model),
            f"{one.stored_tokens:,} of {one.tokens:,}",
            human_bytes(one.bytes),
            ago(one.used) + (" (pinned)" if one.pinned else ""),
        )
    console.print(table)


@kv.command(epilog="Example: lix-cache kv stats --json")
def stats(folder: _Dir = _DEFAULT, as_json: AsJson = False) -> None:
    """Show the numbers of the store."""
    found = store_stats(_store(folder))
    if as_json:
        print_json(asdict(found))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    rows = (
        ("size", human_bytes(found.bytes)),
        ("sessions", f"{found.sessions:,}"),
        ("state files", f"{found.files:,}"),
        ("shared", f"{counted(found.shared_files, 'file')}, which saves {human_bytes(found.saved_bytes)}"),
        ("models", f"{found.models:,}"),
        ("tenants", f"{found.tenants:,}"),
        ("left over", f"{counted(found.garbage_files, 'file')} of killed saves"),
    )
    for name, value in rows:
        table.add_row(name, value)
    for_humans().print(table)


@kv.command("verify", epilog="Example: lix-cache kv verify")
def verify_(folder: _Dir = _DEFAULT, as_json: AsJson = False) -> None:
    """Check every byte of every state file. Changes nothing; ends with code 1 if one is damaged.

    A damaged file is never used: it costs the time to compute what was in it. `prune --bytes 0` removes
    every state that is not pinned, `prune --session` a session.
    """
    store = _store(folder)
    total = store_stats(store).files
    checks = []
    with progress("checking") as tell:
        for check in verify(store):
            checks.append(check)
            tell(len(checks), total)
    damaged = [check for check in checks if check.problem]
    if as_json:
        print_json({"files": len(checks), "damaged": [asdict(check) for check in damaged]})
    else:
        console = for_humans()
        for check in damaged:
            console.print(Text(f"✗ {visible(check.file)}: {check.problem}", style="bold red"), soft_wrap=True)
        size = human_bytes(sum(check.bytes for check in checks))
        console.print(f"{counted(len(checks), 'file')}, {size}: {len(damaged)} damaged")
    if damaged:
        raise typer.Exit(PROBLEM)


@kv.command(epilog="Example: lix-cache kv prune --bytes 10000000000")
def prune(
    folder: _Dir = _DEFAULT,
    most: Annotated[
        int | None, typer.Option("--bytes", min=0, help="Remove what was used least until this much is left.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Remove this session's state.")] = None,
    tenant: _Tenant = "",
    whole_tenant: Annotated[
        bool,
        typer.Option(
            "--whole-tenant",
            help="Remove the state of all sessions of --tenant; without that of local, who has no name.",
        ),
    ] = False,
    agents: Annotated[
        bool,
        typer.Option(
            "--agents",
            help="With --whole-tenant: its agents too, with their conversations, which nothing brings back.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove state: what killed saves left, and what the options name. Pinned sessions only by their name.

    State is computed again when it is missing. What agents were told is not: it goes with --agents alone.
    """
    if agents and not whole_tenant:
        raise typer.BadParameter("--agents goes with --whole-tenant")
    store = _store(folder)
    tenant = _tenant(store, tenant)
    files, with_agents = 0, agents_of(store, tenant)
    if session is not None:
        check_session(store, session, tenant)
        files = store.purge(tenant, session)
    elif whole_tenant:
        files = store.purge(tenant, agents=agents)
    before = store_stats(store)
    size = store.prune(most)
    files += before.files - store_stats(store).files
    gone = with_agents - agents_of(store, tenant)
    if as_json:
        print_json({"files": files, "bytes": size, "agents": gone})
        return
    text = f"{counted(files, 'state file')} removed; {human_bytes(store_stats(store).bytes)} left"
    if gone:
        text += f"; {counted(gone, 'agent')} removed, with their conversations"
    elif whole_tenant and with_agents:
        text += f"; {counted(with_agents, 'agent')} kept: --agents removes their conversations too"
    for_humans().print(text, soft_wrap=True)


@kv.command("explain", epilog="Example: lix-cache kv explain user-abc")
def explain_(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Whose prompt was not found.")],
    folder: _Dir = _DEFAULT,
    tenant: _Tenant = "",
    as_json: AsJson = False,
) -> None:
    """Say where a session's prompt leaves the nearest other one: the first other token, and its message.

    A clock or a name in the system prompt makes every prompt a new one.
    """
    store = _store(folder)
    miss, other = explain(store, session, _tenant(store, tenant))
    if as_json:
        print_json(None if miss is None else asdict(miss))
    elif miss is not None:
        for_humans().print(Text(f"{miss}; compared with {visible(other)}"), soft_wrap=True)
    else:
        for_humans().print(
            Text(
                f"it goes on from {visible(other)}" if other else "there is no other session to compare with"
            )
        )
