"""Two sides of a network that can be cut: that of the script, and one with a master and writers of its own.

Where the machine permits it the other side is a network namespace, behind a veth pair whose end here is on
a bridge; a cut takes it off the bridge, so that what either side sends is lost without a word. The whole is
in a namespace of the script's own: nothing of the machine's network is touched, and all goes with the script.
Elsewhere a cut stops the master (SIGSTOP), which then answers late instead of answering one side alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Protocol

from tests.support.redis_cluster import Place, ServerProcess
from tests.support.redis_server import wait_until

__all__ = ["Sides", "enter_own_network", "open_sides"]

_INSIDE = "LIX_FAILOVER_INSIDE"
_HERE, _THERE = "10.77.0.1", "10.77.0.2"


class Sides(Protocol):
    """Two places, and what is between them.

    Attributes:
        how: what a cut is, in words.
        here: the side that has the majority.
        there: the side that is cut off.
    """

    how: str
    here: Place
    there: Place

    def cut(self, master: ServerProcess) -> None:
        """Keep the sides from each other. The master is the one that runs there."""

    def heal(self, master: ServerProcess) -> None:
        """Let them reach each other again."""

    def close(self) -> None:
        """Leave nothing behind."""


class _Namespaces:
    how = "two network namespaces; a cut takes the veth pair between them off its bridge"

    def __init__(self) -> None:
        # It lives as long as its input is open: it ends with this process, however that ends.
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        there = f"/proc/{self._holder.pid}/ns/net"
        wait_until(lambda: os.readlink(there) != os.readlink("/proc/self/ns/net"), what="the other side")
        enter = ("nsenter", f"--net={there}")
        self.here, self.there = Place(_HERE), Place(_THERE, enter)
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "sides", "type", "bridge")
        _ip("addr", "add", f"{_HERE}/24", "dev", "sides")
        _ip("link", "set", "sides", "up")
        _ip("link", "add", "port", "type", "veth", "peer", "name", "side", "netns", str(self._holder.pid))
        _ip("link", "set", "port", "master", "sides")
        _ip("link", "set", "port", "up")
        _ip("addr", "add", f"{_THERE}/24", "dev", "side", enter=enter)
        for name in ("lo", "side"):
            _ip("link", "set", name, "up", enter=enter)

    def cut(self, master: ServerProcess) -> None:  # noqa: ARG002
        _ip("link", "set", "port", "nomaster")

    def heal(self, master: ServerProcess) -> None:  # noqa: ARG002
        _ip("link", "set", "port", "master", "sides")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


class _Stopped:
    how = "no network namespaces are permitted here: a cut stops the master (SIGSTOP)"
    here = there = Place()

    def cut(self, master: ServerProcess) -> None:
        master.send(signal.SIGSTOP)

    def heal(self, master: ServerProcess) -> None:
        master.send(signal.SIGCONT)

    def close(self) -> None:
        pass


def _ip(*words: str, enter: tuple[str, ...] = ()) -> None:
    subprocess.run([*enter, "ip", *words], check=True, capture_output=True)


def enter_own_network() -> None:
    """Start the script again in a network namespace of its own, if the machine permits that."""
    if _INSIDE in os.environ:
        return
    # Who is not root may be root of a namespace of users.
    for options in ("--net", "--net --map-root-user"):
        words = ["unshare", *options.split()]
        tried = (
            "ip link add sides type bridge && ip link add port type veth peer name side && unshare --net true"
        )
        try:
            done = subprocess.run([*words, "sh", "-c", tried], capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            os.environ[_INSIDE] = "1"
            os.execvp(words[0], [*words, sys.executable, *sys.argv])


def open_sides() -> Sides:
    """Return the two sides. In a namespace of the script's own they are apart, elsewhere they are one."""
    return _Namespaces() if _INSIDE in os.environ else _Stopped()
