"""The folder of a private server: who may enter it, what stands in it, how to talk to who lives there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import tempfile

from lix_cache.errors import NoRedisServer

__all__ = ["ask", "check_private", "configuration", "is_ready", "make_private_folder", "socket_path"]

#: ``sun_path`` has 104 bytes on some systems, the closing zero included.
_LONGEST_SOCKET_PATH = 103
_ANSWER_SECONDS = 1.0
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-")


def make_private_folder(path: str) -> None:
    """Make a folder that only its owner may enter; one that is there already must be ours.

    Raises:
        NoRedisServer: another user prepared it.
    """
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    check_private(path)


def check_private(path: str) -> None:
    """Refuse a folder that is not ours, and close one of ours to all other users.

    Raises:
        NoRedisServer: it belongs to another user, or is a link or a file.
        FileNotFoundError: there is none.
    """
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise NoRedisServer(f"{path} is not a folder of this user; no server is run in it")
    if stat.S_IMODE(found.st_mode) != 0o700:
        os.chmod(path, 0o700)


def socket_path(home: str) -> str:
    """Return where the server listens: in its folder, or under the temp folder if that is too deep.

    Raises:
        NoRedisServer: the folder under the temp folder is another user's, or too deep as well.
    """
    path = os.path.join(home, "redis.sock")
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    folder = os.path.join(tempfile.gettempdir(), f"lix-cache-{os.geteuid()}-{digest}")
    path = os.path.join(folder, "redis.sock")
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise NoRedisServer(f"the path of the socket, {path}, is too long; set TMPDIR to a shorter folder")
    # The temp folder is open to all users, and the name can be guessed.
    make_private_folder(folder)
    return path


def configuration(home: str, listen: str) -> bytes:
    """Return the text of the server's ``redis.conf``."""
    return b"\n".join(
        [
            b"# Written at every start; changes made here are lost.",
            b"port 0",
            b"unixsocket " + _quoted(listen),
            b"unixsocketperm 700",
            b"daemonize yes",
            b"pidfile " + _quoted(os.path.join(home, "redis.pid")),
            b"logfile " + _quoted(os.path.join(home, "redis.log")),
            b"dir " + _quoted(os.path.join(home, "data")),
            b"databases 16",
            b"appendonly yes",
            b"appendfsync everysec",
            # The append-only file has everything; snapshots beside it would be work for nothing.
            b'save ""',
            # A cache may forget, a conversation may not.
            b"maxmemory-policy noeviction",
            # The keys of a large scope of answers are freed beside the server's work when they end.
            b"lazyfree-lazy-expire yes",
            b"",
        ]
    )


def _quoted(path: str) -> bytes:
    # Every byte that could mean something to the reader of the file is escaped.
    escaped = (bytes([byte]) if byte in _PLAIN else b"\\x%02x" % byte for byte in os.fsencode(path))
    return b'"' + b"".join(escaped) + b'"'


def ask(path: str, command: bytes, timeout: float) -> bytes:
    """Send one command to a socket and return the reply's first line, b"" if it was closed instead.

    Args:
        path: the socket.
        command: a command in words, without arguments that need quoting.
        timeout: seconds to wait for each part of the answer.

    Raises:
        OSError: no process listens there, or there is no answer in time.
    """
    # A plain socket: a client library would repeat the command, or wait and try again.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(command + b"\r\n")
        received = b""
        while b"\n" not in received:
            more = connection.recv(4096)
            if not more:
                break
            received += more
    return received.partition(b"\r\n")[0]


def is_ready(path: str) -> bool:
    """Tell whether a server answers there and has loaded its data."""
    try:
        # One that cannot write its data says so to a PING too, and still reads; who writes is told.
        return ask(path, b"PING", _ANSWER_SECONDS).startswith((b"+PONG", b"-MISCONF", b"-BUSY"))
    except OSError:
        return False
