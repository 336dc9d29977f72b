"""The command line ``lix-cache``. Needs the extra ``cli``; see :func:`main`."""

from __future__ import annotations

import sys

__all__ = ["main"]

_PACKAGES = ("typer", "rich", "click")


def main() -> None:
    """Run the command line; the console script ``lix-cache``."""
    try:
        from lix_cache.cli.app import app
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        sys.stderr.write(
            f"lix-cache: the command line needs the package {error.name!r}, which is not installed.\n"
            "Install it with:  pip install 'lix-cache[cli]'\n"
        )
        sys.exit(1)
    app(prog_name="lix-cache")
