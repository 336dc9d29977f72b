"""Embeddings: each text by itself, both encodings from one vector."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from lix_cache.gateway.answer import Answer, Incomplete
from lix_cache.gateway.protocols.embeddings import Embeddings
from tests.support.provider_wire import as_json

pytestmark = pytest.mark.promise("right-answer")
EMBEDDINGS = Embeddings()
#: As a provider has them: 32 bits.
VECTORS = [struct.unpack("<3f", struct.pack("<3f", *one)) for one in [(0.1, -0.2, 0.3), (1.0, 0.0, -1e-20)]]


def packed(vector: Any) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def request(given: Any, encoding: str | None = None) -> dict[str, Any]:
    return {"model": "m", "input": given, **({} if encoding is None else {"encoding_format": encoding})}


def reply(vectors: list[Any], **more: Any) -> bytes:
    data = [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(vectors)]
    told = {"prompt_tokens": 10, "total_tokens": 10}
    return as_json({"object": "list", "data": data, "model": "m-1", "usage": told, **more})


def kept(found: list[Answer] | Incomplete) -> list[Answer]:
    assert isinstance(found, list), found
    return [Answer.decode(one.encode()) for one in found]


def said(answers: list[Answer], encoding: str | None = None) -> Any:
    return json.loads(EMBEDDINGS.render(answers, request=request("x", encoding), new_id="new", created=5))


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_base64_and_float_come_from_one_vector(encoding: str) -> None:
    vectors = [packed(one) if encoding == "base64" else list(one) for one in VECTORS]
    answers = kept(EMBEDDINGS.read_body(reply(vectors), request(["a", "b"], encoding)))
    assert [one["embedding"] for one in said(answers, "base64")["data"]] == [packed(one) for one in VECTORS]
    assert [one["embedding"] for one in said(answers, "float")["data"]] == [list(one) for one in VECTORS]
    assert [one["embedding"] for one in said(answers)["data"]] == [list(one) for one in VECTORS]


def test_numbers_that_32_bits_do_not_hold_stay_what_they_are() -> None:
    answers = kept(EMBEDDINGS.read_body(reply([[0.1, 0.2]]), request("a", "float")))
    assert said(answers, "float")["data"][0]["embedding"] == [0.1, 0.2]
    assert said(answers, "base64")["data"][0]["embedding"] == packed([0.1, 0.2])


def test_each_text_is_an_answer_whatever_the_others_were() -> None:
    answers = kept(EMBEDDINGS.read_body(reply(list(map(list, VECTORS))), request(["a", "b"], "float")))
    swapped = said(answers[::-1], "float")["data"]
    assert [one["index"] for one in swapped] == [0, 1]
    assert [one["embedding"] for one in swapped] == [list(one) for one in VECTORS[::-1]]


def test_vectors_are_put_to_their_texts_by_index() -> None:
    body = json.loads(reply(list(map(list, VECTORS))))
    body["data"].reverse()
    answers = kept(EMBEDDINGS.read_body(as_json(body), request(["a", "b"])))
    assert [one["embedding"] for one in said(answers)["data"]] == [list(one) for one in VECTORS]


def test_the_tokens_of_a_whole_batch_are_exact() -> None:
    texts = ["a", "much longer than that", "ccc"]
    answers = kept(EMBEDDINGS.read_body(reply([[1.0]] * 3), request(texts)))
    assert said(answers)["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    assert sum(one.usage.input for one in answers if one.usage) == 10


def test_the_other_fields_of_the_body() -> None:
    answers = kept(EMBEDDINGS.read_body(reply([[1.0]], id="embd-orig", created=1), request("a")))
    found = said(answers)
    assert (found["object"], found["model"], found["id"], found["created"]) == ("list", "m-1", "embd-new", 5)
    assert found.keys() == {"object", "model", "id", "created", "data", "usage"}
    untold = json.loads(reply([[1.0]]))
    del untold["usage"]
    assert "usage" not in said(kept(EMBEDDINGS.read_body(as_json(untold), request("a"))))


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("a", ["a"]),
        (["a", "b", "a"], ["a", "b", "a"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        ([], None),
        (["a", [1]], None),
        ([True], None),
        ([[]], None),
        (None, None),
        ({"text": "a"}, None),
    ],
)
def test_the_texts_of_a_request(given: Any, texts: Any) -> None:
    assert EMBEDDINGS.inputs(request(given)) == texts
    assert EMBEDDINGS.inputs(request(given, "int8")) is None


def test_a_key_has_everything_but_the_texts_and_the_encoding() -> None:
    asked = {**request(["a", "b"], "base64"), "dimensions": 256}
    assert EMBEDDINGS.around(asked) == {"model": "m", "dimensions": 256}
    assert EMBEDDINGS.request_for(asked, ["b"]) == {**asked, "input": ["b"]}


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize(
    ("vectors", "rule"),
    [
        ([], "inconsistent"),
        ([[1.0]], "inconsistent"),
        ([[1.0]] * 3, "inconsistent"),
        ([[1.0], []], "malformed"),
        ([[1.0], None], "malformed"),
        ([[1.0], ["x"]], "malformed"),
        ([[1.0], [True]], "malformed"),
        ([[1.0], [10**400]], "malformed"),
        ([[1.0], [1e300]], "malformed"),
        ([[1.0], "AAA"], "malformed"),
        ([[1.0], "AAA="], "malformed"),
        ([[1.0], "ü" * 4], "malformed"),
        ([[1.0], packed([float("nan")])], "malformed"),
        ([[1.0], packed([float("inf")])], "malformed"),
    ],
)
def test_what_is_no_vector_is_not_kept(vectors: list[Any], rule: str) -> None:
    found = EMBEDDINGS.read_body(reply(vectors), request(["a", "b"]))
    assert isinstance(found, Incomplete), found
    assert found.rule == rule


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"error": {"message": "x"}}, "error"),
        ({"data": None}, "malformed"),
        ({"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]}, "inconsistent"),
        ({"data": [{"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [1.0]}]}, "inconsistent"),
        ({"data": [{"index": 0, "embedding": [1.0]}, {"embedding": [1.0], "new": 1}]}, "unknown"),
    ],
)
def test_bodies_that_are_not_whole(change: dict[str, Any], rule: str) -> None:
    body = {**json.loads(reply([[1.0], [1.0]])), **change}
    found = EMBEDDINGS.read_body(as_json(body), request(["a", "b"]))
    assert isinstance(found, Incomplete), found
    assert found.rule == rule


def test_the_sdk_reads_both_encodings() -> None:
    openai = pytest.importorskip("openai")
    httpx = pytest.importorskip("httpx2")
    answers = kept(EMBEDDINGS.read_body(reply(list(map(list, VECTORS))), request(["a", "b"])))

    def serve(asked: Any) -> Any:
        body = EMBEDDINGS.render(answers, request=json.loads(asked.content), new_id="new", created=5)
        return httpx.Response(200, headers={"content-type": "application/json"}, content=body)

    with httpx.Client(transport=httpx.MockTransport(serve)) as http:
        client = openai.OpenAI(api_key="none", base_url="http://test", http_client=http)
        for encoding in ({}, {"encoding_format": "float"}):
            found = client.embeddings.create(model="m", input=["a", "b"], **encoding)
            assert [one.embedding for one in found.data] == [list(one) for one in VECTORS]
