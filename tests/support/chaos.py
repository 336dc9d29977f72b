"""The modules of the chaos test, which lie beside its script and not in a package."""

from __future__ import annotations

import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.append(str(SCRIPTS))

import _chaos_checker as checker  # noqa: E402
import _chaos_log as log  # noqa: E402
import _chaos_schedule as schedule  # noqa: E402
import _chaos_servers as servers  # noqa: E402
import _chaos_shrink as shrink  # noqa: E402
import _chaos_world as world  # noqa: E402

__all__ = ["SCRIPTS", "checker", "log", "schedule", "servers", "shrink", "world"]
