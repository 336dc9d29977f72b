"""No secret stands in an error, a log line or a repr: planted words are looked for everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import io
import json
import logging
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

import lix_cache
from lix_cache import CacheConfig, CachePolicy, HybridConversationCache, LixCacheError, StoreAdmin, Thresholds
from lix_cache.embedders.http import OpenAIEmbedder
from lix_cache.errors import ConfigError, InvalidInput, RedisError
from lix_cache.hot.clients import close_async_redis_clients, create_async_redis_client, create_redis_client
from tests.support import RedisServer
from tests.support.redis_server import free_port

pytestmark = pytest.mark.promise("no-leak")

#: No part of a password may be seen, wherever a URL is cut: each half is looked for.
LEFT, RIGHT = "plantedleft", "plantedright"


class Ear:
    """Everything that could be seen: reprs, errors with all that hangs on them, logs and prints."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def listen(self, call: Callable[[], Any]) -> BaseException | None:
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                result = call()
        except Exception as error:
            self.hear_error(error)
            return error
        finally:
            self.heard.append(out.getvalue())
        self.heard += [repr(result), str(result)]
        return None

    def hear_error(self, error: BaseException) -> None:
        # Not this file's own lines, in which the words are planted.
        lines = "".join(traceback.format_exception(error)).splitlines()
        self.heard += [line for line in lines if not line.startswith("    ")]
        seen: set[int] = set()
        todo: list[BaseException | None] = [error]
        while todo:
            one = todo.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            self.heard += [str(one), repr(one), repr(one.args), repr(vars(one))]
            # Also what "from None" hides: reporters show it all the same.
            todo += [one.__cause__, one.__context__]

    def leaks(self, *secrets: str) -> list[str]:
        return [text for text in self.heard if any(secret in text for secret in secrets)]


@pytest.fixture
def ear() -> Iterator[Ear]:
    made = Ear()
    sink = logger.add(lambda line: made.heard.append(str(line)), level=0, diagnose=False)
    logger.enable("lix_cache")
    handler = logging.Handler(0)
    handler.emit = lambda record: made.heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    yield made
    logger.remove(sink)
    logging.getLogger().removeHandler(handler)


#: Characters that mean something in a URL, and what they would be taken for.
SPECIAL = ["/", "#", "?", "[", "]", "@", ":", "//", "/0@", "?a=", "#@", "\\", " ", "%", "\u2100", "&", "="]


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix"])
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("user", ["", "user", "12"])
def test_no_part_of_an_unescaped_password_in_a_url_is_shown(
    ear: Ear, scheme: str, special: str, user: str
) -> None:
    place = "/run/no.sock" if scheme == "unix" else f"127.0.0.1:{free_port()}/0"
    for left in (LEFT, "6379"):
        url = f"{scheme}://{user}:{left}{special}{RIGHT}@{place}"

        def use(url: str = url) -> Any:
            cache = HybridConversationCache("s", CacheConfig(redis_url=url, evictor_enabled=False))
            ear.heard += [repr(cache), repr(cache._store.endpoint), cache._store.endpoint.label]
            return cache.get_context()

        assert isinstance(ear.listen(use), LixCacheError)
        digits = [f":{left}"] if left.isdigit() else []
        assert ear.leaks(LEFT, RIGHT, *digits) == []


@pytest.mark.parametrize(
    "url",
    [
        f"redis://127.0.0.1?{LEFT}=1",
        f"redis://127.0.0.1:{LEFT}",
        f"{LEFT}://127.0.0.1",
        f"{LEFT}",
        f"redis://{LEFT}@[::1",
        f"redis://127.0.0.1?db={LEFT}",
        f"redis://127.0.0.1?socket_timeout={LEFT}",
        f"redis://127.0.0.1#{LEFT}",
        f"unix://{LEFT}/run/no.sock",
        f"unix://{LEFT}",
        f"unix://:{LEFT}@",
    ],
)
def test_no_part_of_a_url_that_makes_no_sense_is_shown(ear: Ear, url: str) -> None:
    settings: list[Callable[[], Any]] = [
        lambda: create_redis_client(config=CacheConfig(redis_url=url)),
        lambda: create_redis_client(config=CacheConfig.from_env("P", {"P_REDIS_URL": url})),
        lambda: StoreAdmin(CacheConfig(redis_url=url)).doctor(),
    ]
    assert [type(ear.listen(use)) for use in settings[:2]] == [ConfigError] * 2
    ear.listen(settings[2])
    assert ear.leaks(LEFT) == []


