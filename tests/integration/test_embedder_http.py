"""OpenAIEmbedder against a real HTTP server in this process."""

from __future__ import annotations

import base64
import email.utils
import pickle
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from loguru import logger

from lix_cache import ConfigError, EmbedderError, EmbedderUnavailable, MissingExtra, OpenAIEmbedder
from lix_cache.embedders import post
from tests.support.forks import Child
from tests.support.http_server import Answer, HttpServer, Request

pytest.importorskip("urllib3")

KEY = "sk-a-secret-of-the-test"


class Waits:
    """A clock that notes how long it was asked to wait, and does not."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def vector_of(text: str, dim: int) -> list[float]:
    return [float(len(text) + 1), *([2.0] * (dim - 1))]


def service(request: Request, *, dim: int = 4) -> Answer:
    """Answer as the embeddings API does, out of order, as it may."""
    asked = request.json
    dim = asked.get("dimensions", dim)
    items = [
        {"object": "embedding", "index": i, "embedding": vector_of(text, dim)}
        for i, text in enumerate(asked["input"])
    ]
    return Answer(200, {"object": "list", "data": items[::-1], "model": asked["model"]})


def embedder(server: HttpServer, **options: Any) -> OpenAIEmbedder:
    return OpenAIEmbedder("tiny", **{"base_url": server.url + "/v1", "clock": Waits(), **options})


def expected(texts: list[str], dim: int = 4) -> Any:
    rows = np.array([vector_of(text, dim) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_vectors_come_back_in_the_order_of_the_texts_in_batches() -> None:
    texts = [f"{'x' * i}" for i in range(10)] + ["稳", "\ud800"]
    with HttpServer(service) as server:
        asked = embedder(server, batch_size=5, api_key=KEY, headers={"X-Team": "mine"})
        vectors = asked.embed(texts)
        assert (vectors.shape, vectors.dtype, asked.dim) == ((12, 4), np.float32, 4)
        assert vectors == pytest.approx(expected(texts), abs=1e-6)
        assert asked.embed([]).shape == (0, 4)
    sizes = [len(request.json["input"]) for request in server.requests]
    assert sizes == [1, 5, 5, 2]
    first = server.requests[0]
    assert (first.method, first.path) == ("POST", "/v1/embeddings")
    assert first.headers["Authorization"] == f"Bearer {KEY}"
    assert first.headers["X-Team"] == "mine"
    assert first.json == {"model": "tiny", "input": ["dimension"], "encoding_format": "float"}


def test_a_dimension_that_was_asked_for_is_sent_and_checked() -> None:
    with HttpServer(service) as server:
        asked = embedder(server, dimensions=8)
        assert asked.dim == 8
        assert server.requests == []
        assert asked.embed(["a"]).shape == (1, 8)
        assert server.requests[0].json["dimensions"] == 8

    def stubborn(request: Request) -> Answer:
        return Answer(200, {"data": [{"embedding": [1.0, 2.0]} for _ in request.json["input"]]})

    with (
        HttpServer(stubborn) as server,
        pytest.raises(EmbedderError, match="2 numbers per text, expected 8"),
    ):
        embedder(server, dimensions=8).embed(["a"])


def test_a_dimension_that_changes_between_batches_is_an_error() -> None:
    dims = iter([4, 4, 5])
    with (
        HttpServer(lambda request: service(request, dim=next(dims))) as server,
        pytest.raises(EmbedderError, match="5 numbers per text, expected 4"),
    ):
        embedder(server, batch_size=1).embed(["a", "b"])


def test_base64_vectors_are_read_too() -> None:
    data = np.array([3.0, 4.0], dtype="<f4").tobytes()

    def answer(request: Request) -> Answer:
        return Answer(200, {"data": [{"index": 0, "embedding": base64.b64encode(data).decode()}]})

    with HttpServer(answer) as server:
        assert embedder(server).embed(["a"])[0] == pytest.approx([0.6, 0.8])


def test_the_id_tells_server_model_and_dimension_apart() -> None:
    made = [
        OpenAIEmbedder("a"),
        OpenAIEmbedder("b"),
        OpenAIEmbedder("a", dimensions=256),
        OpenAIEmbedder("a", base_url="http://localhost:8000/v1"),
    ]
    assert made[0].id == "openai:https://api.openai.com/v1:a"
    assert len({one.id for one in made}) == 4
    assert OpenAIEmbedder("a", base_url="https://api.openai.com/v1/").id == made[0].id


# -- trying again --------------------------------------------------------------------------


def failing(*answers: Answer) -> Callable[[Request], Answer]:
    """Give these answers first, then the right ones."""
    left = list(answers)

    def answer(request: Request) -> Answer:
        return left.pop(0) if left else service(request)

    return answer


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_what_fails_for_now_is_tried_again_after_growing_pauses(status: int) -> None:
    waits = Waits()
    with HttpServer(failing(*[Answer(status, b"busy")] * 3)) as server:
        assert embedder(server, clock=waits).embed(["a"]).shape == (1, 4)
    assert len(server.requests) == 4
    assert 0.25 <= waits.slept[0] <= 0.5 <= waits.slept[1] <= 1.0 <= waits.slept[2] <= 2.0


def test_a_server_that_says_when_to_come_back_is_obeyed() -> None:
    waits = Waits()
    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    answers = [
        Answer(429, b"", {"Retry-After": after})
        for after in ("7", "1.5", later, "-5", "soon", "Wed, 99 Foo", "inf")
    ]
    with HttpServer(failing(*answers)) as server:
        embedder(server, clock=waits, retries=9, max_wait_seconds=100).embed(["a"])
    assert waits.slept[:2] == [7.0, 1.5]
    assert 25 < waits.slept[2] <= 30
    assert waits.slept[3] == 0.0
    # Not to be understood: as if nothing had been said.
    assert all(1 < pause <= 20 for pause in waits.slept[4:])


def test_a_server_that_asks_for_too_much_patience_is_given_up() -> None:
    waits = Waits()
    with HttpServer(lambda request: Answer(429, b"slow down", {"Retry-After": "61"})) as server:
        with pytest.raises(EmbedderUnavailable, match="429: slow down"):
            embedder(server, clock=waits).embed(["a"])
        assert (len(server.requests), waits.slept) == (1, [])


def test_after_the_last_attempt_the_failure_is_raised() -> None:
    with HttpServer(lambda request: Answer(503, b"overloaded")) as server:
        with pytest.raises(EmbedderUnavailable, match="503: overloaded"):
            embedder(server, retries=2).embed(["a"])
        assert len(server.requests) == 3
        with pytest.raises(ConnectionError):
            embedder(server, retries=0).embed(["a"])
        assert len(server.requests) == 4


def test_a_server_that_is_not_there_is_tried_again_and_then_unavailable() -> None:
    with HttpServer(service) as server:
        gone = server.url
    waits = Waits()
    with pytest.raises(EmbedderUnavailable, match="no answer from"):
        OpenAIEmbedder("tiny", base_url=gone, clock=waits, retries=2).embed(["a"])
    assert len(waits.slept) == 2


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "check the key"), (403, "check the key"), (404, "check base_url"), (400, "400")],
)
def test_what_will_not_get_better_is_not_tried_again(status: int, advice: str) -> None:
    with HttpServer(lambda request: Answer(status, {"error": "no"})) as server:
        with pytest.raises(EmbedderError, match=advice) as caught:
            embedder(server, api_key=KEY).embed(["a"])
        assert not isinstance(caught.value, EmbedderUnavailable)
        assert len(server.requests) == 1


@pytest.mark.promise("no-leak")
def test_redirects_are_not_followed_with_the_key() -> None:
    with HttpServer(service) as elsewhere:
        moved = Answer(307, b"", {"Location": elsewhere.url + "/v1/embeddings"})
        with HttpServer(lambda request: moved) as server, pytest.raises(EmbedderError, match="307"):
            embedder(server, api_key=KEY).embed(["a"])
        assert elsewhere.requests == []


# -- servers that misbehave ----------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        {},
        {"data": None},
        {"data": []},
        {"data": [{"embedding": [1.0]}] * 3},
        {"data": [{"index": 5, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]},
        {"data": [{"index": "0", "embedding": [1.0]}, {"index": 1, "embedding": [1.0]}]},
        {"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]},
        {"data": [{"embedding": [1.0]}, {"embedding": [1.0, 2.0]}]},
        {"data": [{"embedding": ["a"]}, {"embedding": ["b"]}]},
        {"data": [{"embedding": [[1.0]]}, {"embedding": [[1.0]]}]},
        {"data": [{"embedding": []}, {"embedding": []}]},
        {"data": [{"embedding": None}, {"embedding": None}]},
        {"data": [{"embedding": "?"}, {"embedding": "AAA="}]},
        {"data": [{"embedding": {"a": 1}}, {"embedding": {"a": 1}}]},
        {"data": [{"embedding": [0.0]}, {"embedding": [0.0]}]},
        b'{"data": [{"embedding": [NaN]}, {"embedding": [1e999]}]}',
        {"data": ["a", "b"]},
    ],
)
def test_an_answer_that_is_none_is_an_error_and_never_a_vector(body: Any) -> None:
    with HttpServer(lambda request: Answer(200, body)) as server, pytest.raises(EmbedderError):
        embedder(server).embed(["a", "b"])
    assert len(server.requests) == 1


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "_LARGEST_ANSWER", 100_000)
    with (
        HttpServer(lambda request: Answer(200, b" " * 300_000)) as server,
        pytest.raises(EmbedderError, match="more than 100000 bytes"),
    ):
        embedder(server).embed(["a"])


def test_an_answer_that_breaks_off_is_tried_again() -> None:
    broken = Answer(200, b'{"data": [', length=1000)
    with HttpServer(failing(broken)) as server:
        assert embedder(server).embed(["a"]).shape == (1, 4)
    assert len(server.requests) == 2


@pytest.mark.promise("no-stall")
def test_a_server_that_hangs_is_unavailable_in_time() -> None:
    go_on = threading.Event()

    def hang(request: Request) -> Answer:
        go_on.wait(120)
        return service(request)

    begun = time.monotonic()
    with HttpServer(hang) as server:
        with pytest.raises(EmbedderUnavailable, match="Timeout"):
            embedder(server, timeout_seconds=0.1, retries=1).embed(["a"])
        go_on.set()
    assert time.monotonic() - begun < 60


def test_a_server_that_drips_is_unavailable_in_time() -> None:
    """Each byte comes in time, and the answer never does."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"1\r\n \r\n")
                except OSError:
                    return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with pytest.raises(EmbedderUnavailable, match=r"did not answer whole within 0\.3 s"):
            OpenAIEmbedder("tiny", base_url=url, timeout_seconds=0.3, retries=0).embed(["a"])
    finally:
        stop.set()
        thread.join(5)
        listener.close()


