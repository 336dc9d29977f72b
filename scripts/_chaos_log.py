"""What a worker of the chaos test writes down, outside of the store: one JSON object in a line, synced.

Moments are seconds of the machine's monotonic clock, which no event of the test changes and
which is one for all processes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Acknowledged",
    "Evidence",
    "Log",
    "Missed",
    "Read",
    "Trouble",
    "Wipe",
    "message_text",
    "parse_logs",
    "split_text",
]

#: A wipe that failed may be carried out late, by a server that hung.
_LATE = 5.0


def message_text(session: str, writer: str, number: int) -> str:
    """Return what a message says: it names its session, its writer and its place, and varies in size."""
    digest = hashlib.sha256(f"{session}|{writer}|{number}".encode()).hexdigest()
    size = int(digest[:2], 16)
    return f"{session}|{writer}|{number}|" + (digest * 4)[: size if size < 200 else size - 190]


def split_text(text: Any) -> tuple[str, str, int] | None:
    """Return session, writer and number of a message, or None if no worker has written it so."""
    parts = text.split("|") if isinstance(text, str) else []
    if len(parts) != 4 or not parts[2].isdigit() or message_text(parts[0], parts[1], int(parts[2])) != text:
        return None
    return parts[0], parts[1], int(parts[2])


@dataclass(frozen=True)
class Acknowledged:
    """A message whose add returned.

    Attributes:
        session: where it was added.
        writer: who added it, one after the other.
        number: its place among this writer's messages.
        began: when the add was called.
        ended: when it returned.
    """

    session: str
    writer: str
    number: int
    began: float
    ended: float

    @property
    def text(self) -> str:
        return message_text(self.session, self.writer, self.number)


@dataclass(frozen=True)
class Wipe:
    """A ``clear()`` or ``delete_session()``.

    Attributes:
        session: of what.
        kind: ``clear`` or ``delete``.
        began: when it was called.
        ended: after this it cannot have an effect any more.
        done: whether it returned.
    """

    session: str
    kind: str
    began: float
    ended: float
    done: bool


@dataclass(frozen=True)
class Read:
    """A read that found nothing."""

    session: str
    kind: str
    began: float


@dataclass(frozen=True)
class Missed:
    """A read in which a writer did not see messages that it had added before."""

    session: str
    kind: str
    writer: str
    numbers: list[int]
    began: float


@dataclass(frozen=True)
class Trouble:
    """What a worker itself found wrong: ``doubled``, ``foreign``, ``error``, ``stuck`` or ``hung``."""

    kind: str
    detail: str


@dataclass
class Evidence:
    """All that is known after an episode.

    Attributes:
        acknowledged: messages.
        wipes: clears and deletions.
        empty_reads: reads that found nothing.
        missed: reads that did not show what their writer had added.
        troubles: what workers found wrong.
        failures: adds that failed, by the name of the error.
        full: for each way of reading everything: the texts of each session.
        context: for each way of reading: the texts of the context, and of everything at that time.
        window: messages of a context.
        may_miss: for each session what only a server had that lost its memory.
        rollbacks: moments in which the server went back to an older state.
    """

    acknowledged: list[Acknowledged] = field(default_factory=list)
    wipes: list[Wipe] = field(default_factory=list)
    empty_reads: list[Read] = field(default_factory=list)
    missed: list[Missed] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    full: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    context: dict[str, dict[str, tuple[list[Any], list[Any]]]] = field(default_factory=dict)
    window: int = 20
    may_miss: dict[str, set[str]] = field(default_factory=dict)
    rollbacks: list[float] = field(default_factory=list)


class Log:
    """A worker's file. Every line is on disk when :meth:`write` returns.

    Args:
        path: of the file.
        synced: otherwise the system has the line, which outlives the worker and not the machine.
    """

    def __init__(self, path: str, *, synced: bool = True) -> None:
        self._synced = synced
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, op: str, **values: Any) -> None:
        """Append one line."""
        # A line in one write: a kill comes before it or after it.
        os.write(self._fd, (json.dumps({"op": op, **values}) + "\n").encode())
        if self._synced:
            os.fsync(self._fd)


def parse_logs(lines: Iterable[str], deaths: Mapping[str, float]) -> Evidence:
    """Read what all workers have written.

    Args:
        lines: of all logs; those of one worker in their order.
        deaths: for each writer that was killed, when.
    """
    found = Evidence()
    open_wipes: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        raw = json.loads(line)
        op = raw.pop("op")
        if op == "add":
            found.acknowledged.append(Acknowledged(**raw))
        elif op == "wipe begins":
            open_wipes[raw["writer"], raw["number"]] = raw
        elif op == "wipe ends":
            begun = open_wipes.pop((raw["writer"], raw["number"]))
            late = 0.0 if raw["done"] else _LATE
            found.wipes.append(
                Wipe(begun["session"], begun["kind"], begun["began"], raw["ended"] + late, raw["done"])
            )
        elif op == "empty":
            found.empty_reads.append(Read(**raw))
        elif op == "missed":
            found.missed.append(Missed(**raw))
        elif op == "trouble":
            found.troubles.append(Trouble(**raw))
        elif op == "failed":
            found.failures[raw["error"]] += 1
    for (writer, _), begun in open_wipes.items():
        ended = deaths.get(writer, math.inf) + _LATE
        found.wipes.append(Wipe(begun["session"], begun["kind"], begun["began"], ended, False))
    return found