def test_a_url_with_an_escaped_password_is_read(ear: Ear, redis_server: RedisServer, tmp_path: Path) -> None:
    with RedisServer(requirepass="a/b#c?d@e") as server:
        config = CacheConfig(redis_url=f"redis://:a%2Fb%23c%3Fd%40e@127.0.0.1:{server.port}/7")
        assert create_redis_client(config=config).ping()


def test_a_wrong_password_is_not_shown(ear: Ear, tmp_path: Path) -> None:
    with RedisServer(requirepass="right") as server:
        config = server.config(archive_dir=tmp_path, evictor_enabled=False).replace(redis_password=LEFT)
        cache = HybridConversationCache("s", config)
        answers = lix_cache.SemanticCache(lix_cache.HashingEmbedder(), config, context={"tenant": "t"})
        uses: list[Callable[[], Any]] = [
            lambda: cache.add_message("user", "hello"),
            cache.get_context,
            cache.get_full,
            cache.flush_to_disk,
            cache.get_stats,
            lambda: create_redis_client(config=config),
            lambda: asyncio.run(_create_async(config)),
            lambda: answers.lookup("what is it?"),
            lambda: answers.store("what is it?", "this"),
            answers.health_check,
            answers.get_stats,
            lambda: StoreAdmin(config).doctor(),
            lambda: StoreAdmin(config).stats(),
            lambda: (config, cache, cache._store, cache._drive, cache._drive.client, cache.evictor.store),
            lambda: (cache._drive.client.connection_pool, cache._store.identity, answers, vars(cache)),
            lambda: cache.evictor.run_once(),
        ]
        errors = [ear.listen(use) for use in uses]
    assert sum(isinstance(error, RedisError) for error in errors) >= 8
    assert ear.leaks(LEFT) == []


async def _create_async(config: CacheConfig) -> Any:
    try:
        client = await create_async_redis_client(config=config)
        return repr(client)
    finally:
        await close_async_redis_clients()


def test_the_password_of_a_live_connection_is_in_no_repr(ear: Ear, tmp_path: Path) -> None:
    with RedisServer(requirepass=LEFT) as server:
        config = server.config(archive_dir=tmp_path, evictor_enabled=False)
        client = create_redis_client(config=config)
        pool: Any = client.connection_pool
        ear.listen(lambda: (client, pool, config, pool._places.all(), client.pipeline()))

        async def main() -> None:
            other = await create_async_redis_client(config=config)
            pool: Any = other.connection_pool
            ear.heard += [repr(other), repr(pool), repr(pool._ready)]
            await close_async_redis_clients()

        asyncio.run(main())
    assert ear.leaks(LEFT) == []


def test_a_server_that_repeats_the_password_in_its_error_is_not_quoted(ear: Ear, tmp_path: Path) -> None:
    with _parrot() as port:
        config = CacheConfig(
            redis_host="127.0.0.1", redis_port=port, redis_password=LEFT, archive_dir=str(tmp_path),
            evictor_enabled=False, on_redis_error="raise",
        )  # fmt: skip
        error = ear.listen(lambda: HybridConversationCache("s", config).get_context())
        assert isinstance(error, RedisError)
        ear.listen(lambda: asyncio.run(_create_async(config)))
    assert ear.leaks(LEFT) == []


