"""The doctor: find out, then judge."""

from __future__ import annotations

from importlib.util import find_spec

from lix_cache.admin.judge import CODEC_PACKAGES, judge_disk, judge_extras, judge_redis
from lix_cache.admin.probe import look_at_disk, look_at_redis
from lix_cache.admin.results import Check
from lix_cache.session.store import SessionStore

__all__ = ["examine"]


def examine(store: SessionStore) -> list[Check]:
    """Look at the server, the archive folder and the installation."""
    return [
        *judge_redis(look_at_redis(store), store.config),
        *judge_disk(look_at_disk(store)),
        judge_extras([name for name in CODEC_PACKAGES.values() if find_spec(name) is None], store.config),
    ]
