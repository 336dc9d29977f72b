"""What a measurement depends on, written beside its figures: machine, date, command, versions, load."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["RunFacts", "write_json"]

ROOT = Path(__file__).resolve().parents[1]
_ALWAYS = ("lix-cache", "numpy", "redis", "hiredis")


class RunFacts:
    """The facts of one run. Make it before measuring: it notes the load that was there already.

    Args:
        packages: further packages whose versions matter to these figures.
    """

    def __init__(self, *packages: str) -> None:
        self._packages = packages
        self._load = os.getloadavg()
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def as_dict(self) -> dict[str, Any]:
        """Return the facts, with the load now and the time since the beginning."""
        return {
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "command": _command(),
            "seconds": round(time.monotonic() - self._wall, 1),
            "cpu_seconds": round(time.process_time() - self._cpu, 1),
            "machine": {
                "cpus": os.cpu_count(),
                "processor": _processor(),
                "architecture": platform.machine(),
                "system": f"{platform.system()} {platform.release()}",
                "load_before": [round(one, 2) for one in self._load],
                "load_after": [round(one, 2) for one in os.getloadavg()],
            },
            "versions": {
                "python": platform.python_version(),
                **{name: _version(name) for name in (*_ALWAYS, *self._packages)},
            },
        }


def write_json(path: str | Path, facts: RunFacts, figures: dict[str, Any]) -> None:
    """Write figures with the facts of their run under ``run``."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    document = {"run": facts.as_dict(), **figures}
    target.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {target}", file=sys.stderr, flush=True)


def _command() -> str:
    """Return the command: its script from the top of the repository, files without their folders."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    return " ".join(
        ["python", str(name), *(Path(one).name if one.startswith("/") else one for one in sys.argv[1:])]
    )


def _processor() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((one.split(":", 1)[1].strip() for one in lines if one.startswith("model name")), None)
    except OSError:
        return platform.processor() or None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