# -- the key -------------------------------------------------------------------------------


@pytest.mark.promise("no-leak")
def test_the_key_is_in_no_error_no_repr_and_no_log() -> None:
    def tells(request: Request) -> Answer:
        return Answer(401, f"Incorrect API key provided: {request.headers['Authorization']}".encode())

    said: list[str] = []
    logger.enable("lix_cache")
    sink = logger.add(lambda message: said.append(str(message)), level=0)
    try:
        with HttpServer(tells) as server:
            asked = embedder(server, api_key=KEY)
            with pytest.raises(EmbedderError, match=r"Incorrect API key provided: Bearer \*\*\*") as caught:
                asked.embed(["a"])
    finally:
        logger.remove(sink)
        logger.disable("lix_cache")
    seen = [repr(asked), str(asked), asked.id, repr(caught.value), str(caught.getrepr()), *said]
    assert all(KEY not in text for text in seen)


@pytest.mark.promise("no-leak")
def test_the_key_comes_from_the_environment_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with HttpServer(service) as server:
        embedder(server).embed(["a"])
        embedder(server, api_key="another").embed(["a"])
        embedder(server, api_key="").embed(["a"])
        monkeypatch.delenv("OPENAI_API_KEY")
        embedder(server).embed(["a"])
    sent = [request.headers.get("Authorization") for request in server.requests]
    assert sent == [f"Bearer {KEY}", "Bearer another", None, None]
    with (
        HttpServer(lambda request: Answer(401, b"who?")) as server,
        pytest.raises(EmbedderError, match="OPENAI_API_KEY"),
    ):
        embedder(server).embed(["a"])


