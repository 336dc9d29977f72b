"""A fresh process of the chaos test that reads everything in every way, and prints it as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lix_cache import (
    AsyncHybridConversationCache,
    CacheConfig,
    ConversationArchive,
    HybridConversationCache,
    LixCacheError,
    close_async_redis_clients,
)


class Reader:
    """Reads, and keeps what it read.

    Attributes:
        full: for each way of reading, the texts of each session.
        context: for each way of reading, context and everything of each session.
        troubles: what failed although all was well.
    """

    def __init__(self, settings: dict[str, Any], sessions: list[str]) -> None:
        self.config = CacheConfig(**settings)
        self.sessions = sessions
        self.full: dict[str, dict[str, list[Any]]] = {}
        self.context: dict[str, dict[str, tuple[list[Any], list[Any]]]] = {}
        self.troubles: list[dict[str, str]] = []

    def read(self, when: str, *, context: bool) -> None:
        """Read by both kinds of objects."""
        self._sync(f"sync {when}", context=context)
        asyncio.run(self._async(f"async {when}", context=context))

    def _sync(self, view: str, *, context: bool) -> None:
        for session in self.sessions:
            cache = HybridConversationCache(session, self.config)
            full = self.tried(view, cache.get_full)
            recent = self.tried(view, cache.get_context) if context else None
            self._keep(view, session, full, recent)

    async def _async(self, view: str, *, context: bool) -> None:
        for session in self.sessions:
            cache = AsyncHybridConversationCache(session, self.config)
            full = recent = None
            try:
                full = await cache.get_full()
                recent = await cache.get_context() if context else None
            except Exception as error:
                self._trouble(view, error)
            self._keep(view, session, full, recent)
        await close_async_redis_clients()

    def archive(self, view: str) -> None:
        """Read without Redis."""
        archive = ConversationArchive(self.config.archive_dir)
        for session in self.sessions:
            full = self.tried(view, partial(archive.load_all, session))
            # None is an answer here: there is no such session.
            if full is not None or not self.troubles:
                self._keep(view, session, full or [], None)

    def round(self) -> None:
        """Do what a daemon does, once without trouble."""
        cache = HybridConversationCache(self.sessions[0], self.config)
        self._patiently("an evictor round", cache.evictor.run_once)

    def flush(self) -> None:
        for session in self.sessions:
            self._patiently("flush_to_disk", HybridConversationCache(session, self.config).flush_to_disk)

    def _patiently(self, what: str, call: Callable[[], Any]) -> None:
        for attempt in range(5):
            try:
                call()
                return
            except LixCacheError as error:
                if attempt == 4:
                    self._trouble(what, error)
                time.sleep(0.3)
            except Exception as error:
                self._trouble(what, error)
                return

    def tried(self, view: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            self._trouble(view, error)
            return None

    def _keep(self, view: str, session: str, full: Any, context: Any) -> None:
        if full is not None:
            texts = [message["content"] for message in full]
            self.full.setdefault(view, {})[session] = texts
            if context is not None:
                recent = [message["content"] for message in context]
                self.context.setdefault(view, {})[session] = (recent, texts)

    def _trouble(self, what: str, error: Exception) -> None:
        detail = f"{what} when all was well: {type(error).__name__}: {str(error)[:200]}"
        kind = "stuck" if isinstance(error, LixCacheError) else "error"
        self.troubles.append({"kind": kind, "detail": detail})


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    reader = Reader(spec["settings"], spec["sessions"])
    # First as it was left: what get_full promises does not rest on a daemon.
    reader.read("as it was left", context=False)
    reader.round()
    reader.read("after a round", context=True)
    reader.flush()
    reader.archive("the archive")
    reader.read("after a flush", context=True)
    json.dump({"full": reader.full, "context": reader.context, "troubles": reader.troubles}, sys.stdout)


if __name__ == "__main__":
    main()