@contextlib.contextmanager
def _parrot() -> Iterator[int]:
    """A server that does not know AUTH, and says so as old ones do: with all that it was sent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    while data := client.recv(65536):
                        words = data.decode(errors="replace").replace("\r\n", " ")
                        client.sendall(f"-ERR unknown command, beginning with: {words}\r\n".encode())

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize("value", [b"planted", 70_447_744, ["planted"], {"planted": 1}])
@pytest.mark.parametrize("name", ["redis_password", "redis_url"])
def test_a_secret_of_a_wrong_type_is_not_shown(ear: Ear, name: str, value: Any) -> None:
    assert isinstance(ear.listen(lambda: CacheConfig(**{name: value})), ConfigError)
    assert ear.leaks("planted", "70447744") == []


#: A secret at the wrong place, in every type that it may have there.
MISPLACED = [
    "planted", "planted{", "planted\0", "7044774470", b"planted", 7_044_774_470, -7_044_774_470, 70447744.5,
    ["planted"], ("planted",), {"planted": "planted"}, {"planted"}, Path("planted"), "planted(",
    r"planted\b\u00e9",
]  # fmt: skip
SECRET = ("planted", "7044774")


def _each_field(settings: Any) -> Iterator[str]:
    yield from (field.name for field in dataclasses.fields(settings))


@pytest.mark.parametrize("value", MISPLACED, ids=repr)
def test_a_secret_in_the_wrong_setting_is_not_shown(ear: Ear, value: Any) -> None:
    refused = 0
    for name in _each_field(CacheConfig):
        text = str(value)
        uses: list[Callable[[], Any]] = [
            lambda name=name: CacheConfig(**{name: value}) and None,
            lambda name=name: CacheConfig().replace(**{name: value}) and None,
            lambda name=name: setattr(CacheConfig(), name, value),
            lambda name=name, text=text: CacheConfig.from_env("P", {f"P_{name.upper()}": text}) and None,
            lambda name=name: CacheConfig.from_env("P", {f"P_{name.upper()}": value}) and None,
        ]
        refused += sum(isinstance(ear.listen(use), ConfigError) for use in uses)
    assert refused > 60
    assert ear.leaks(*SECRET) == []


@pytest.mark.parametrize("value", MISPLACED, ids=repr)
def test_a_secret_in_the_wrong_setting_of_a_cache_is_not_shown(ear: Ear, value: Any) -> None:
    config = CacheConfig(evictor_enabled=False)
    refused = 0
    takers: list[tuple[Callable[..., Any], Any]] = [
        (lambda **given: CachePolicy(**given) and None, CachePolicy),
        (lambda **given: Thresholds(**{"threshold": 0.5, **given}) and None, Thresholds),
        (lambda **given: CachePolicy.from_json(json.dumps(given, default=repr)) and None, CachePolicy),
    ]
    for make, settings in takers:
        for name in _each_field(settings):
            refused += isinstance(ear.listen(partial(make, **{name: value})), LixCacheError)
    for kind in (lix_cache.SemanticCache, lix_cache.AsyncSemanticCache, HybridConversationCache):
        first: dict[str, Any] = {"session_id": "s"} if kind is HybridConversationCache else {}
        for name in inspect.signature(kind).parameters:
            given = {**first, "config": config, name: value}
            # Some are wanted as they are, such as a host and a context.
            refused += isinstance(
                ear.listen(lambda kind=kind, given=given: kind(**given) and None), LixCacheError
            )
    for text in ("planted", json.dumps([value], default=repr)):
        refused += isinstance(ear.listen(partial(CachePolicy.from_json, text)), ConfigError)
    assert refused > 25
    assert ear.leaks(*SECRET) == []


@pytest.mark.parametrize(
    "content",
    [
        {"planted": b""}, {"a": {"planted": {1}}}, [{"planted": float("nan")}], {("planted",): 1},
        {b"planted": 1}, {7_044_774_470: 1}, {"planted": [{"planted": object()}]}, 7_044_774_470 ** 9_000,
        {"x": {"planted": {7_044_774_470: 1}}},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_message_that_is_refused_is_not_shown(ear: Ear, redis_config: CacheConfig, content: Any) -> None:
    config = redis_config.replace(evictor_enabled=False)
    memory = HybridConversationCache("s", config)
    answers = lix_cache.SemanticCacheRedis("s", config)
    context = {"context": {"a": content}}
    uses: list[Callable[[], Any]] = [
        lambda: memory.add_message("user", content),
        lambda: memory.add_message("user", "hello", metadata={"planted": content}),
        lambda: memory.archive.append_turn("s", {"role": "user", "content": content, "planted": content}),
        lambda: memory.add_message("user", "hello", timestamp=content),
        lambda: memory.add_message("user", "hello", embedding=["planted", "7044774"]),
        lambda: memory.add_message("user", "hello", embedding=[[1.0], "planted"]),
        lambda: memory.add_message(content, "hello"),
        lambda: answers.set("u", [1.0], content),
        lambda: lix_cache.SemanticCache(config=config, **context).lookup("planted"),
    ]
    errors = [ear.listen(use) for use in uses]
    assert sum(isinstance(error, InvalidInput) for error in errors) >= 7, errors
    assert ear.leaks(*SECRET) == []


def test_no_secret_is_shown_where_another_setting_is_wrong(ear: Ear) -> None:
    environ = {"P_REDIS_PASSWORD": LEFT, "P_REDIS_URL": f"redis://:{RIGHT}@h", "P_REDIS_PORT": "no"}
    assert isinstance(ear.listen(lambda: CacheConfig.from_env("P", environ)), ConfigError)
    config = CacheConfig(redis_password=LEFT, redis_url=f"redis://:{RIGHT}@h")
    assert isinstance(ear.listen(lambda: config.replace(redis_port=0)), ConfigError)
    ear.listen(lambda: (config, str(config), f"{config}"))
    assert ear.leaks(LEFT, RIGHT) == []


@pytest.mark.parametrize("secret", [LEFT, f"{LEFT}\n", f"{LEFT}\n{RIGHT}", f"{LEFT}\u20ac", f"\x00{LEFT}"])
@pytest.mark.parametrize("place", ["key", "header", "environment"])
def test_no_key_of_an_embedder_is_shown(
    ear: Ear, secret: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    given: dict[str, Any] = {"api_key": secret} if place == "key" else {"headers": {"X-Key": secret}}
    if place == "environment" and "\x00" not in secret:
        monkeypatch.setenv("OPENAI_API_KEY", secret)
        given = {}

    def use() -> None:
        embedder = OpenAIEmbedder(
            "m", base_url=f"http://127.0.0.1:{free_port()}", retries=0, dimensions=8, **given
        )
        ear.heard += [repr(embedder), str(embedder), embedder.id]
        embedder.embed(["a text"])

    assert isinstance(ear.listen(use), LixCacheError)
    assert ear.leaks(LEFT, RIGHT) == []


@pytest.mark.parametrize(
    "url",
    [
        f"http://u:{LEFT}@h",
        f"http://u:{LEFT}/x@h",
        f"http://u:{LEFT}[@h",
        f"http://h:{LEFT}",
        f"http://h?k={LEFT}",
    ],
)
def test_no_password_in_an_embedders_address_is_shown(ear: Ear, url: str) -> None:
    assert isinstance(ear.listen(lambda: OpenAIEmbedder("m", base_url=url, api_key="k")), ConfigError)
    assert ear.leaks(LEFT) == []


def test_the_commands_print_no_password(ear: Ear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lix_cache.cli import main

    for url in (
        f"redis://:{LEFT}#{RIGHT}@127.0.0.1:{free_port()}",
        f"redis://:{LEFT}@127.0.0.1:{free_port()}",
    ):
        monkeypatch.setenv("LIX_CACHE_REDIS_URL", url)
        monkeypatch.setenv("LIX_CACHE_ARCHIVE_DIR", str(tmp_path))
        for words in (["doctor"], ["doctor", "--json"], ["stats"], ["sessions"], ["show", "s"]):

            def run(words: list[str] = words) -> None:
                monkeypatch.setattr("sys.argv", ["lix-cache", *words])
                with contextlib.suppress(SystemExit):
                    main()

            ear.listen(run)
    assert ear.leaks(LEFT, RIGHT) == []
    assert any("redis" in text for text in ear.heard)


# -- what background work logs ---------------------------------------------------------------


@pytest.fixture
def default_log() -> Iterator[io.StringIO]:
    """What loguru's own sink says, which shows the variables of a traceback."""
    log = io.StringIO()
    logger.enable("lix_cache")
    handler = logger.add(log)
    try:
        yield log
    finally:
        logger.remove(handler)
        logger.disable("lix_cache")


class Quoting(Exception):
    """An error of none of our kinds, which quotes what it was given."""


def test_an_unexpected_error_shows_no_message_in_the_log(
    default_log: io.StringIO,
    redis_config: CacheConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = redis_config.replace(
        hot_window_size=2, archive_batch_turns=1, evictor_enabled=False, evictor_interval_seconds=0.01
    )
    cache = HybridConversationCache("s", config)
    failed = threading.Event()

    def fail(*args: Any, **kwargs: Any) -> Any:
        failed.set()
        raise Quoting(f"{LEFT} {args!r} {kwargs!r}")

    monkeypatch.setattr(type(cache._store.archive.store), "append_locked", fail)
    for number in range(4):
        cache.add_message("user", f"{LEFT} {number}")
    cache.evictor.start()
    assert failed.wait(30)
    cache.evictor.stop()
    cache.evictor.join(30)
    assert failed.is_set()
    text = default_log.getvalue()
    assert "Quoting at line" in text
    assert LEFT not in text
    assert LEFT not in repr(cache.get_stats())
