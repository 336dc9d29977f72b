"""A log of questions and their right answers, for calibration: one JSON object per line."""

from __future__ import annotations

import json
import os
import time
from types import TracebackType

from lix_cache.checks import check_flag, check_path, check_text

__all__ = ["QuestionLog"]


class QuestionLog:
    """Appends what ``lix-cache calibrate --log`` reads.

    Write a line wherever the right answer of a question is known: the model was asked (the
    question missed), or a hit was confirmed, or reported it as wrong. Threads and processes
    may share a file: a line is one write to the end of it.

    The log holds the questions themselves. It is made readable by its owner alone.

    Args:
        path: the file; made if it is not there.

    Raises:
        OSError: the file cannot be opened or written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Not a descriptor of a file that is open already: closing the log would close it.
        self.path = check_path("path", path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(
        self,
        query: str,
        answer_id: str,
        *,
        scope: str = "",
        group: str = "",
        hit: bool = False,
        right: bool | None = None,
    ) -> None:
        """Append a line.

        Args:
            query: the question.
            answer_id: names the answer, such as a hash of the response; equal means the same.
            scope: what had to match exactly; questions of different scopes never meet.
            group: class of the scope, if classes are to have thresholds of their own.
            hit: whether the answer came from the cache.
            right: what is known about a hit: True, False, or None for nothing. Calibration
                takes a hit into account only if it is True.
        """
        for name, text in (("query", query), ("answer_id", answer_id), ("scope", scope), ("group", group)):
            check_text(name, text, may_be_empty=True)
        check_flag("hit", hit)
        if right is not None:
            check_flag("right", right)
        record = {"at": round(time.time(), 3), "query": query, "answer_id": answer_id, "scope": scope}
        record |= {"group": group, "hit": hit, "right": right}
        line = json.dumps(record).encode("ascii") + b"\n"
        written = os.write(self._file, line)
        if written != len(line):  # the disk is full
            raise OSError(f"{self.path}: {written} of {len(line)} bytes were written")

    def close(self) -> None:
        """Close the file. Nothing is held back, so nothing is lost without it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> QuestionLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
