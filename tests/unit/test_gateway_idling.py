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
        self.gateway: Any = SimpleNamespace(core=core, used=used, last_request=0.0, last_page=0.0)
        self.server = SimpleNamespace(should_exit=False, started=True)
        self.task = asyncio.get_running_loop().create_task(watch(self.gateway, self.server))

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


def test_what_has_not_served_yet_is_not_idle() -> None:
    async def work() -> None:
        now = [1000.0]
        one = Worker(now, Used(1))
        one.server.started = False
        await until(lambda: one.looks > 3, what="some looks")
        now[0] += 1000
        await until(lambda: one.looks > 6, what="some more")
        assert not one.server.should_exit
        one.gateway.last_request = now[0]
        one.server.started = True
        await until(lambda: one.looks > 9, what="looks after its start")
        assert not one.server.should_exit
        now[0] += 1
        assert await one.task, "it ends as one that is idle"

    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_process_that_is_no_worker_has_no_parent_to_tell() -> None:
    used = Used(1)
    assert not used.has_parent
    assert not used.is_left_alone


_SCRIPT = """
import os, signal, sys, time
from types import SimpleNamespace as Some
from lix_cache.gateway import workers

async def save_at_end():
    pass

core = Some(snapshot=Some(save_at_end=save_at_end), redis=None, traces=None)

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
workers.run_workers(Some(core=core, has_begun=False), 3, [])
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
