"""The library's log as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO

__all__ = ["json_logs"]


def json_logs(
    sink: TextIO | Callable[[Any], Any] | str | os.PathLike[str] | None = None, level: str = "INFO"
) -> int:
    """Write the library's log as JSON, one object a line, beside the application's own log.

    A file that it makes is its owner's alone (0600), as every file of this library.

    Args:
        sink: a stream, a path, or whatever else loguru takes; the standard error by default.
        level: least level.

    Returns:
        The handler's number, for ``loguru.logger.remove``.
    """
    from lix_cache._log import logger

    logger.enable("lix_cache")
    # diagnose would print the variables of a traceback, and with them what was asked.
    settings: dict[str, Any] = {"level": level, "serialize": True, "filter": "lix_cache", "diagnose": False}
    if isinstance(sink, (str, os.PathLike)):
        settings["opener"] = partial(os.open, mode=0o600)
    return logger.add(sink if sink is not None else sys.stderr, **settings)
