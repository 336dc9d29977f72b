"""From the name of a local model to the model, with its store."""

from __future__ import annotations

import os
from importlib.util import find_spec

from lix_cache.errors import ConfigError, MissingExtra
from lix_cache.gateway.local.settings import LocalSettings
from lix_cache.gateway.local.store import opened_store
from lix_cache.kv.engine import Engine
from lix_cache.kv.local_model import LocalModel

__all__ = ["check_target", "engine_for", "load_model"]

_PACKAGES = {"transformers": ("torch", "transformers"), "mlx": ("mlx_lm",), "llama.cpp": ("xllamacpp",)}
_EXTRAS = {"transformers": "transformers", "mlx": "mlx", "llama.cpp": "llama-cpp"}


def is_server(target: str) -> bool:
    """Whether a model is that of a llama-server at a URL."""
    return target.startswith(("http://", "https://"))


def check_target(target: str, settings: LocalSettings) -> str:
    """Return the engine of a model, without loading it; "server" is a llama-server at a URL.

    Raises:
        ConfigError: there is no such model, or the engine cannot load it.
        MissingExtra: the engine is not installed.
    """
    if is_server(target):
        settings.server(target)
        return "server"
    path = os.path.expanduser(target)
    if not os.path.exists(path):
        raise ConfigError(f"there is no local model at {target!r}; name a model's folder, or a GGUF file")
    if not os.path.isdir(path):
        kind = "llama.cpp"
    elif settings.engine:
        kind = settings.engine
    else:
        kind = "transformers" if _is_installed("transformers") or not _is_installed("mlx") else "mlx"
    if settings.engine not in ("", kind):
        raise ConfigError(f"{settings.engine} loads no file {target!r}; it wants a model's folder")
    if kind == "llama.cpp" and os.path.isdir(path):
        raise ConfigError(f"llama.cpp loads a GGUF file, and {target!r} is a folder")
    if not _is_installed(kind):
        raise MissingExtra(" and ".join(_PACKAGES[kind]), _EXTRAS[kind], f"the local model {target!r}")
    return kind


def _is_installed(kind: str) -> bool:
    return all(find_spec(name) is not None for name in _PACKAGES[kind])


def engine_for(target: str, settings: LocalSettings) -> Engine:
    """Load a model. It takes as long as its weights are large.

    Raises:
        ConfigError, MissingExtra: as of :func:`check_target`.
        EngineError: the engine refused it.
    """
    kind = check_target(target, settings)
    path = os.path.expanduser(target)
    context = settings.context_tokens
    if kind == "transformers":
        from lix_cache.kv.engines.transformers import TransformersEngine

        if settings.threads:
            import torch

            torch.set_num_threads(settings.threads)
        return TransformersEngine.load(path, dtype=settings.dtype, context_tokens=context or None)
    if kind == "mlx":
        from lix_cache.kv.engines.mlx import MlxEngine

        return MlxEngine.load(path, context_tokens=context or None)
    from lix_cache.kv.engines.llama_cpp import LlamaServerEngine

    if kind == "server":
        server = settings.server(target)
        return LlamaServerEngine(
            server.url,
            slot_folder=os.path.expanduser(server.slot_folder),
            weights=server.weights or None,
            api_key=os.environ.get(server.key_env, "").strip() if server.key_env else None,
        )
    return LlamaServerEngine.load(
        path, context_tokens=context or 4096, slots=settings.slots, threads=settings.threads or None
    )


def load_model(target: str, settings: LocalSettings) -> LocalModel:
    """Load a model with the store of all local models, and write its idle sessions behind.

    Raises:
        LixCacheError: it cannot be loaded.
    """
    engine = engine_for(target, settings)
    model = LocalModel(
        engine,
        opened_store(settings, tidy=True),
        memory_bytes=settings.memory_bytes,
        idle_seconds=settings.idle_seconds,
        encoding=settings.encoding,
    )
    model.start()
    return model
