"""Under asyncio no file is touched on the loop's thread: a file system that hangs stops no other task."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lix_cache import (
    AsyncCacheCoordinator,
    AsyncConversationArchive,
    AsyncHybridConversationCache,
    AsyncSessionContextWindow,
    CacheConfig,
    close_async_redis_clients,
)
from tests.support import RedisServer

pytestmark = pytest.mark.promise("no-stall")

#: What the interpreter says before it does them. ``stat``, ``flock``'s file and the rest are
#: not among them, so those are wrapped below.
_EVENTS = ("open", "os.", "fcntl.", "shutil.")
_WRAPPED = (
    "stat",
    "lstat",
    "fstat",
    "open",
    "pread",
    "pwrite",
    "fsync",
    "close",
    "unlink",
    "replace",
    "utime",
)

_watching: list[tuple[int, str, list[str]]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    for thread, folder, heard in _watching:
        on_loop = threading.get_ident() == thread
        if on_loop and event.startswith(_EVENTS) and (event.startswith("fcntl") or folder in repr(arguments)):
            heard.append(f"{event} {arguments!r}")


sys.addaudithook(_hear)


@contextmanager
def watched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Hear of every file below a folder that this thread touches."""
    import os

    heard: list[str] = []
    me = threading.get_ident()

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            # A number is an open file: of ours, where the caller is.
            path_is_ours = bool(args) and str(folder) in repr(args[0])
            ours = "lix_cache" in sys._getframe(1).f_code.co_filename
            if threading.get_ident() == me and (path_is_ours or ours):
                heard.append(f"os.{name} {args!r}")
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for name in _WRAPPED:
            patched.setattr(os, name, wrapped(name, getattr(os, name)))
        _watching.append((me, str(folder), heard))
        try:
            yield heard
        finally:
            _watching.clear()


def test_it_is_heard_when_a_file_is_touched_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl
    import os

    with watched(tmp_path, monkeypatch) as heard:
        with (tmp_path / "file").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
        os.stat(tmp_path / "file")
        os.listdir(tmp_path)
    assert [any(word in text for text in heard) for word in ("open", "flock", "os.stat", "listdir")] == [
        True
    ] * 4


@pytest.mark.parametrize("durability", ["redis", "disk"])
def test_no_session_touches_a_file_on_the_loop(
    redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    config = redis_config.replace(hot_window_size=4, archive_batch_turns=2, durability=durability)
    folder = Path(config.archive_dir).parent

    async def main() -> list[str]:
        cache = AsyncHybridConversationCache("s", config)
        window = AsyncSessionContextWindow("w", config)
        coordinator = AsyncCacheCoordinator("c", config)

        async def add_many() -> None:
            for number in range(20):
                await cache.add_message("user", f"message {number}")

        steps: list[Callable[[], Awaitable[Any]]] = [
            lambda: cache.add_message("user", "first"),
            cache.get_context,
            add_many,
            cache.get_full,
            cache.flush_to_disk,
            cache.get_context,
            lambda: cache.smart_context("message"),
            cache.get_formatted_context,
            cache.get_stats,
            cache.clear,
            lambda: cache.add_message("user", "after"),
            cache.get_context,
            cache.delete_session,
            cache.get_context,
            lambda: window.add_message("user", "hello"),
            window.get_context,
            window.get_full_history,
            lambda: window.smart_context("hello"),
            window.flush_to_disk,
            window.get_stats,
            window.clear,
            lambda: coordinator.add_message_to_context("user", "hello"),
            coordinator.get_context_messages,
            coordinator.get_formatted_context,
            coordinator.get_stats,
            coordinator.clear_context,
        ]
        with watched(folder, monkeypatch) as heard:
            for step in steps:
                await step()
        await close_async_redis_clients()
        return heard

    assert asyncio.run(main()) == []


def test_no_session_touches_a_file_on_the_loop_while_redis_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path / "a", evictor_enabled=False, redis_retry_seconds=0.001)

        async def main() -> list[str]:
            cache = AsyncHybridConversationCache("s", config)
            with watched(tmp_path, monkeypatch) as heard:
                await cache.add_message("user", "before")
                server.stop()
                await cache.add_message("user", "during")
                await cache.get_context()
                await cache.get_full()
                server.start()
                await asyncio.sleep(0.01)
                await cache.add_message("user", "after")
                await cache.get_context()
            await close_async_redis_clients()
            return heard

        assert asyncio.run(main()) == []


def test_no_archive_touches_a_file_on_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> list[str]:
        archive = AsyncConversationArchive(tmp_path / "a")
        turn = {"role": "user", "content": "hello", "embedding": [1.0, 0.0]}
        steps: list[Callable[[], Awaitable[Any]]] = [
            lambda: archive.append_turn("s", turn),
            lambda: archive.append_turns("s", [turn, turn]),
            lambda: archive.load_all("s"),
            lambda: archive.load_recent("s", 2),
            lambda: archive.search_by_text("s", "hello"),
            lambda: archive.search_by_embedding("s", [1.0, 0.0]),
            lambda: archive.session_exists("s"),
            lambda: archive.get_metadata("s"),
            archive.list_sessions,
            archive.expired_sessions,
            lambda: archive.compact(idle_seconds=0),
            lambda: archive.verify("s"),
            archive.verify_all,
            archive.cleanup_expired,
            lambda: archive.delete_session("s"),
        ]
        with watched(tmp_path, monkeypatch) as heard:
            for step in steps:
                await step()
        return heard

    assert asyncio.run(main()) == []
