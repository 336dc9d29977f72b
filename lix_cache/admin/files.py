"""Checking the archive folder: every byte of every file, and what lies beside them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

from lix_cache.admin.results import FileCheck
from lix_cache.archive.archive import ConversationArchive
from lix_cache.archive.names import SUFFIX, file_stem, plain_stem
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.archive.store import ArchiveStore
from lix_cache.archive.verify import ArchiveReport, verify_file
from lix_cache.checks import check_text
from lix_cache.errors import ArchiveError
from lix_cache.messages.session_key import in_namespace, named, stored_start
from lix_cache.storage.files import Files

__all__ = ["checked", "file_of", "session_files", "set_aside", "unreadable"]

_SET_ASIDE = re.compile(re.escape(SUFFIX) + r"\.damaged-[0-9]+\Z")


def checked(
    archive: ConversationArchive, session_id: str | None, namespace: str | None, after: str | None
) -> Iterator[FileCheck]:
    """Check the files of a session, or those of all or of a namespace behind one. See StoreAdmin.verify."""
    if after is not None:
        check_text("after", after)
    if session_id is not None:
        return check_files(archive, file_of(archive, session_id))
    names = session_files(archive, namespace)
    return check_files(archive, names[0 if after is None else bisect_right(names, after) :])


def session_files(archive: ConversationArchive, namespace: str | None = None) -> list[str]:
    """Return the names of the sessions' files, sorted; of all, or of those of a namespace.

    On object storage a session is no file: its stored id stands for it.
    """
    start = None if namespace is None else stored_start(namespace)
    if isinstance(archive.store, ObjectTier):
        ids = (one.session_id for one in archive.store.stamps())
        return sorted(one for one in ids if in_namespace(one, start))
    names = set(archive.store.session_files())
    if start is not None:
        # By the stamps: they name damaged files as well.
        ids = (one.session_id for one in archive.store.stamps() if in_namespace(one.session_id, start))
        names &= {file_stem(sid) + SUFFIX for sid in ids}
    return sorted(names)


def set_aside(archive: ConversationArchive) -> list[str]:
    """Return the names of the files that a repair put damaged bytes into, sorted."""
    if isinstance(archive.store, ObjectTier):
        return []
    return sorted(name for name in Files().names(archive.archive_dir) if _SET_ASIDE.search(name))


def unreadable(archive: ConversationArchive) -> list[str]:
    """Return the names of the files that no session is listed for, because nothing in them makes sense."""
    if isinstance(archive.store, ObjectTier):
        return []
    known = {meta.session_id for meta in archive.store.all_metadata()}
    known_names = {file_stem(sid) for sid in known} | {plain_stem(sid) for sid in known}
    strange = [name for name in session_files(archive) if name[: -len(SUFFIX)] not in known_names]
    return [check.file for check in check_files(archive, strange) if not check.is_intact]


def file_of(archive: ConversationArchive, session_id: str) -> list[str]:
    """Return the name of the file of a stored id, if it has one."""
    if not archive.store.exists(session_id):
        return []
    if isinstance(archive.store, ObjectTier):
        return [session_id]
    encoded = file_stem(session_id) + SUFFIX
    plain = plain_stem(session_id)
    names = set(archive.store.session_files())
    return [encoded if encoded in names or plain is None else plain + SUFFIX]


def check_files(archive: ConversationArchive, names: list[str]) -> Iterator[FileCheck]:
    """Yield what is found in each file; one that is removed meanwhile is passed over."""
    store = archive.store
    if isinstance(store, ObjectTier):
        for name in names:
            report = store.report(name)
            if report is not None:
                yield _as_check(name, report, report.problems)
        return
    for name in names:
        found = _read(store, name)
        if found is not None and not found[1].is_intact:
            found = _read_alone(store, name, *found)
        if found is not None:
            yield _checked(name, *found)


def _read(store: ArchiveStore, name: str) -> tuple[str, ArchiveReport] | None:
    data = store.raw_file(name)
    return None if data is None else verify_file(data, name[: -len(SUFFIX)])


def _read_alone(
    store: ArchiveStore, name: str, owner: str, report: ArchiveReport
) -> tuple[str, ArchiveReport] | None:
    """Look again without a writer: half an append looks like damage."""
    try:
        lock = store.lock(owner)
    except (ArchiveError, UnicodeEncodeError):
        # A folder that cannot be written to has no writers, nor has a name that is no
        # UTF-8; and a writer who never ends is a trouble of another kind.
        return owner, report
    with lock:
        return _read(store, name)


def _checked(name: str, owner: str, report: ArchiveReport) -> FileCheck:
    problems = report.problems
    if report.version == 2 and not problems:
        proper = file_stem(owner) + SUFFIX
        if proper != name:
            problems = (f"it holds session {named(owner)}, which is looked for in {proper!r}",)
    return _as_check(name, report, problems)


def _as_check(name: str, report: ArchiveReport, problems: tuple[str, ...]) -> FileCheck:
    return FileCheck(
        file=name,
        session_id=report.session_id,
        version=report.version,
        frames=report.frames,
        turns=report.turns,
        damaged_bytes=report.damaged_bytes,
        problems=problems,
    )
