"""The sessions of one namespace, wherever they are. See lix_cache.effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lix_cache.admin.flows import find_keys
from lix_cache.effects import DiskCall, Flow
from lix_cache.hot.keys import escape_pattern
from lix_cache.messages.session_key import in_namespace
from lix_cache.session import rounds

if TYPE_CHECKING:
    from lix_cache.archive.cold_tier import ColdTier
    from lix_cache.session.store import SessionStore

__all__ = ["all_of"]


def all_of(store: SessionStore, start: str) -> Flow[list[str]]:
    """Return the stored ids of all sessions of a namespace, sorted: hot, cold, damaged, in the trash.

    Args:
        store: the tiers.
        start: what the stored ids of the namespace begin with.
    """
    # The index does not name a window whose index was lost; the windows do not name what is overdue.
    found = set((yield from rounds.list_hot(store))) | (yield from _windows(store, start))
    found |= yield DiskCall(lambda: _archived(store.cold))
    return sorted(one for one in found if in_namespace(one, start))


def _windows(store: SessionStore, start: str) -> Flow[set[str]]:
    before, between = f"{store.hot.keys.prefix}:{{", f"}}:win:{start}"
    keys = yield from find_keys(f"{escape_pattern(before)}*{escape_pattern(between)}*")
    # The id of another session may hold what stands between: the first brace is ours.
    return {key.partition(b"}:win:")[2].decode("utf-8", "replace") for key in keys}


def _archived(cold: ColdTier) -> set[str]:
    # By the stamps: they name damaged files as well.
    stamped = {one.session_id for one in cold.stamps()}
    return stamped | {one.session_id for one in cold.trashed()} | set(cold.pending_sessions())