# -- arguments, proxies, processes ---------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"base_url": "ftp://x"}, "http"),
        ({"base_url": "no url"}, "http"),
        ({"base_url": None}, "base_url"),
        ({"base_url": "https://user:secret@host/v1"}, "no user"),
        ({"base_url": "https://host/v1?key=secret"}, "no user"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2049}, "batch_size"),
        ({"retries": -1}, "retries"),
        ({"dimensions": -3}, "dimensions"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"max_wait_seconds": float("inf")}, "max_wait_seconds"),
        ({"model": ""}, "model"),
    ],
)
@pytest.mark.promise("no-leak")
def test_an_argument_out_of_range_is_refused_and_no_secret_repeated(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        OpenAIEmbedder(**{"model": "tiny", **options})
    assert "secret" not in str(caught.value)


def test_the_environments_proxy_is_used_and_its_exceptions_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HttpServer(service) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        OpenAIEmbedder("tiny", base_url="http://service.example/v1").embed(["a"])
        assert proxy.requests[0].path == "http://service.example/v1/embeddings"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with HttpServer(service) as server:
            embedder(server).embed(["a"])
            assert len(server.requests) == 1
        assert len(proxy.requests) == 1


def test_a_forked_process_uses_connections_of_its_own() -> None:
    with HttpServer(service) as server:
        asked = embedder(server)
        vectors = asked.embed(["a"])

        def work(report: Any) -> None:
            for _ in range(3):
                report("s", int(np.array_equal(asked.embed(["a"]), vectors)))

        with Child(work) as child:
            assert child.records() == [("s", 1)] * 3
            assert np.array_equal(asked.embed(["a"]), vectors)
            assert child.wait() == 0


def test_without_urllib3_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(MissingExtra, match=r"lix-cache\[http\]"):
        OpenAIEmbedder("tiny").embed(["a"])


def test_an_error_goes_to_another_process_whole() -> None:
    error = EmbedderUnavailable("gone")
    assert str(pickle.loads(pickle.dumps(error))) == "gone"
