"""What a client's script does: for each line of JSON on its input, one call; its answer as a line of JSON.

Such a script runs in the environment of its client, so nothing of this project is imported here.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

__all__ = ["data_of", "serve", "wait"]

_LOOP = asyncio.new_event_loop()


def wait(work: Any) -> Any:
    """Return what an awaitable comes to; all in one event loop, as clients keep their connections."""
    return _LOOP.run_until_complete(work)


def data_of(value: Any) -> Any:
    """Return a client's object as data."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    if hasattr(value, "__dataclass_fields__"):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {str(name): data_of(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [data_of(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def serve(cases: dict[str, Any]) -> None:
    """Answer until the input ends. A case gets the server's address and a question."""
    print(json.dumps(sorted(cases)), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            said = {"ok": data_of(cases[asked["case"]](asked["url"], asked["question"]))}
        except Exception as error:  # its kind and status are what is compared
            status = getattr(error, "status_code", None) or getattr(error, "status", None)
            said = {"error": type(error).__name__, "status": status}
            if "-v" in sys.argv:
                raise
        print(json.dumps(said), flush=True)
