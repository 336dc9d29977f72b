"""What is in the store and whose it is: read under the lock, before it is changed."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from lix_cache.errors import CodecError
from lix_cache.kv.eviction import Kept, Key
from lix_cache.kv.manifest import MOST_BYTES, Manifest, decode_manifest
from lix_cache.kv.mapped import Found, inside, mapped

__all__ = [
    "AGENTS",
    "ENDING",
    "NEW",
    "PURGED",
    "SAVING",
    "SESSIONS",
    "Catalogue",
    "Manifests",
    "Underway",
    "is_fingerprint",
    "read_catalogue",
    "state_path",
]

ENDING = ".safetensors"
NEW = ".new"
SESSIONS = "sessions"
#: In it the files of saves that are under way: :mod:`lix_cache.kv.staging`.
SAVING = "saving"
#: Below it a folder for each tenant, with files that are no states.
AGENTS = "agents"
#: Marks of purges: empty files, and maybe many of them.
PURGED = "purged"
#: How far below a folder that is not ours files are counted.
_MOST_DEEP = 32
_HEX = frozenset("0123456789abcdef")


def is_fingerprint(name: str) -> bool:
    """Whether a folder of that name holds the states of a model."""
    return len(name) == 64 and _HEX.issuperset(name)


def state_path(root: str, key: Key) -> str:
    """Return where a state file lies."""
    fingerprint, name = key
    return os.path.join(root, fingerprint, name[:2], name + ENDING)


class Manifests:
    """Manifests as they were read last, and read again when their files change."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[tuple[int, ...], Manifest | None]] = {}

    def of(self, found: Found) -> Manifest | None:
        """Return the manifest in a file; None if it is none, or damaged."""
        seen = self._seen.get(found.path)
        if seen is None or seen[0] != found.stamp:
            manifest = None
            with contextlib.suppress(CodecError, OSError):
                if found.size <= MOST_BYTES:
                    manifest = decode_manifest(bytes(mapped(found.path)))
            seen = self._seen[found.path] = (found.stamp, manifest)
        return seen[1]

    def keep(self, paths: set[str]) -> None:
        """Forget all others."""
        for path in self._seen.keys() - paths:
            self._seen.pop(path, None)


