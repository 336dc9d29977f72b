"""Several processes that serve one port: none idles alone, and none is missed by a signal."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from lix_cache.gateway.idling import Used, watch
from tests.support.waiting import until


class Worker:
    """What is watched of one process."""

    def __init__(self, now: list[float], used: Used) -> None:
        self.looks = 0
        self._now = now
        core = SimpleNamespace(
            settings=SimpleNamespace(idle_seconds=0.04), clock=self, metrics=SimpleNamespace(open=0)
        )
        health = SimpleNamespace(is_draining=False)
        self.gateway: Any = SimpleNamespace(core=core, health=health, last_request=0.0, last_page=0.0)
        self.server = SimpleNamespace(should_exit=False)
        self.task = asyncio.get_running_loop().create_task(watch(self.gateway, self.server, used))

    def monotonic(self) -> float:
        self.looks += 1
        return self._now[0]


def test_a_worker_that_is_not_asked_serves_on_while_another_one_is() -> None:
    async def work() -> None:
        now, used = [1000.0], Used(2)
        busy = Worker(now, used)
        busy.gateway.core.metrics.open = 1
        await until(lambda: busy.looks > 1, what="the word that it is used")
        used.number = 1
        quiet = Worker(now, used)
        await until(lambda: quiet.looks > 5, what="some looks")
        assert not quiet.server.should_exit
        busy.gateway.core.metrics.open = 0
        now[0] += 1
        await asyncio.gather(busy.task, quiet.task)
        assert quiet.server.should_exit
        assert busy.server.should_exit

    asyncio.run(asyncio.wait_for(work(), 60))


_SCRIPT = """
import os, signal, sys, time
from lix_cache.gateway import workers

fork, made = os.fork, []

def forked():
    child = fork()
    if child:
        made.append(child)
        if len(made) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
    return child

def run(*_):
    while True:
        time.sleep(60)

os.fork, workers.run = forked, run
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
workers.run_workers(None, 3, [])
for child in made:
    try:
        os.kill(child, 0)
    except ProcessLookupError:
        continue
    sys.exit("a child is left")
print(len(made))
"""


def test_a_signal_while_a_worker_is_forked_ends_that_one_too() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            # The group: a worker that was missed is in it.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
    assert (process.returncode, said.strip()) == (0, "2")
