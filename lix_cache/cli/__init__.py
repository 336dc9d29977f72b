"""The command line ``lix-cache``. Needs the extra ``cli``; see :func:`main`."""

from __future__ import annotations

import sys

__all__ = ["main"]

_PACKAGES = ("typer", "rich", "click")


def main() -> None:
    """Run the command line; the console script ``lix-cache``."""
    try:
        from lix_cache.cli.app import app
        from lix_cache.cli.errors import complain
        from lix_cache.cli.terminal import prepare_streams, show_traceback
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        sys.stderr.write(
            f"lix-cache: the command line needs the package {error.name!r}, which is not installed.\n"
            "Install it with:  pip install 'lix-cache[cli]'\n"
        )
        sys.exit(1)
    prepare_streams()
    try:
        app(prog_name="lix-cache")
    except Exception as error:  # noqa: BLE001 - asked for with --traceback, or a mistake of ours
        show_traceback(error)
        sys.exit(1)
    finally:
        # Here and not at the interpreter's end, which could only call it an ignored exception.
        try:
            sys.stdout.flush()
        except OSError as error:
            complain(f"stdout: {error.strerror}")
            sys.exit(1)