@dataclass
class Underway:
    """A save that is under way, or was when its process died.

    Attributes:
        room: bytes that it was given.
        lock: path of the file that it holds; "" if there is none.
        files: paths and sizes of its files, the lock's too.
    """

    room: int = 0
    lock: str = ""
    files: list[tuple[str, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return max(self.room, sum(size for _, size in self.files))


@dataclass
class Catalogue:
    """Everything below the root.

    Attributes:
        files: the state files that a manifest names.
        manifests: path → manifest and size, of those that can be read.
        garbage: files that a killed save left, state files that no manifest names, damaged manifests.
        total: bytes of all of it, what is not ours included.
        removed: bytes of garbage that went.
        tenants: bytes of a tenant's state files and manifests.
        kept: digest of a tenant → paths and sizes of its files that are no states.
        underway: how the names of a save's files begin → the save. Their tenant's digest comes first.
    """

    files: dict[Key, Kept] = field(default_factory=dict)
    manifests: dict[str, tuple[str, Manifest, int]] = field(default_factory=dict)
    garbage: list[tuple[str, int]] = field(default_factory=list)
    total: int = 0
    removed: int = 0
    tenants: Counter[str] = field(default_factory=Counter)
    kept: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    underway: dict[str, Underway] = field(default_factory=dict)

    def sessions(self, tenant: str, session: str | None = None) -> Iterator[tuple[str, str, Manifest]]:
        """Yield path, fingerprint and manifest of a tenant's sessions."""
        for path, (fingerprint, one, _) in list(self.manifests.items()):
            if one.tenant == tenant and session in (None, one.session):
                yield path, fingerprint, one

    def add(self, key: Key, kept: Kept) -> None:
        """Note that a state file is there."""
        before = self.files.get(key)
        if before is not None:
            # Written anew, for it was damaged: it is still that of all who have it.
            self._count(before.tenants, -before.size)
            kept.tenants |= before.tenants
            kept.sessions |= before.sessions
            kept.pinned |= before.pinned
        self.files[key] = kept
        self._count(kept.tenants, kept.size)

    def remove(self, key: Key) -> list[str]:
        """Note that a state file is gone. Return the manifests that go with it.

        Nothing is left that is theirs alone: what others have as well, such as a system prompt, is found
        without them.
        """
        kept = self.files.pop(key)
        self._count(kept.tenants, -kept.size)
        empty = []
        for path in kept.sessions & self.manifests.keys():
            fingerprint, manifest, _ = self.manifests[path]
            keys = [(fingerprint, name) for name in manifest.files]
            left = [self.files[one] for one in keys if one in self.files]
            if all(len(one.sessions) > 1 for one in left):
                for one in left:
                    one.sessions.discard(path)
                self.drop(path)
                empty.append(path)
        return empty

    def put(self, path: str, fingerprint: str, manifest: Manifest, size: int) -> None:
        """Note that a manifest is there, in the place of another maybe."""
        self.drop(path)
        self.manifests[path] = (fingerprint, manifest, size)
        self._count({manifest.tenant}, size)

    def drop(self, path: str) -> None:
        """Note that a manifest is gone."""
        if path in self.manifests:
            _, manifest, size = self.manifests.pop(path)
            self._count({manifest.tenant}, -size)

    def ended(self, stem: str) -> None:
        """Note that a save is over: what is left of it is no longer its own, nor counted."""
        one = self.underway.pop(stem, None)
        if one is not None:
            self.total -= one.size

    def _count(self, tenants: set[str], size: int) -> None:
        self.total += size
        for tenant in tenants:
            self.tenants[tenant] += size


def _below(root: str) -> Iterator[Found]:
    """Yield every file of a store."""
    yield from inside(root, most_deep=0)
    for entry in sorted(_folders(root), key=lambda one: one.name):
        if is_fingerprint(entry.name) or entry.name == AGENTS:
            # It may be a link to another disk. It must be readable: without its manifests, its states would
            # look as if no session had them.
            yield from inside(entry.path)
        elif entry.name != PURGED and not entry.is_symlink():
            # Not ours: ``lost+found``, where the root is a volume's, is closed to us.
            with contextlib.suppress(PermissionError):
                yield from inside(entry.path, most_deep=_MOST_DEEP, links=False)


def _folders(root: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root) as entries:
            return [entry for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _take(
    result: Catalogue, found: Found, parts: list[str], states: dict[Key, Found], read: Manifests
) -> None:
    """Note a file, which lies in a folder of these parts below the root."""
    is_kept = parts[0] == AGENTS and len(parts) == 2
    if not is_kept and not is_fingerprint(parts[0]):
        return  # the lock, and what is not ours
    if found.name.endswith(NEW):
        result.garbage.append((found.path, found.size))
    elif is_kept:
        result.kept.setdefault(parts[1], []).append((found.path, found.size))
    elif len(parts) == 2 and parts[1] == SAVING:
        _take_underway(result, found)
    elif len(parts) == 2 and parts[1] == SESSIONS and found.name.endswith(".json"):
        manifest = read.of(found)
        if manifest is None:
            result.garbage.append((found.path, found.size))
        else:
            result.manifests[found.path] = (parts[0], manifest, found.size)
    elif len(parts) == 2 and found.name.endswith(ENDING):
        if parts[1] == found.name[:2]:
            states[parts[0], found.name.removesuffix(ENDING)] = found
        else:  # where no reader looks for it
            result.garbage.append((found.path, found.size))


def _take_underway(result: Catalogue, found: Found) -> None:
    """Note a file of a save: its lock is named after the room that it was given."""
    parts = found.name.split(".")
    if len(parts) == 3 and parts[1].isdecimal() and parts[2] in ("lock", "part"):
        stem, number, ending = parts
        one = result.underway.setdefault(stem, Underway())
        one.files.append((found.path, found.size))
        if ending == "lock":
            one.lock, one.room = found.path, int(number)


def read_catalogue(root: str, read: Manifests) -> Catalogue:
    """Return what is there. Under the lock nothing else changes it, but for times of use, and for the files
    of saves that are under way, which are counted with all the room that they were given.
    """
    result = Catalogue()
    states: dict[Key, Found] = {}
    # Files come folder by folder, and most of the time would go into finding out which one it is.
    folder, parts = "", list[str]()
    for found in _below(root):
        result.total += found.size
        if found.folder != folder:
            folder, parts = found.folder, os.path.relpath(found.folder, root).split(os.sep)
        _take(result, found, parts, states, read)
    for one in result.underway.values():
        result.total += one.size - sum(size for _, size in one.files)
    read.keep(set(result.manifests))
    for path, (fingerprint, manifest, size) in list(result.manifests.items()):
        result.tenants[manifest.tenant] += size
        named = [name for name in manifest.files if (fingerprint, name) in states]
        if not named:
            # All it had was evicted.
            result.drop(path)
            result.total += size  # counted as long as it lies there
            result.garbage.append((path, size))
        for name in named:
            found = states[fingerprint, name]
            kept = result.files.setdefault(
                (fingerprint, name), Kept(found.size, found.used, manifest.files[name])
            )
            if manifest.tenant not in kept.tenants:
                kept.tenants.add(manifest.tenant)
                result.tenants[manifest.tenant] += found.size
            kept.sessions.add(path)
            kept.pinned |= manifest.pinned
    result.garbage += [(found.path, found.size) for key, found in states.items() if key not in result.files]
    return result
