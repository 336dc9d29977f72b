"""Looking at the store without changing it: mapped files, and what lies where.

Reading takes no lock. A mapping outlives the removal of its file, and no file of the store is written to
once it has its name. (Another program that cuts a file short while it is mapped ends the process: nothing
but a copy would guard against that, and the copy takes three times as long as all the rest of a restore.)
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass

from lix_cache.storage.opening import OpenFile, opened_as

__all__ = ["READING", "Found", "inside", "mapped"]

#: How a file of the store is opened: no link is followed, and what is no file makes no reader wait.
READING = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
)


@dataclass(frozen=True)
class Found:
    """A file that lies there.

    Attributes:
        folder: it is in.
        name: of the file.
        size: in bytes.
        used: when it was written or used last, by the file system's clock.
        stamp: changes when the file does.
    """

    folder: str
    name: str
    size: int
    used: float
    stamp: tuple[int, ...]

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.name)


def mapped(path: str) -> memoryview:
    """Return the bytes of a file as they lie in the page cache.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    with opened_as(OpenFile, path, READING) as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")  # which cannot be mapped
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


def inside(folder: str, *, most_deep: int = 1, links: bool = True) -> Iterator[Found]:
    """Yield every file below a folder. What vanishes meanwhile is left out.

    Below a folder of ours links to folders are followed, as reading follows them: what is found there counts,
    and goes, as all else does.

    Args:
        folder: where to look.
        most_deep: how far below it. A link may lead in a circle.
        links: whether links to folders are followed.

    Raises:
        OSError: a folder cannot be read.
    """
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=links):
            if most_deep:
                yield from inside(entry.path, most_deep=most_deep - 1, links=links)
            continue
        try:
            stat = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield Found(
            folder,
            entry.name,
            stat.st_size,
            stat.st_mtime,
            (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns),
        )
