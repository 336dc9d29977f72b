"""What an object store refuses, and how it is said; stores that break their word; objects of others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lix_cache import ConversationArchive
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.errors import ArchiveUnavailable, ConfigError
from lix_cache.storage.objects import Bucket, open_bucket
from tests.contract.cold_tier import append, said, turn
from tests.fault.test_object_faults import LaterClock, Memory, tier_of

pytestmark = pytest.mark.promise("no-false-empty")


@contextmanager
def answering(status: int, code: str) -> Iterator[str]:
    """Serve S3 that answers so to all it is asked; yield its endpoint."""
    body = f"<Error><Code>{code}</Code><Message>of AK and SK</Message></Error>".encode()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer  # noqa: N815 - http.server calls them so

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    pytest.importorskip("obstore")
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "AK"),
        ("AWS_SECRET_ACCESS_KEY", "SK"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ALLOW_HTTP", "true"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    return monkeypatch


def refusals(bucket: Bucket) -> set[str]:
    """Return what is said when anything is asked."""
    texts = set()
    for ask in (
        lambda: bucket.get("store"),
        lambda: bucket.get("0000/log/000000000000.seg", 0, 10),
        lambda: bucket.create("store", b"x"),
        lambda: bucket.put("probe", b""),
        lambda: list(bucket.names("0000/log/")),
    ):
        with pytest.raises(ArchiveUnavailable) as refused:
            ask()
        assert "AK" not in str(refused.value)
        assert "SK" not in str(refused.value)
        assert refused.value.__cause__ is None, "its cause quotes what was sent"
        texts.add(str(refused.value).partition("; ")[2])
    return texts


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (404, "NoSuchBucket", "make the bucket first"),
        (403, "SignatureDoesNotMatch", "credentials in the environment are wrong"),
    ],
)
def test_a_refusal_names_what_is_to_be_done(
    environment: pytest.MonkeyPatch, status: int, code: str, advice: str
) -> None:
    with answering(status, code) as endpoint:
        environment.setenv("AWS_ENDPOINT", endpoint)
        texts = refusals(open_bucket("s3://bucket/chats"))
        assert len(texts) == 1
        assert advice in texts.pop()
        archive = ConversationArchive("s3://bucket/chats")
        for ask in (
            lambda: archive.load_all("s"),
            lambda: archive.list_sessions(),
            lambda: archive.append_turn("s", {"role": "user", "content": "x"}),
        ):
            with pytest.raises(ArchiveUnavailable, match=advice):
                ask()


def test_an_object_that_is_not_there_is_no_missing_bucket(environment: pytest.MonkeyPatch) -> None:
    with answering(404, "NoSuchKey") as endpoint:
        environment.setenv("AWS_ENDPOINT", endpoint)
        bucket = open_bucket("s3://bucket/chats")
        assert bucket.get("store") is None
        assert ConversationArchive("s3://bucket/chats").load_all("s") is None


def test_http_that_is_not_allowed_names_the_variable(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AWS_ALLOW_HTTP")
    environment.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    assert all("AWS_ALLOW_HTTP=true" in text for text in refusals(open_bucket("s3://bucket/chats")))


def test_an_endpoint_where_nothing_answers_is_named_as_that(environment: pytest.MonkeyPatch) -> None:
    with answering(200, "") as endpoint:
        environment.setenv("AWS_ENDPOINT", endpoint)
    with pytest.raises(ArchiveUnavailable, match="nothing answers at its endpoint"):
        open_bucket("s3://bucket/chats").get("store")


def test_a_store_that_refuses_what_is_not_there_is_asked_a_few_times_with_pauses() -> None:
    bucket, clock = Memory(), LaterClock()
    tier = tier_of(bucket, clock=clock)
    append(tier, turn(1))
    create, refuses = bucket.create, True
    bucket.create = lambda name, data: not (refuses and name.endswith(".seg")) and create(name, data)  # type: ignore[method-assign]
    before = clock.seconds
    tried = bucket.requests.copy()
    with pytest.raises(ArchiveUnavailable, match="refuses to put"):
        append(tier, turn(2))
    assert 1 < clock.seconds - before < 10
    assert tier.counters["object_conflicts"] < 10
    assert sum((bucket.requests - tried).values()) < 50
    refuses = False
    append(tier_of(bucket), turn(2))
    assert said(tier_of(bucket).turns("s")) == ["message 1", "message 2"]


def test_a_store_that_ignores_the_condition_is_refused_before_anything_is_there() -> None:
    bucket = Memory()

    def replaced(name: str, data: bytes) -> bool:
        bucket.put(name, data)
        return True

    bucket.create = replaced  # type: ignore[method-assign]
    tier = tier_of(bucket)
    for _ in range(2):
        with pytest.raises(ConfigError, match="If-None-Match"):
            append(tier, turn(1))
    assert bucket.objects == {}
    assert not tier.exists("s")


FOREIGN = (
    "0000/log/old/000000000999.seg",
    "0000/snap/old/000000000999.idx",
    "0000/log/000000000999.idx",
    "0000/snap/000000000999.seg",
    "0000/log/copy of 000000000000.seg",
    "0000/log/",
    "0000/snap/.DS_Store",
    "README",
)


@pytest.mark.parametrize("name", FOREIGN)
def test_objects_of_others_below_the_root_do_no_harm_and_stay(name: str) -> None:
    bucket = Memory()
    tier = tier_of(bucket, snapshot_every=4)
    for number in range(6):
        append(tier, turn(number))
    bucket.objects[name] = b"of another", 1.0
    assert len(tier_of(bucket).turns("s")) == 6
    append(tier_of(bucket, snapshot_every=4), turn(7))
    bucket.objects = {one: (data, at - 3 * 86_400) for one, (data, at) in bucket.objects.items()}
    ObjectTier(bucket, snapshot_every=4).collect()
    bucket.objects = {one: (data, at - 3 * 86_400) for one, (data, at) in bucket.objects.items()}
    ObjectTier(bucket, snapshot_every=4).collect()
    assert name in bucket.objects
    assert len(tier_of(bucket).turns("s")) == 7
