"""How local models run. Pure: no engine is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lix_cache.errors import ConfigError

__all__ = ["ENGINES", "LOCAL_SCHEME", "LocalSettings", "ServerSettings"]

#: What the url of an upstream begins with if it is a model of this machine.
LOCAL_SCHEME = "local:"
ENGINES = ("transformers", "mlx", "llama.cpp")
_MAY_BE_ZERO = frozenset({"threads", "context_tokens"})


@dataclass(frozen=True)
class ServerSettings:
    """A llama-server that runs by itself.

    Attributes:
        url: of it, as an upstream names it behind ``local:``.
        slot_folder: its ``--slot-save-path``, as this process sees it; both run as one user.
        weights: a text that changes with its weights; "" to read its file. What it tells counts too.
        key_env: the variable with its key.
    """

    url: str
    slot_folder: str
    weights: str = ""
    key_env: str = ""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or not self.slot_folder:
            raise ConfigError("a server of local.servers needs an http url, and slot_folder")


@dataclass(frozen=True)
class LocalSettings:
    """All local models of a gateway share these.

    Attributes:
        folder: where states are kept; "" for ``LIX_CACHE_KV_DIR``, else ``./data/kv``.
        budget_bytes: the most that may lie there, of all models and processes.
        quotas: the most bytes of a tenant there, by name; ``*`` is for all others.
        memory_bytes: of states in memory.
        encoding: of the files: ``native``, ``zstd``, ``q8``, ``q4``.
        idle_seconds: a session that was not used for so long is written.
        engine: ``transformers``, ``mlx`` or ``llama.cpp``; "" goes by the model's form and what is installed.
        context_tokens: the most tokens of a sequence; 0 is the model's own, or 4,096 in llama.cpp.
        slots: sequences that llama.cpp computes at once.
        threads: to compute with; 0 is the engine's choice.
        dtype: of transformers' weights and states; ``auto`` is the file's.
        most_waiting: requests that wait for the model; more are refused.
        drain_seconds: how long an exchange of the model waits for replies.
        servers: the llama-servers at a URL that may be used.
    """

    folder: str = ""
    budget_bytes: int = 16 << 30
    quotas: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 2 << 30
    encoding: str = "native"
    idle_seconds: float = 60.0
    engine: str = ""
    context_tokens: int = 0
    slots: int = 4
    threads: int = 0
    dtype: str = "auto"
    most_waiting: int = 64
    drain_seconds: float = 60.0
    servers: tuple[ServerSettings, ...] = ()

    def __post_init__(self) -> None:
        for name in ("budget_bytes", "memory_bytes", "context_tokens", "slots", "threads", "most_waiting"):
            if getattr(self, name) < (0 if name in _MAY_BE_ZERO else 1):
                least = "at least 0" if name in _MAY_BE_ZERO else "larger than 0"
                raise ConfigError(f"local.{name} must be {least}, got {getattr(self, name)}")
        if not (0 <= self.idle_seconds < 1e9 and 0 < self.drain_seconds < 1e9):
            seconds = f"got {self.idle_seconds:g} and {self.drain_seconds:g}"
            raise ConfigError(f"local.idle_seconds and local.drain_seconds must be seconds, {seconds}")
        if self.engine not in ("", *ENGINES):
            raise ConfigError(f"local.engine must be one of {', '.join(ENGINES)}")
        self.quota_bytes()

    def server(self, url: str) -> ServerSettings:
        """Return what is known of the llama-server at a URL.

        Raises:
            ConfigError: nothing is.
        """
        for one in self.servers:
            if one.url.rstrip("/") == url.rstrip("/"):
                return one
        raise ConfigError("a llama-server at a URL needs an entry of local.servers: its url and slot_folder")

    def quota_bytes(self) -> dict[str, int]:
        """Return the quotas as numbers.

        Raises:
            ConfigError: one is none.
        """
        if not all(text.isdecimal() for text in self.quotas.values()):
            raise ConfigError("local.quotas must be numbers of bytes, written as texts")
        return {name: int(text) for name, text in self.quotas.items()}
