"""From stored ids and what is known of them to what the administration answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lix_cache.admin.results import SessionInfo
from lix_cache.errors import told
from lix_cache.messages.session_key import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lix_cache.admin.moving_over import Left
    from lix_cache.archive.facts import SessionMetadata
    from lix_cache.errors import LixCacheError
    from lix_cache.messages.session_key import SessionName

__all__ = ["by_namespace", "info_of", "told_of"]


def info_of(
    session_id: str,
    size: tuple[int, int],
    meta: SessionMetadata | None,
    last_use: float,
    left: Left | None,
) -> SessionInfo:
    return SessionInfo(
        session_id=shown(session_id),
        hot_messages=size[0] + (left.messages if left else 0),
        cold_messages=meta.num_turns if meta else 0,
        last_use=last_use,
        redis_bytes=size[1],
        disk_bytes=meta.size_bytes if meta else 0,
    )


def told_of(failed: Mapping[str, LixCacheError]) -> dict[SessionName, str]:
    return {shown(sid): told(error) for sid, error in failed.items()}


def by_namespace(session: SessionName) -> tuple[str, str]:
    return ("", session) if isinstance(session, str) else (session.namespace or "", session.id)
