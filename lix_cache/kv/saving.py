"""A save: what is given to the store, what it does with it, and what it says it did.

The order of its steps, and why it may be stopped between them, is that of :mod:`lix_cache.kv.staging`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lix_cache.kv.block_file import Description, encode
from lix_cache.kv.catalogue import SESSIONS, Catalogue, state_path
from lix_cache.kv.changing import KvChanging, told_as_ours
from lix_cache.kv.eviction import Kept, Key
from lix_cache.kv.identity import Fingerprint, Ids
from lix_cache.kv.manifest import Manifest, encode_manifest
from lix_cache.kv.purges import Seen
from lix_cache.kv.staging import Staging
from lix_cache.kv.tensors import State

__all__ = ["KvSaving", "Piece", "Saved"]

#: Bytes that are encoded, written and synced at a time.
_BATCH_BYTES = 64 << 20
#: How often a save looks again for what others removed while it wrote. After that it does without.
_MOST_ROUNDS = 3


@dataclass(frozen=True)
class Piece:
    """A state file to write, if it is not there.

    Attributes:
        name: of the file.
        needs: name of the file it needs, or "".
        about: what it says of itself.
        ids: its token ids.
        export: returns the tensors; called only if the file is not there.
    """

    name: str
    needs: str
    about: Description
    ids: Ids
    export: Callable[[], State] = field(repr=False)


@dataclass
class Saved:
    """What a save did.

    Attributes:
        written: files that were written.
        shared: files that were there.
        bytes: that were written.
        left_out: files for which there was no room.
        tokens: of the sequence that resume from disk now.
        is_purged: nothing was written, for the session was purged since it was taken into memory.
    """

    written: int = 0
    shared: int = 0
    bytes: int = 0
    left_out: int = 0
    tokens: int = 0
    is_purged: bool = False


@dataclass
class _Save:
    """One save.

    Attributes:
        fingerprint: of the model.
        manifest: as it was given.
        pieces: as they were given.
        keep: returns what the session keeps of its manifest before.
        path: of its manifest.
        staging: its files that are written.
        out: names of those that are left out.
        is_full: whether there was no room for one.
    """

    fingerprint: Fingerprint
    manifest: Manifest
    pieces: Sequence[Piece]
    keep: Callable[[Manifest], Mapping[str, str]]
    path: str
    staging: Staging
    out: set[str] = field(default_factory=set)
    is_full: bool = False

    def key(self, name: str) -> Key:
        return self.fingerprint.hex, name

    def there(self, catalogue: Catalogue, batch: Mapping[str, bytes] | None = None) -> dict[str, str]:
        """Return name → needed name of what the session has, with a batch that is about to be written."""
        there: dict[str, str] = {}
        for one in self.pieces:
            is_own = one.name in self.staging.sizes or one.name in (batch or {})
            is_there = is_own or (self.key(one.name) in catalogue.files and one.name not in self.out)
            if is_there and (not one.needs or one.needs in there):
                there[one.name] = one.needs
        return there

    def manifest_of(self, catalogue: Catalogue, there: Mapping[str, str], *, is_last: bool) -> Manifest:
        """Return the manifest that names these, and what the session keeps of the one before.

        Args:
            catalogue: of now.
            there: to name.
            is_last: nothing is evicted any more, so what was is left out.
        """
        before = catalogue.manifests.get(self.path)
        if before is None:
            return self.manifest.with_files(there)
        kept = self.keep(before[1])
        if is_last:
            kept = {name: kept[name] for name in kept if self.key(name) in catalogue.files}
        pinned = before[1].pinned or self.manifest.pinned
        return replace(self.manifest, pinned=pinned).with_files({**kept, **there})

    def room(self, catalogue: Catalogue, there: Mapping[str, str], batch: Mapping[str, bytes]) -> int:
        """Return the bytes of all it writes, with the manifest: without that one they would be lost."""
        size = len(encode_manifest(self.manifest_of(catalogue, there, is_last=False)))
        before = catalogue.manifests.get(self.path)
        own = max(0, size - (0 if before is None else before[2]))
        return sum(self.staging.sizes.values()) + sum(map(len, batch.values())) + own


class KvSaving(KvChanging):
    """A store into which sessions are saved."""

    def save(
        self,
        fingerprint: Fingerprint,
        manifest: Manifest,
        pieces: Sequence[Piece],
        keep: Callable[[Manifest], Mapping[str, str]] = lambda before: before.files,
        since: Seen | None = None,
        lock_seconds: float | None = None,
    ) -> Saved:
        """Put a session's state into the store.

        Args:
            fingerprint: of the model.
            manifest: of the session; its files are filled in here.
            pieces: its files, each after the one it needs.
            keep: given the manifest before, returns the files of it that the session keeps.
            since: what :meth:`seen` said when the session was taken into memory.
            lock_seconds: how long to wait for the lock in all, if not as long as always.

        Raises:
            KvBusy: another process kept the lock too long.
            KvUnavailable: the disk refused.
        """
        tenant, session = manifest.tenant, manifest.session
        path = self._manifest_path(fingerprint.hex, tenant, session)
        staging = Staging(os.path.join(self.folder, fingerprint.hex), tenant, session, self._files)
        left, rounds = self._lock_seconds if lock_seconds is None else lock_seconds, 0
        with told_as_ours(), contextlib.closing(staging):
            save = _Save(fingerprint, manifest, pieces, keep, path, staging)
            while True:
                batch = self._exported(save)
                began = self._clock.monotonic()
                with self._changing(max(0.0, left)) as catalogue:
                    left -= self._clock.monotonic() - began
                    if since is not None and self.is_purged(tenant, session, since):
                        return Saved(is_purged=True)
                    self._tidy(catalogue)
                    self._make_model(catalogue, fingerprint)
                    self._reserve(catalogue, save, batch)
                    if not batch:
                        gone = len(pieces) - len(save.out) - len(save.there(catalogue))
                        if not gone or rounds == _MOST_ROUNDS:
                            saved = self._finished(catalogue, save)
                            break
                        rounds += 1
                staging.write(batch)
        self.counters.update(saves=1, written_bytes=saved.bytes, left_out=saved.left_out)
        return saved

    def _exported(self, save: _Save) -> dict[str, bytes]:
        """Return files that are not there yet, as many as are written at a time. No lock is held."""
        batch: dict[str, bytes] = {}
        known: set[str] = set()
        for piece in save.pieces:
            place = state_path(self.folder, save.key(piece.name))
            if piece.name not in save.staging.sizes:
                is_there = place not in self._bad and self.has(save.fingerprint, piece.name)
                is_cut_off = bool(piece.needs) and piece.needs not in known
                # A folder of that name is not ours to remove, and no file can take its place.
                if is_cut_off or (save.is_full and not is_there) or os.path.isdir(place):
                    save.out.add(piece.name)
                elif not is_there and piece.name not in batch:
                    batch[piece.name] = encode(piece.about, piece.ids, piece.export())
                    if sum(map(len, batch.values())) >= _BATCH_BYTES:
                        return batch
            if piece.name not in save.out:
                known.add(piece.name)
        return batch

    def _reserve(self, catalogue: Catalogue, save: _Save, batch: dict[str, bytes]) -> None:
        """Make room for a batch, and note it as taken. What has no room is taken out, from the end."""
        catalogue.ended(save.staging.stem)  # counted anew
        while batch:
            there = save.there(catalogue, batch)
            room = save.room(catalogue, there, batch)
            if self._make_room(catalogue, save.manifest.tenant, room, {save.key(name) for name in there}):
                save.staging.reserve(room)
                return
            save.out.add(batch.popitem()[0])
            save.is_full = True

    def _finished(self, catalogue: Catalogue, save: _Save) -> Saved:
        """Give what was written its names, and the session its manifest."""
        saved, there, tenant = Saved(), save.there(catalogue), save.manifest.tenant
        protected = {save.key(name) for name in there}
        room = save.room(catalogue, there, {})
        if not there or not self._make_room(catalogue, tenant, room, protected):
            saved.left_out = len(save.pieces)
            save.staging.close()
            return saved
        written = {name: size for name, size in save.staging.sizes.items() if name in there}
        save.staging.name({name: state_path(self.folder, save.key(name)) for name in written})
        for name, size in written.items():
            kept = Kept(size, time.time(), there[name], {tenant}, sessions={save.path})
            catalogue.add(save.key(name), kept)
            self._bad.discard(state_path(self.folder, save.key(name)))
        manifest = save.manifest_of(catalogue, there, is_last=True)
        if self._put_manifest(catalogue, save.path, save.fingerprint.hex, manifest, protected):
            self._disown(catalogue, save.path, {save.key(name) for name in manifest.files})
            saved.tokens = max(one.about.first + one.about.tokens for one in save.pieces if one.name in there)
            saved.written, saved.bytes = len(written), sum(written.values())
            saved.shared = len(there) - len(written)
        saved.left_out = len(save.pieces) - saved.written - saved.shared
        # Before others see it, and take what it was given for taken.
        save.staging.close()
        return saved

    def _make_model(self, catalogue: Catalogue, fingerprint: Fingerprint) -> None:
        folder = os.path.join(self.folder, fingerprint.hex)
        path = os.path.join(folder, "model.json")
        if not os.path.exists(path):
            self._files.make_folder(os.path.join(folder, SESSIONS))
            facts = {**fingerprint.facts, "first_used": int(time.time())}
            data = json.dumps(facts, indent=1, ensure_ascii=False).encode()
            # For people: what the store does not need is left out where there is no room for it.
            if self._make_room(catalogue, None, len(data), set()):
                self._put(path, data)
                catalogue.total += len(data)
