"""The application: global options, and the commands in the order a newcomer needs them."""

from __future__ import annotations

from typing import Annotated

import typer

import lix_cache
from lix_cache.cli.commands.archive import archive
from lix_cache.cli.commands.audit import audit
from lix_cache.cli.commands.calibrate_ import calibrate_
from lix_cache.cli.commands.codec import codec
from lix_cache.cli.commands.compact import compact
from lix_cache.cli.commands.demo import demo
from lix_cache.cli.commands.doctor import doctor
from lix_cache.cli.commands.eval_ import eval_
from lix_cache.cli.commands.export import export
from lix_cache.cli.commands.import_ import import_
from lix_cache.cli.commands.kv import kv
from lix_cache.cli.commands.migrate import migrate
from lix_cache.cli.commands.offload import offload
from lix_cache.cli.commands.restore import restore
from lix_cache.cli.commands.serve import serve
from lix_cache.cli.commands.sessions import sessions
from lix_cache.cli.commands.show import show
from lix_cache.cli.commands.stats import stats
from lix_cache.cli.commands.top import top
from lix_cache.cli.commands.verify import verify
from lix_cache.cli.errors import SayingGroup
from lix_cache.cli.settings import Settings

__all__ = ["app"]

app = typer.Typer(
    name="lix-cache",
    cls=SayingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: lix-cache demo",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lix-cache {lix_cache.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    ctx: typer.Context,
    redis_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of the server: redis://, rediss:// or unix://; of several: "
            "redis+cluster://HOST:PORT,HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE.",
        ),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="First part of every key: the application's redis_key_prefix.")
    ] = None,
    archive_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the .huff files, or the URL of object storage (file://, s3://, gs://, az://).",
        ),
    ] = None,
    env_prefix: Annotated[
        str, typer.Option(help="Prefix of the environment variables with settings: X_REDIS_HOST, …")
    ] = "LIX_CACHE",
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Use the private server if no other answers.")
    ] = False,
    traceback: Annotated[  # noqa: ARG001 - read by SayingGroup
        bool, typer.Option("--traceback", help="Show where an error comes from.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - handled by its callback
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Session memory and caches on Redis: look at a store, move it, check it.

    Settings come from the environment (LIX_CACHE_REDIS_URL, LIX_CACHE_ARCHIVE_DIR, …, one
    for every field of CacheConfig); the options below win over them.

    Exit codes: 0 fine, 1 a problem was found, 2 wrong use.
    """
    ctx.obj = Settings(redis_url, prefix, archive_dir, env_prefix, embedded)


app.command(epilog="Example: lix-cache demo --input chats.jsonl --limit 100")(demo)
app.command(epilog="Example: lix-cache serve --upstream https://api.openai.com")(serve)
app.command(epilog="Example: lix-cache doctor --json")(doctor)
app.command(epilog="Example: lix-cache sessions --limit 10")(sessions)
app.command(epilog="Example: lix-cache show user-abc --recent 5")(show)
app.command(epilog="Example: lix-cache stats --json")(stats)
app.command(epilog="Example: lix-cache top --metrics http://127.0.0.1:8640/metrics")(top)
app.command(epilog="Example: lix-cache audit --json")(audit)
app.command(epilog="Example: lix-cache offload --idle-minutes 30")(offload)
app.command(epilog="Example: lix-cache compact --idle-minutes 1440 --dry-run")(compact)
app.command(epilog="Example: lix-cache --archive-dir ./data/conversations verify")(verify)
app.command(epilog="Example: lix-cache restore user-abc")(restore)
app.command(epilog="Example: lix-cache export --output backup.jsonl")(export)
app.command("import", epilog="Example: lix-cache import backup.jsonl --skip-existing")(import_)
app.command(epilog="Example: lix-cache migrate --dry-run")(migrate)
app.command(
    "eval", epilog="Example: lix-cache eval --set asked.jsonl --model sentence-transformers/all-MiniLM-L6-v2"
)(eval_)
app.command("calibrate", epilog="Example: lix-cache calibrate --log asked.jsonl -o thresholds.json")(
    calibrate_
)
app.add_typer(archive, name="archive", no_args_is_help=True)
app.add_typer(codec, name="codec", no_args_is_help=True)
app.add_typer(kv, name="kv", no_args_is_help=True)
