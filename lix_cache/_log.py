"""The library's logger, silent until the application says ``logger.enable("lix_cache")``.

The disabling happens here and not in the package's ``__init__`` so that using the
codec alone imports no logger. An application may have enabled us before this module
is first needed; loguru has no public way to ask, hence the guarded look inside.
"""

from __future__ import annotations

from loguru import logger

__all__ = ["logger"]


def _already_decided() -> bool:
    activation = getattr(getattr(logger, "_core", None), "activation_list", ())
    return any(str(name).startswith("lix_cache.") for name, _ in activation)


if not _already_decided():
    logger.disable("lix_cache")
