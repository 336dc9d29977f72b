"""States that stand for those of a model, and what it takes to put them into a store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lix_cache.kv.block_file import Description
from lix_cache.kv.identity import (
    BLOCK_TOKENS,
    Fingerprint,
    Ids,
    as_ids,
    chain_of,
    fingerprint_of,
    partial_name,
    tenant_digest,
)
from lix_cache.kv.manifest import Manifest
from lix_cache.kv.saving import Piece, Saved
from lix_cache.kv.store import KvStore
from lix_cache.kv.tensors import State, Tensor

__all__ = ["FINGERPRINT", "loaded_tokens", "open_files", "pieces_of", "save_tokens", "state_of", "tokens"]

FINGERPRINT = fingerprint_of({"weights": "one", "engine": "none"})


def tokens(count: int, seed: int = 0) -> Ids:
    """Return some token ids."""
    return as_ids(np.random.default_rng(seed).integers(0, 50_000, count))


def state_of(ids: Ids, layers: int = 2, dim: int = 8) -> State:
    """Return tensors that depend on the ids alone: what a model would make of them."""
    made = {}
    for layer in range(layers):
        for number, half in enumerate("kv"):
            values = np.outer(ids.astype(np.float32) + layer, np.arange(dim) + number + 1)
            made[f"{layer}.{half}"] = Tensor(
                "F32", (1, len(ids), dim), values.astype("<f4").reshape(1, len(ids), dim).tobytes()
            )
    return made


def pieces_of(
    ids: Ids, tenant: str = "", fingerprint: Fingerprint = FINGERPRINT, **changes: Any
) -> list[Piece]:
    """Return the files of a sequence: its blocks, and its tail."""
    chain = chain_of(fingerprint, tenant, ids)
    made = []
    for start in range(0, len(ids), BLOCK_TOKENS):
        part = ids[start : start + BLOCK_TOKENS]
        number = start // BLOCK_TOKENS
        full = len(part) == BLOCK_TOKENS
        about = Description(
            **{
                "kind": "block" if full else "tail",
                "fingerprint": fingerprint.hex,
                "tenant": tenant_digest(tenant).hex(),
                "parent": chain[number],
                "first": start,
                "tokens": len(part),
                "encoding": "native",
                **changes,
            }
        )
        name = chain[number + 1] if full else partial_name(chain[number], ids, len(ids))
        needs = chain[number] if number else ""
        made.append(Piece(name, needs, about, part, lambda part=part: state_of(part)))
    return made


def save_tokens(
    store: KvStore,
    session: str,
    ids: Ids,
    tenant: str = "",
    fingerprint: Fingerprint = FINGERPRINT,
    pinned: bool = False,
) -> Saved:
    """Put a session with these tokens into a store."""
    manifest = Manifest(session, tenant, ids=ids, pinned=pinned)
    return store.save(fingerprint, manifest, pieces_of(ids, tenant, fingerprint))


def loaded_tokens(
    store: KvStore, ids: Ids, tenant: str = "", fingerprint: Fingerprint = FINGERPRINT
) -> Sequence[int]:
    """Return the sizes of the pieces of a sequence that can be restored from its start, checked."""
    found = []
    for piece in pieces_of(ids, tenant, fingerprint):
        state = next(iter(store.load(fingerprint, [(piece.name, piece.about, piece.ids)])), None)
        if state is None:
            break
        expected = state_of(piece.ids)
        assert state.keys() == expected.keys()
        assert all(bytes(state[name].view) == expected[name].view for name in state)
        found.append(len(piece.ids))
    return found


def open_files(folder: Path) -> int:
    """Return how many of the folder's files are open; what other tests left open is theirs."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{fd}").startswith(str(folder))
    return count
