"""What a server was asked, and what its scripts did: its own record of it."""

from __future__ import annotations

import ast
import re
import socket
import threading
from dataclasses import dataclass, field

from tests.support.redis_server import RedisServer

__all__ = ["Command", "Monitor"]

_LINE = re.compile(rb"\+[\d.]+ \[\d+ (.*?)\] (.*)\r\n")
_WORD = re.compile(rb'"(?:[^"\\]|\\.)*"')


@dataclass
class Command:
    """One that a client sent.

    Attributes:
        words: as it was sent.
        inside: what the script called, if it is one.
    """

    words: list[bytes]
    inside: list[list[bytes]] = field(default_factory=list)

    @property
    def is_script(self) -> bool:
        return self.words[0].lower() in (b"eval", b"evalsha")


class Monitor:
    """Records all that a server does while it is open: ``with Monitor(server) as monitor``."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._lines: list[tuple[bytes, list[bytes]]] = []

    def __enter__(self) -> Monitor:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(self._server.socket_path)
        self._socket.sendall(b"MONITOR\r\n")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._server.client() as client:
            client.echo("the end")
        assert self._ended.wait(20)
        self._socket.close()
        self._thread.join()

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                found = _LINE.fullmatch(line)
                if found:
                    words = [ast.literal_eval("b" + one.decode("ascii")) for one in _WORD.findall(found[2])]
                    if words == [b"ECHO", b"the end"]:
                        break
                    self._lines.append((found[1], words))
        self._ended.set()

    @property
    def commands(self) -> list[Command]:
        """All that clients sent, in order."""
        sent: list[Command] = []
        for client, words in self._lines:
            if client == b"lua":
                sent[-1].inside.append(words)
            else:
                sent.append(Command(words))
        return sent
