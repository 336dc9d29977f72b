"""The order of an archive's sessions, with as little reading as it takes."""

from __future__ import annotations

from lix_cache.archive.catalogue import Catalogue, Place, placed
from lix_cache.archive.facts import SessionMetadata


class Folder:
    """Files with a time of writing and a last use, and what was read of them."""

    def __init__(self, uses: dict[str, tuple[int, int]]) -> None:
        self.uses = uses
        self.read: list[str] = []
        self.state = 1
        self.listings = 0
        self.catalogue = Catalogue(self._listed, lambda: list(self.uses), self._read, lambda: self.state)

    def _listed(self) -> list[tuple[str, int]]:
        self.listings += 1
        return [(name, written) for name, (written, _) in self.uses.items()]

    def _read(self, name: str) -> tuple[Place, SessionMetadata] | None:
        self.read.append(name)
        if name not in self.uses:
            return None
        written, used = self.uses[name]
        meta = SessionMetadata(name, 0.0, written / 1000, 1, 100, used / 1000)
        return placed(meta, written), meta

    def page(self, count: int, after: Place | None = None, only: str = "") -> list[str]:
        found = self.catalogue.after(count, after, lambda one: one.startswith(only))
        self.last = found[-1][0] if found else None
        return [meta.session_id for _, meta in found]


def spread(count: int, lag: int = 5) -> Folder:
    return Folder({f"s{n:04}": (100 * n + lag, 100 * n) for n in range(count)})


def test_a_page_reads_the_files_that_are_on_it_and_few_beside() -> None:
    folder = spread(1000)
    assert folder.page(3) == ["s0999", "s0998", "s0997"]
    assert len(set(folder.read)) <= 4
    before = len(folder.read)
    assert folder.page(3, folder.last) == ["s0996", "s0995", "s0994"]
    assert len(folder.read) - before <= 8
    assert folder.listings == 1


def test_files_that_were_all_written_now_are_read_once() -> None:
    folder = Folder({f"s{n:04}": (10**9, n) for n in range(500)})
    assert folder.page(2) == ["s0499", "s0498"]
    assert len(folder.read) == 500
    assert folder.page(2, folder.last) == ["s0497", "s0496"]
    assert folder.page(2) == ["s0499", "s0498"]
    assert len(folder.read) == 504
    # One that was written to is read anew, and no other.
    folder.uses["s0100"] = (2 * 10**9, 10**8)
    assert folder.page(1) == ["s0100"]
    assert len(folder.read) == 505


def test_one_whose_file_seems_older_than_its_messages_is_listed_once() -> None:
    folder = Folder({"right": (50, 40), "ahead": (10, 900), "old": (5, 5)})
    found, after = [], None
    while page := folder.page(1, after):
        found += page
        after = folder.last
    assert found == ["right", "ahead", "old"]


def test_a_namespace_is_picked_without_reading_what_is_read_already() -> None:
    folder = spread(20)
    folder.uses["x1"] = (3, 1)
    assert folder.page(5, only="x") == ["x1"]
    before = len(folder.read)
    assert folder.page(5, only="x") == ["x1"]
    assert len(folder.read) - before == 1
