"""What a store does, with its archive on object storage: sync and async, administration, commands."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lix_cache import (
    AsyncHybridConversationCache,
    CacheConfig,
    CacheCoordinator,
    ConfigError,
    ConversationArchive,
    HybridConversationCache,
    SessionKey,
    StoreAdmin,
)
from lix_cache.admin import copy_archive
from lix_cache.cli.app import app
from lix_cache.storage.objects import open_bucket
from tests.support.s3_server import S3, moto_server


@pytest.fixture
def config(redis_config: CacheConfig, tmp_path: Path) -> CacheConfig:
    return redis_config.replace(
        archive_url=f"file://{tmp_path}/objects", hot_window_size=4, archive_batch_turns=2, redis_buckets=3
    )


def said(messages: list[Any] | None) -> list[Any]:
    return [message["content"] for message in messages or []]


def a_life(config: CacheConfig) -> None:
    """Add, offload, bring back, change, clear, delete: as several processes would see it."""
    one, two = HybridConversationCache("s", config), HybridConversationCache("s", config)
    for n in range(9):
        one.add_message("user", f"m{n}")
    assert one.flush_to_disk() > 0
    assert said(two.get_context()) == ["m5", "m6", "m7", "m8"]
    assert said(two.get_full()) == [f"m{n}" for n in range(9)]
    popped = two.pop_last()
    assert popped is not None
    assert popped.message["content"] == "m8"
    edited = one.get_messages(limit=1)[-1]
    two.edit(edited.id, content="M7")
    assert said(one.get_full())[-2:] == ["m6", "M7"]
    assert one.delete_message(edited.id)
    one.add_message("user", "m9")
    one.clear()
    assert said(two.get_context()) == []
    assert said(two.get_full()) == [*(f"m{n}" for n in range(7)), "m9"]
    one.replace_all([{"role": "user", "content": "new"}])
    two.flush_to_disk()
    assert said(one.get_context()) == said(two.get_full()) == ["new"]
    assert one.delete_session()
    assert two.get_full() == two.get_context() == []
    assert one.health_check()["status"] == "ok"


@pytest.mark.promise("no-loss")
def test_a_session_lives_on_it(config: CacheConfig) -> None:
    a_life(config)
    assert not os.path.exists(config.archive_dir)


@pytest.mark.promise("no-loss")
def test_an_async_session_lives_on_it_and_lets_go(config: CacheConfig) -> None:
    async def run() -> None:
        one = AsyncHybridConversationCache("s", config)
        for n in range(9):
            await one.add_message("user", f"m{n}")
        for _ in range(3):
            await one.flush_to_disk()
            assert said(await one.get_context()) == ["m5", "m6", "m7", "m8"]
        assert said(await one.get_full()) == [f"m{n}" for n in range(9)]
        await one.delete_session()
        assert await one.get_full() == []

    asyncio.run(run())


def test_a_coordinator_and_messages_on_disk_work_on_it(config: CacheConfig) -> None:
    chat = CacheCoordinator(SessionKey("tenant", "s"), config.replace(durability="disk"))
    for n in range(3):
        chat.add_message_to_context("user", f"m{n}")
    assert said(ConversationArchive(config.archive_place).load_all(SessionKey("tenant", "s"))) == [
        "m0",
        "m1",
        "m2",
    ]


def test_the_administration_and_the_commands_work_on_it(config: CacheConfig, tmp_path: Path) -> None:
    for name in ("a", "b"):
        session = HybridConversationCache(name, config)
        for n in range(5):
            session.add_message("user", f"{name}{n}")
            session.flush_to_disk()
    admin = StoreAdmin(config)
    assert admin.stats().archive_turns == 10
    assert [check.is_intact for check in admin.verify()] == [True, True]
    assert [check.is_intact for check in admin.verify("a")] == [True]
    assert all(check.status != "fail" for check in admin.doctor() if check.name.startswith("archive"))
    assert admin.compact(0).compacted == 2
    environment = {"T_REDIS_PORT": str(config.redis_port), "T_REDIS_BUCKETS": "3"}
    start = ["--env-prefix", "T", "--prefix", config.redis_key_prefix, "--archive-dir", config.archive_place]

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, [*start, *words], env=environment)
        assert result.exit_code == 0, result.output
        return result.stdout

    assert len(json.loads(run("verify", "--json"))["files"]) == 2
    # A check that was stopped goes on behind what it named; a page where the one before ended.
    assert [one["file"] for one in json.loads(run("verify", "--json", "--after", "a"))["files"]] == ["b"]
    assert [check.file for check in admin.verify(after="b")] == []
    page = admin.session_page(1)
    assert [one.session_id for one in (*page.sessions, *admin.session_page(1, page.cursor).sessions)] == [
        "b",
        "a",
    ]
    run("stats")
    exported = tmp_path / "out.jsonl"
    run("export", "--output", str(exported))
    for name in ("a", "b"):
        assert HybridConversationCache(name, config).delete_session()
    run("import", str(exported))
    assert said(HybridConversationCache("a", config).get_full()) == [f"a{n}" for n in range(5)]
    run("show", "b")


def test_an_archive_alone_works_on_it(tmp_path: Path) -> None:
    archive = ConversationArchive(f"file://{tmp_path}/objects")
    assert archive.load_all("s") is None
    assert not (tmp_path / "objects").exists(), "reading makes nothing"
    assert archive.append_turns("s", [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}])
    assert said(archive.load_recent("s", 1)) == ["y"]
    assert said(archive.search_by_text("s", "x")) == ["x"]
    report = archive.verify("s")
    assert report is not None
    assert report.is_intact
    assert [one.is_intact for one in archive.verify_all()] == [True]
    assert archive.delete_session("s")
    assert archive.load_all("s") is None


@pytest.mark.promise("no-loss")
def test_small_sessions_of_an_archive_alone_share_objects(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/objects"
    archive = ConversationArchive(url, session_ttl_days=3)
    names = [f"user-{n}" for n in range(60)]
    for name in names:
        for n in range(2):
            archive.append_turn(name, {"role": "user", "content": f"{name} says {n}"})
    done = archive.compact(idle_seconds=0)
    assert (done.files, done.compacted, done.frames_before, done.frames_after) == (60, 60, 120, 60)
    assert archive.compact(idle_seconds=0).compacted == 0
    archive.append_turn(names[7], {"role": "user", "content": "more"})
    # What is left of a day later, by the store's clock.
    list(archive.store.tidy(archive.store.now(), 7, 0))
    for path in (tmp_path / "objects").rglob("0*.*"):
        os.utime(path, (1, 1))
    list(archive.store.tidy(archive.store.now(), 7, 0))
    files = [path.stat().st_size for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    assert sum(-(-size // 4096) * 4096 for size in files) < 60 * 1024
    late = ConversationArchive(url, session_ttl_days=3)
    assert sorted(meta["session_id"] for meta in late.list_sessions()) == sorted(names)
    assert said(late.load_all(names[7]) or []) == ["user-7 says 0", "user-7 says 1", "more"]
    assert said(late.search_by_text(names[8], "says 1", 1)) == ["user-8 says 1"]
    assert all(report.is_intact for report in late.verify_all())
    assert late.delete_session(names[9])
    assert late.load_all(names[9]) is None
    copied = copy_archive(url, str(tmp_path / "folder"))
    assert (copied.sessions, copied.messages) == (59, 119)


@pytest.mark.slow
@pytest.mark.promise("no-loss")
def test_the_environment_leads_to_s3(redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as server:
        assert isinstance(server, S3)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        a_life(redis_config.replace(archive_url=f"s3://{server.new_bucket()}/chats", hot_window_size=4))


@pytest.mark.promise("no-leak")
@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "s3://key:secret@bucket/x",
        "s3://bucket/x?token=secret",
        "here",
        "",
        "://",
        "s3://",
        "s3://bucket/secret//x",
        "s3://bucket/secret/../x",
        "s3://bucket/./secret",
        "s3://bucket/secret\n",
        "file://secret",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        open_bucket(url)
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        CacheConfig(archive_url=url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("place", ["s3:/bucket/chats", "s3:bucket", "gs:/bucket", "file:/var/chats"])
def test_a_url_with_one_slash_is_no_folder(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ConversationArchive("here").append_turn("s", {"role": "user", "content": "x"})
    for refused in (
        lambda: ConversationArchive(place),
        lambda: CacheConfig(archive_dir=place),
        lambda: copy_archive("here", place),
        lambda: copy_archive(place, "there"),
    ):
        with pytest.raises(ConfigError, match="two slashes"):
            refused()
    for words in (["archive", "copy", "here", place], ["archive", "copy", place, "there"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code != 0
        assert "Traceback" not in result.output
    assert os.listdir(tmp_path) == ["here"]
    assert ConversationArchive(f"./{place.partition(':')[0]}").load_all("s") is None, "a folder is a folder"
