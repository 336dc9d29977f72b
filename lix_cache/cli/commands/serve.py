"""``lix-cache serve``."""

from __future__ import annotations

import secrets
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.text import Text

from lix_cache import ConfigError, InvalidInput, MissingExtra
from lix_cache.cli.errors import PROBLEM
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import for_humans, print_json, to_stderr, visible

if TYPE_CHECKING:
    from lix_cache import CacheConfig
    from lix_cache.gateway.settings import GatewaySettings

__all__ = ["serve"]

_Upstreams: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="The provider, or NAME=URL for one of several. Repeatable."),
]
_Local: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Serve a local model: its folder, GGUF file, or the URL of a llama-server."
    ),
]
_Embedder: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="ONNX folder or hub name for answers by meaning, or 'lexical'."),
]
_Volatile: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="RULE", help="Leave a volatile part of prompts out of the key. Repeatable."),
]


def serve(
    ctx: typer.Context,
    upstream: _Upstreams = None,
    local: _Local = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="TCP port.")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address; without tenants only this machine's own.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="Settings as YAML or TOML.")
    ] = None,
    embedder: _Embedder = None,
    volatile: _Volatile = None,
    sessions: Annotated[
        bool | None, typer.Option("--sessions", help="Keep conversations named by X-Session-ID.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Processes that serve one port.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say what it would do, try each part, and end.")
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Serve a scripted provider: hits without a provider's key.")
    ] = False,
    hash_key: Annotated[
        bool,
        typer.Option("--hash-key", help="Read a key from the standard input, and print what to configure."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Stand between applications and their model provider, and answer what was answered before.

    Redis is that of the other commands: --redis-url, --embedded (a private one), --prefix and --env-prefix
    stand before the command, as in 'lix-cache --embedded serve', and LIX_CACHE_REDIS_URL names it too.

    Point an application's base_url here. The provider's key comes with each request and is kept nowhere.
    While Redis is away, requests go through as if there were no cache.
    """
    from lix_cache.gateway.settings import read_settings

    if hash_key:
        _print_digest()
        return
    changes: dict[str, Any] = {"host": host, "port": port, "embedder": embedder, "workers": workers}
    changes.update(volatile=volatile or None, sessions=sessions or None)
    changes["upstreams"] = _upstreams(upstream or [], local, is_demo=demo)
    reread: Callable[..., GatewaySettings] = partial(read_settings, config, **changes)
    library = settings_of(ctx).config()
    if check:
        _check(_as_demo(reread) if demo else reread, library, as_json=as_json)
        return
    # The server hands the signal on when it has ended. By default that would leave behind the demo's folder,
    # and the private Redis of --embedded, which ends at the exit of the last process that uses it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if demo:
        left_out = read_settings(config, **{**changes, "upstreams": None}).upstreams
        _run_demo(library, reread, [one.name for one in left_out])
    else:
        _run(library, reread)


def _run_demo(library: CacheConfig, reread: Callable[..., GatewaySettings], left_out: list[str]) -> None:
    more, page_key = _for_demo(reread())
    if left_out:
        names = ", ".join(map(visible, left_out))
        to_stderr().print(Text(f"the demo asks none of the configured providers: {names}"), soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="lix-cache-demo-", ignore_cleanup_errors=True) as folder:
        # Keys of its own: neither the answers nor the counts of another gateway are a demo's.
        library = library.replace(archive_dir=folder, redis_key_prefix=f"{library.redis_key_prefix}:demo")
        _run(library, lambda: _without_keys(reread(**more)), is_demo=True, page_key=page_key)


def _check_models(settings: GatewaySettings) -> None:
    """Look for models of this machine before anything listens: a missing one is a mistake of the command."""
    for one in settings.upstreams:
        if one.is_local:
            if settings.workers > 1:
                raise ConfigError("a local model is served by one process; leave --workers out")
            from lix_cache.gateway.local.loading import check_target

            check_target(one.url.removeprefix("local:"), settings.local)


def _upstreams(given: list[str], local: str | None, *, is_demo: bool) -> list[dict[str, Any]] | None:
    if is_demo:
        from lix_cache.gateway.demo import in_thread

        if given or local:
            raise InvalidInput("--demo brings its own provider; leave out --upstream and --local, or --demo")
        return [{"name": "demo", "url": in_thread()}]
    found = [] if local is None else [{"name": "local", "url": f"local:{local}"}]
    for number, text in enumerate(given):
        name, separator, url = text.partition("=")
        if not separator or "://" in name:
            name, url = "default" if number == 0 else f"upstream-{number + 1}", text
        found.append({"name": name, "url": url})
    return found or None


def _for_demo(settings: GatewaySettings) -> tuple[dict[str, Any], str]:
    """Return changes of the settings that give something to see, and the key of the page."""
    from lix_cache.gateway.tenants import digest_of_key

    # What a gateway with these settings kept is not a demo's to replace.
    changes: dict[str, Any] = {"embedder": settings.embedder or "lexical", "snapshot": ""}
    key = ""
    if not settings.admin_key:
        key = secrets.token_urlsafe(18)
        changes["admin_key"] = digest_of_key(key)
    if not settings.tenants:
        changes["sessions"] = True
    return changes, key


def _without_keys(settings: GatewaySettings) -> GatewaySettings:
    """Return settings without keys for providers, which the demo does not ask."""
    return replace(settings, tenants=tuple(replace(one, provider_keys={}) for one in settings.tenants))


def _as_demo(reread: Callable[..., GatewaySettings]) -> Callable[[], GatewaySettings]:
    """Return what reads the settings that a demo would have; a check prints no key."""

    def read() -> GatewaySettings:
        more, _ = _for_demo(reread())
        return _without_keys(reread(**more))

    return read


def _print_digest() -> None:
    from lix_cache.gateway.tenants import digest_of_key

    # Not an argument: those are seen by every user of the machine, and kept by the shell.
    key = sys.stdin.readline().strip()
    if len(key) < 16:
        raise InvalidInput("a key must have 16 characters or more; 'openssl rand -hex 32' makes one")
    typer.echo(digest_of_key(key))


def _check(reread: Callable[[], GatewaySettings], library: CacheConfig, *, as_json: bool) -> None:
    from lix_cache.gateway.checking import checked
    from lix_cache.gateway.settings_file import problems_of

    try:
        found = checked(reread(), library)
    except (ConfigError, MissingExtra) as error:
        found = {"ok": False, "plan": [], "parts": {}, "settings": problems_of(error)}
    if as_json:
        print_json(found)
    else:
        for line in found["plan"]:
            for_humans().print(Text(f"    {visible(line)}"), soft_wrap=True)
        for problem in found.get("settings", ()):
            for_humans().print(Text(f"!!  {visible(problem)}"), soft_wrap=True)
        for name, state in found["parts"].items():
            mark = "ok" if state == "ok" else "!!"
            for_humans().print(Text(f"{mark}  {name}: {visible(state)}"), soft_wrap=True)
    if not found["ok"]:
        raise typer.Exit(PROBLEM)


def _run(
    library: CacheConfig,
    reread: Callable[[], GatewaySettings],
    *,
    is_demo: bool = False,
    page_key: str = "",
) -> None:
    from lix_cache.gateway.serve import gateway_for, listeners_for, log_troubles, run

    settings = reread()
    _check_models(settings)
    gateway = gateway_for(settings, library, reread)
    listeners = listeners_for(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{listeners[0].getsockname()[1]}"
    gateway.core.is_demo = is_demo
    log_troubles()
    lines = [f"lix-cache gateway on {address}"]
    what = " (the scripted provider, which the gateway asks; it has no page)" if is_demo else ""
    lines += [f"  {one.name}: {visible(one.url)}{what}" for one in settings.upstreams]
    if settings.admin_key:
        lines.append(f"  page: {address}/ui")
    if page_key:
        lines.append(f"  its key: {page_key}")
    if is_demo:
        lines.append("  ask twice, and look at the header x-lix-cache:")
        lines.append(
            f"  curl -si {address}/v1/chat/completions -H 'content-type: application/json' "
            '-d \'{"model":"demo","messages":[{"role":"user","content":"Where is the billing page?"}]}\''
        )
    to_stderr().print(Text("\n".join(lines)), soft_wrap=True)
    if settings.workers > 1:
        from lix_cache.gateway.workers import run_workers

        run_workers(gateway, settings.workers, listeners)
    else:
        run(gateway, listeners)
