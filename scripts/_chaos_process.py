"""A worker of the chaos test, seen from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _chaos_schedule import WorkerSpec

__all__ = ["Process", "Worker"]

_WORKER = Path(__file__).with_name("_chaos_worker.py")


class Process:
    """A process that takes commands, seen from outside.

    Args:
        name: of this process; who takes its place has another.
        settings: what it is told at the start, in a file.
        folder: for that file, and for what it says.
        program: what it runs.
        enter: words before those of the program, which start it elsewhere.
    """

    def __init__(
        self,
        name: str,
        settings: dict[str, Any],
        folder: Path,
        *,
        program: Path = _WORKER,
        enter: Sequence[str] = (),
    ) -> None:
        self.name = name
        path = folder / f"{name}.json"
        path.write_text(json.dumps(settings))
        self._errors = (folder / f"{name}.err").open("wb")
        # Until its handler is there a SIGINT would end it: it begins with none, and so does Python then.
        shell = ["/bin/sh", "-c", 'trap "" INT; exec "$0" "$@"']
        self._process = subprocess.Popen(
            [*enter, *shell, sys.executable, str(program), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )

    def wait_until_ready(self) -> None:
        if self._process.stdout is None or self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"worker {self.name} did not start; see {self._errors.name}")

    def tell(self, do: str, **values: Any) -> None:
        """Give a command; one that has ended hears nothing."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(json.dumps({"do": do, **values}).encode() + b"\n")
                self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL it; its forked children go on."""
        self._process.kill()
        self._process.wait()

    def ended(self, seconds: float) -> int | None:
        """Wait for its end; None if it does not come."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Leave nothing behind, children included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class Worker(Process):
    """A worker of the chaos test.

    Attributes:
        spec: what it is.
    """

    def __init__(self, name: str, spec: WorkerSpec, settings: dict[str, Any], folder: Path) -> None:
        super().__init__(name, settings, folder)
        self.spec = spec
