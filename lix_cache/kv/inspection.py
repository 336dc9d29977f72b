"""Looking after a store: what is in it, whether it is intact, and why a prompt was not found."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from lix_cache.errors import InvalidInput
from lix_cache.kv.block_file import NotThisState, described
from lix_cache.kv.catalogue import Catalogue, state_path
from lix_cache.kv.identity import BLOCK_TOKENS, fingerprint_of, name_of, tenant_digest
from lix_cache.kv.manifest import Manifest
from lix_cache.kv.mapped import mapped
from lix_cache.kv.miss import Miss, common_prefix, miss_between
from lix_cache.kv.reader import KvReader

__all__ = [
    "FileCheck",
    "Session",
    "StoreStats",
    "check_session",
    "explain",
    "sessions",
    "store_stats",
    "verify",
]


@dataclass(frozen=True)
class Session:
    """A session with a state in the store.

    Attributes:
        session, tenant: as the application named them.
        model: what is known of the model: engine and digest of the weights.
        fingerprint: of it.
        tokens: of the sequence.
        stored_tokens: how many of them resume from disk.
        bytes: of its files, shared ones included.
        shared_bytes: of files that other sessions have as well.
        used: when it was used last, Unix seconds.
        pinned: whether it is kept from eviction.
    """

    session: str
    tenant: str
    model: str
    fingerprint: str
    tokens: int
    stored_tokens: int
    bytes: int
    shared_bytes: int
    used: float
    pinned: bool


@dataclass(frozen=True)
class StoreStats:
    """The numbers of a store.

    Attributes:
        bytes: of all files below its folder.
        files, sessions, models, tenants: how many there are.
        shared_files: that more than one session has.
        saved_bytes: that sharing saves.
        garbage_files: that the next change removes.
        bytes_of_tenants: by name.
    """

    bytes: int
    files: int
    sessions: int
    models: int
    tenants: int
    shared_files: int
    saved_bytes: int
    garbage_files: int
    bytes_of_tenants: dict[str, int]


@dataclass(frozen=True)
class FileCheck:
    """What a look at every byte of a state file found.

    Attributes:
        file: its path below the store.
        bytes: of it.
        problem: what is wrong; "" if nothing is.
    """

    file: str
    bytes: int
    problem: str


def sessions(store: KvReader, tenant: str | None = None) -> list[Session]:
    """Return the sessions of a store, the one used last first."""
    catalogue = store.catalogue()
    models: dict[str, str] = {}
    found = []
    for fingerprint, manifest, _ in catalogue.manifests.values():
        if tenant not in (None, manifest.tenant):
            continue
        if fingerprint not in models:
            models[fingerprint] = _model(store, fingerprint)
        kept = [
            catalogue.files[fingerprint, name]
            for name in manifest.files
            if (fingerprint, name) in catalogue.files
        ]
        found.append(
            Session(
                manifest.session,
                manifest.tenant,
                models[fingerprint],
                fingerprint,
                len(manifest.ids),
                _stored_tokens(catalogue, fingerprint, manifest),
                sum(one.size for one in kept),
                sum(one.size for one in kept if len(one.sessions) > 1),
                max(one.used for one in kept),
                manifest.pinned,
            )
        )
    return sorted(found, key=lambda one: -one.used)


def store_stats(store: KvReader) -> StoreStats:
    """Return the numbers of a store."""
    catalogue = store.catalogue()
    shared = [one for one in catalogue.files.values() if len(one.sessions) > 1]
    tenants: Counter[str] = Counter({name: size for name, size in catalogue.tenants.items() if size})
    return StoreStats(
        catalogue.total,
        len(catalogue.files),
        len(catalogue.manifests),
        len({fingerprint for fingerprint, _ in catalogue.files}),
        len(tenants),
        len(shared),
        sum(one.size * (len(one.sessions) - 1) for one in shared),
        len(catalogue.garbage),
        dict(tenants.most_common()),
    )


def agents_of(store: KvReader, tenant: str) -> int:
    """Return how many agents of a tenant have their conversations in the store."""
    return len(store.catalogue().kept.get(tenant_digest(tenant).hex(), ()))


def verify(store: KvReader) -> Iterator[FileCheck]:
    """Look at every byte of every state file, and whether its name is that of what is in it."""
    for key, kept in store.catalogue().files.items():
        path = state_path(store.folder, key)
        problem = ""
        try:
            about, ids = described(mapped(path))
            if about.fingerprint != key[0]:
                problem = "it is of another model"
            elif key[1] != name_of(about.kind, about.parent, ids, about.first + about.tokens):
                problem = "it holds other tokens than its name says"
        except (NotThisState, ValueError) as error:
            problem = str(error)
        except FileNotFoundError:
            continue  # evicted meanwhile
        except OSError as error:
            problem = f"it cannot be read ({type(error).__name__})"
        yield FileCheck(os.path.relpath(path, store.folder), kept.size, problem)


def check_session(store: KvReader, session: str, tenant: str = "") -> None:
    """Do nothing if a tenant has a session in the store.

    Raises:
        InvalidInput: it has none of that name.
    """
    if not any(store.catalogue().sessions(tenant, session)):
        raise _unknown(store, session, tenant)


def _unknown(store: KvReader, session: str, tenant: str) -> InvalidInput:
    others = sorted({one.tenant for one in sessions(store) if one.session == session})
    whose = f"tenant {tenant!r}" if tenant else "the tenant without a name"
    if others:
        hint = f"one of that name is of {', '.join(repr(one or '-') for one in others[:5])}: give --tenant"
    else:
        hint = "it is written when it was idle (idle_seconds, 60 by default), and when the model is closed"
    return InvalidInput(f"the store has no session {session!r} of {whose}; {hint}")


def explain(store: KvReader, session: str, tenant: str = "") -> tuple[Miss | None, str]:
    """Return where a session leaves the nearest other one of its tenant, and the other's id.

    Raises:
        InvalidInput: there is no such session.
    """
    manifests = [
        (fingerprint, one)
        for fingerprint, one, _ in store.catalogue().manifests.values()
        if one.tenant == tenant
    ]
    mine = [(fingerprint, one) for fingerprint, one in manifests if one.session == session]
    if not mine:
        raise _unknown(store, session, tenant)
    fingerprint, asked = mine[0]
    others = [one for model, one in manifests if model == fingerprint and one.session != session]
    nearest = max(others, key=lambda one: common_prefix(asked.ids, one.ids), default=None)
    if nearest is None:
        return None, ""
    return miss_between(asked.ids, nearest.ids, asked.parts, nearest.session), nearest.session


def _stored_tokens(catalogue: Catalogue, fingerprint: str, manifest: Manifest) -> int:
    """Return the tokens that the files of a session hold without a gap. Eviction takes them from the end."""
    blocks = [name for name in manifest.files if "-" not in name]
    there = sum((fingerprint, name) in catalogue.files for name in blocks)
    partial = [
        int(name.split("-")[1])
        for name, needs in manifest.files.items()
        if "-" in name and (fingerprint, name) in catalogue.files
    ]
    return min(len(manifest.ids), max([there * BLOCK_TOKENS, *partial]))


def _model(store: KvReader, fingerprint: str) -> str:
    try:
        with open(os.path.join(store.folder, fingerprint, "model.json"), encoding="utf-8") as file:
            facts = json.load(file)
        facts.pop("first_used", None)
        # It is for people; what does not make the fingerprint is not about this model.
        if fingerprint_of({k: v for k, v in facts.items() if k != "layout"}).hex != fingerprint:
            return "?"
        return f"{facts.get('engine', '?')} {str(facts.get('weights', '?'))[:12]}"
    except (OSError, ValueError, AttributeError, TypeError):
        return "?"
