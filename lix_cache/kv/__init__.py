"""Persistent state of local models: conversations resume without prefill, after a restart too.

::

    from lix_cache.kv import KvStore, LocalModel, TransformersEngine

    model = LocalModel(TransformersEngine.load("models/my-model"), KvStore("data/kv"))
    reply = model.generate([{"role": "user", "content": "Hello"}], session="user-abc")
    for piece in reply:
        print(piece, end="")
    model.close()

Names are loaded when they are first used; no engine is imported before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lix_cache.kv.engine import Engine
    from lix_cache.kv.engines.llama_cpp import LlamaServerEngine
    from lix_cache.kv.engines.mlx import MlxEngine
    from lix_cache.kv.engines.transformers import TransformersEngine
    from lix_cache.kv.inspection import FileCheck, Session, StoreStats, explain, sessions, store_stats, verify
    from lix_cache.kv.local_model import LocalModel
    from lix_cache.kv.miss import Miss
    from lix_cache.kv.reply import Reply, Usage
    from lix_cache.kv.store import KvStore
    from lix_cache.kv.swap import SwappableModel

_HOMES = {
    "Engine": "engine",
    "FileCheck": "inspection",
    "KvStore": "store",
    "LlamaServerEngine": "engines.llama_cpp",
    "LocalModel": "local_model",
    "Miss": "miss",
    "MlxEngine": "engines.mlx",
    "Reply": "reply",
    "Session": "inspection",
    "SwappableModel": "swap",
    "StoreStats": "inspection",
    "TransformersEngine": "engines.transformers",
    "Usage": "reply",
    "explain": "inspection",
    "sessions": "inspection",
    "store_stats": "inspection",
    "verify": "inspection",
}

__all__ = [
    "Engine",
    "FileCheck",
    "KvStore",
    "LlamaServerEngine",
    "LocalModel",
    "Miss",
    "MlxEngine",
    "Reply",
    "Session",
    "StoreStats",
    "SwappableModel",
    "TransformersEngine",
    "Usage",
    "explain",
    "sessions",
    "store_stats",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'lix_cache.kv' has no attribute {name!r}")
    value = getattr(import_module(f"lix_cache.kv.{home}"), name)
    globals()[name] = value
    return value
