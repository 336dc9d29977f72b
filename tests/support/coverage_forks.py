"""Coverage's lock is never taken with into a fork.

Its tracers share a lock, and threads that other tests left take it at any time. A child that is forked then
would wait for it for ever, at its first line of a file that coverage has not seen.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

__all__ = ["guard_forks"]


def guard_forks() -> None:
    """Fork only while no thread holds the lock. Does nothing where nothing is measured."""
    coverage: Any = sys.modules.get("coverage")
    current = None if coverage is None else coverage.Coverage.current()
    collector = getattr(current, "_collector", None)
    if collector is not None and collector.data_lock is not None:
        # Other hooks of a fork run while it is held, and may be new to coverage.
        collector.data_lock = threading.RLock()
        os.register_at_fork(
            before=collector.lock_data,
            after_in_parent=collector.unlock_data,
            after_in_child=collector.unlock_data,
        )
