"""The README's examples are run as they stand, each in a folder of its own, against a real server."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest

from lix_cache.config import CacheConfig
from tests.support import RedisServer

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def test_the_readme_shows_each_of_the_ways_to_use_it() -> None:
    text = "\n".join(BLOCKS)
    for name in (
        "CacheCoordinator",
        "HybridConversationCache",
        "ConversationArchive",
        "HuffmanCodec",
        "SemanticCache",
    ):
        assert name in text


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_example_of_the_readme_runs(
    block: str,
    redis_server: RedisServer,
    redis_config: CacheConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Only where the server is, and under which prefix, differs from what a reader has.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIX_CACHE_REDIS_URL", f"unix://{quote(str(redis_server.socket_path))}")
    original = CacheConfig.__init__

    def here(self: CacheConfig, **settings: object) -> None:
        settings.setdefault("redis_key_prefix", redis_config.redis_key_prefix)
        settings["redis_port"] = redis_server.port
        original(self, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(CacheConfig, "__init__", here)
    exec(compile(block, str(README), "exec"), {"__name__": "readme"})
