"""OnnxEmbedder on real files: tiny models made here, and the shared one where it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lix_cache import (
    ConfigError,
    EmbedderError,
    EmbedderUnavailable,
    InvalidInput,
    MissingExtra,
    OnnxEmbedder,
)
from lix_cache.embedders.model_files import find_model_files
from lix_cache.embedders.onnx_model import token_limit
from tests.support.forks import Child
from tests.support.http_server import Answer, HttpServer, Request
from tests.support.models import WORDS, write_token_model

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parents[2]
CLS, SEP = 2, 3


def ids(text: str, limit: int = 99) -> list[int]:
    inner = [WORDS.index(word) if word in WORDS else 1 for word in text.split()]
    return [CLS, *inner[: limit - 2], SEP]


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


TEXTS = ["red", "green blue one", "two two two two three", "", "nothing known", "red"]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_token_vectors_are_averaged_over_the_texts_own_tokens(tmp_path: Path, batch_size: int) -> None:
    table = write_token_model(tmp_path / "tiny")
    embedder = OnnxEmbedder(tmp_path / "tiny", batch_size=batch_size, threads=1)
    vectors = embedder.embed(TEXTS)
    assert (vectors.shape, vectors.dtype, embedder.dim) == ((6, 8), np.float32, 8)
    expected = np.stack([unit(table[ids(text)].mean(axis=0)) for text in TEXTS])
    assert vectors == pytest.approx(expected, abs=1e-6)
    assert embedder.embed([]).shape == (0, 8)


@pytest.mark.parametrize(
    ("given", "configured", "pool"),
    [
        ("max", None, lambda rows: rows.max(axis=0)),
        ("cls", None, lambda rows: rows[0]),
        (None, {"pooling_mode_max_tokens": True, "include_prompt": True}, lambda rows: rows.max(axis=0)),
        (None, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda rows: rows[0]),
        (None, {"word_embedding_dimension": 8}, lambda rows: rows.mean(axis=0)),
        ("mean", {"pooling_mode_cls_token": True}, lambda rows: rows.mean(axis=0)),
    ],
)
def test_pooling_is_what_was_asked_for_or_what_the_model_says(
    tmp_path: Path, given: str | None, configured: dict[str, Any] | None, pool: Any
) -> None:
    configs = {} if configured is None else {"1_Pooling/config.json": configured}
    table = write_token_model(tmp_path, configs=configs)
    vectors = OnnxEmbedder(tmp_path, pooling=given).embed(TEXTS)
    assert vectors == pytest.approx(np.stack([unit(pool(table[ids(text)])) for text in TEXTS]), abs=1e-6)


def test_a_pooling_that_is_not_known_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    write_token_model(tmp_path, configs={"1_Pooling/config.json": {"pooling_mode_lasttoken": True}})
    with pytest.raises(EmbedderError, match=r"lasttoken.*pooling="):
        OnnxEmbedder(tmp_path).embed(["red"])
    assert OnnxEmbedder(tmp_path, pooling="mean").embed(["red"]).shape == (1, 8)


@pytest.mark.parametrize("kind", ["int64", "int32"])
@pytest.mark.parametrize("inputs", [("input_ids",), ("input_ids", "attention_mask")])
def test_a_model_gets_the_inputs_it_wants_in_their_type(
    tmp_path: Path, inputs: tuple[str, ...], kind: str
) -> None:
    table = write_token_model(tmp_path, inputs=inputs, kind=kind)
    expected = np.stack([unit(table[ids(text)].mean(axis=0)) for text in TEXTS])
    assert OnnxEmbedder(tmp_path).embed(TEXTS) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("own", "configs", "given", "limit"),
    [
        (4, {}, None, 4),
        (4, {"tokenizer_config.json": {"model_max_length": 1e30}}, None, 4),
        (None, {"sentence_bert_config.json": {"max_seq_length": 3}}, None, 3),
        (None, {"config.json": {"max_position_embeddings": 5}}, None, 5),
        (5, {"tokenizer_config.json": {"model_max_length": 3}}, None, 3),
        (None, {}, 4, 4),
        (4, {}, 6, 6),
        (None, {}, None, 99),
    ],
)
def test_long_texts_are_cut_where_the_model_ends(
    tmp_path: Path, own: int | None, configs: dict[str, Any], given: int | None, limit: int
) -> None:
    table = write_token_model(tmp_path, limit=own, configs=configs)
    text = "red green blue one two three red green"
    vector = OnnxEmbedder(tmp_path, max_tokens=given).embed([text])[0]
    assert vector == pytest.approx(unit(table[ids(text, limit)].mean(axis=0)), abs=1e-6)


def test_a_model_that_says_nothing_reads_512_tokens(tmp_path: Path) -> None:
    write_token_model(tmp_path)
    assert token_limit(find_model_files(tmp_path)) == 512


def test_surrogates_and_any_script_get_a_vector(tmp_path: Path) -> None:
    write_token_model(tmp_path)
    vectors = OnnxEmbedder(tmp_path).embed(["\ud800 red", "稳 red", "😀", "\x00"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


# -- which model it is ---------------------------------------------------------------------


@pytest.mark.parametrize("file", ["int8.onnx", "model.onnx", "onnx/model.onnx", "onnx/model_quantized.onnx"])
def test_the_usual_names_of_model_files_are_found(tmp_path: Path, file: str) -> None:
    write_token_model(tmp_path, file=file)
    assert OnnxEmbedder(str(tmp_path)).embed(["red"]).shape == (1, 8)


def test_another_file_can_be_named(tmp_path: Path) -> None:
    write_token_model(tmp_path, file="model.onnx", seed=1)
    write_token_model(tmp_path, file="mine.onnx", seed=2)
    first, second = OnnxEmbedder(tmp_path), OnnxEmbedder(tmp_path, model_file="mine.onnx")
    assert first.id != second.id
    assert not np.allclose(first.embed(["red"]), second.embed(["red"]))


def test_the_id_changes_with_everything_that_changes_vectors(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_token_model(tmp_path / name / "tiny", seed=seed)
    one, same, other = (OnnxEmbedder(tmp_path / name / "tiny").id for name in "abc")
    assert one.startswith("onnx:tiny:")
    assert one == same
    (tmp_path / "b" / "tiny" / "model.onnx.data").write_bytes(b"weights")
    (tmp_path / "a" / "tiny" / "README.md").write_text("changes nothing")
    ids = {
        one,
        other,
        OnnxEmbedder(tmp_path / "a" / "tiny", pooling="cls").id,
        OnnxEmbedder(tmp_path / "a" / "tiny", max_tokens=7).id,
        OnnxEmbedder(tmp_path / "b" / "tiny").id,
    }
    assert len(ids) == 5
    assert OnnxEmbedder(tmp_path / "a" / "tiny", batch_size=3, threads=2).id == one


def test_a_repr_names_the_model_and_loads_nothing(tmp_path: Path) -> None:
    assert repr(OnnxEmbedder(tmp_path / "none")) == f"OnnxEmbedder({str(tmp_path / 'none')!r})"


# -- what can be wrong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"pooling": "median"}, {"max_tokens": 0}, {"batch_size": -1}, {"threads": 0}, {"threads": "all"}],
)
def test_an_argument_out_of_range_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        OnnxEmbedder("anywhere", **options)


def test_a_missing_folder_or_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match="no folder"):
        OnnxEmbedder(tmp_path / "none").id  # noqa: B018
    with pytest.raises(EmbedderError, match=r"no int8.onnx or model.onnx.*model_file="):
        OnnxEmbedder(tmp_path).embed(["red"])
    write_token_model(tmp_path)
    with pytest.raises(EmbedderError, match=r"no other.onnx"):
        OnnxEmbedder(tmp_path, model_file="other.onnx").embed(["red"])
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(EmbedderError, match=r"no tokenizer.json"):
        OnnxEmbedder(tmp_path).embed(["red"])


def test_damaged_files_are_errors_that_name_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_token_model(tmp_path, configs={"config.json": {}})
    for name, damage, reason in (
        ("model.onnx", b"no model", "onnxruntime can load"),
        ("tokenizer.json", b"{}", "not a tokenizer"),
        ("tokenizer.json", b"\xff", "not a tokenizer"),
        ("config.json", b"{", "not JSON"),
        ("config.json", b"[1]", "JSON object"),
    ):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(EmbedderError, match=reason) as caught:
            OnnxEmbedder(tmp_path).embed(["red"])
        assert name in str(caught.value)
        (tmp_path / name).write_bytes(whole)
    with open(tmp_path / "config.json", "r+b") as file:
        file.truncate(17 << 20)
    with pytest.raises(EmbedderError, match="too large"):
        OnnxEmbedder(tmp_path).id  # noqa: B018
    assert capfd.readouterr().err == ""


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_token_model(tmp_path / "a", inputs=("input_ids", "pixels"))
    with pytest.raises(EmbedderError, match="pixels"):
        OnnxEmbedder(tmp_path / "a").embed(["red"])
    onnx = pytest.importorskip("onnx")
    write_token_model(tmp_path / "b")
    # Answers one number for each token.
    model = onnx.load(str(tmp_path / "b" / "model.onnx"))
    number = onnx.TensorProto.FLOAT
    model.graph.node[0].output[0] = "tokens"
    model.graph.node.append(
        onnx.helper.make_node("ReduceMean", ["tokens"], ["flat"], axes=[0, 1, 2], keepdims=0)
    )
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("flat", number, []))
    onnx.save(model, str(tmp_path / "b" / "model.onnx"))
    with pytest.raises(EmbedderError, match="a sentence model answers"):
        OnnxEmbedder(tmp_path / "b").embed(["red"])


def test_a_model_that_fails_as_it_runs_is_an_error(tmp_path: Path) -> None:
    write_token_model(tmp_path)
    # A tokenizer of another model: its numbers are not in this one's table.
    text = (tmp_path / "tokenizer.json").read_text("utf-8")
    (tmp_path / "tokenizer.json").write_text(
        text.replace('"red": 4', '"red": 400').replace('"red":4', '"red":400')
    )
    embedder = OnnxEmbedder(tmp_path)
    assert embedder.embed(["green"]).shape == (1, 8)
    with pytest.raises(EmbedderError, match="failed"):
        embedder.embed(["red"])
    with pytest.raises(InvalidInput):
        embedder.embed("red")


@pytest.mark.parametrize("package", ["onnxruntime", "tokenizers"])
def test_a_missing_package_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    write_token_model(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"{package}.*lix-cache\[onnx\]"):
        OnnxEmbedder(tmp_path).embed(["red"])


# -- threads and processes -----------------------------------------------------------------


def test_threads_and_forked_processes_share_an_embedder(tmp_path: Path) -> None:
    write_token_model(tmp_path)
    # Threads of the runtime's own do not survive a fork.
    embedder = OnnxEmbedder(tmp_path, threads=2)
    expected = embedder.embed(TEXTS)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(embedder.embed(TEXTS))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 6
    assert all(np.array_equal(result, expected) for result in results)

    def work(report: Any) -> None:
        report("s", int(np.array_equal(embedder.embed(TEXTS), expected)))

    with Child(work) as child:
        assert child.records() == [("s", 1)]
        assert child.wait() == 0


def test_a_child_that_drops_its_parents_model_does_not_hang(tmp_path: Path) -> None:
    """The model's threads are not there, and its destructor would wait for them."""
    write_token_model(tmp_path)
    program = f"""
import os
from lix_cache import OnnxEmbedder
embedder = OnnxEmbedder({str(tmp_path)!r}, threads=2)
embedder.embed(["red"])
pid = os.fork()
if pid == 0:
    del embedder
    os._exit(7)  # as multiprocessing ends its children
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stdout == "7\n", done.stderr


# -- the hub -------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub_of(folder: Path) -> Any:
    """Answer as the hub does for one repository, ``team/tiny``."""
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())

    def answer(request: Request) -> Answer:
        path = request.path.split("?")[0]
        if path.startswith("/api/models/team/tiny"):
            if "/tree/" in path:
                return Answer(
                    200,
                    [
                        {"type": "file", "path": f, "size": (folder / f).stat().st_size, "oid": "1"}
                        for f in files
                    ],
                )
            return Answer(
                200, {"id": "team/tiny", "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
            )
        for name in files:
            if path == f"/team/tiny/resolve/{COMMIT}/{name}" or path == f"/team/tiny/resolve/main/{name}":
                data = (folder / name).read_bytes()
                headers = {"ETag": f'"{name.replace("/", "-")}"', "X-Repo-Commit": COMMIT}
                return Answer(200, data, {**headers, "Content-Length": str(len(data))})
        return Answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    return answer


def test_a_hub_name_is_downloaded_once_and_then_needs_no_hub(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    table = write_token_model(tmp_path / "there", configs={"1_Pooling/config.json": {}})
    (tmp_path / "there" / "pytorch_model.bin").write_bytes(b"not wanted" * 1000)
    options: dict[str, Any] = {"cache_dir": str(tmp_path / "cache")}
    with HttpServer(hub_of(tmp_path / "there")) as server:
        embedder = OnnxEmbedder("team/tiny", endpoint=server.url, **options)
        expected = np.stack([unit(table[ids(text)].mean(axis=0)) for text in TEXTS])
        assert embedder.embed(TEXTS) == pytest.approx(expected, abs=1e-6)
        assert embedder.id.startswith("onnx:team/tiny:")
        assert not any("pytorch_model" in request.path for request in server.requests)
        with pytest.raises(EmbedderError, match="no model 'team/other' on the hub"):
            OnnxEmbedder("team/other", endpoint=server.url, **options).embed(["red"])
        with pytest.raises(EmbedderError, match=r"has no mine\.onnx"):
            OnnxEmbedder("team/tiny", model_file="mine.onnx", endpoint=server.url, **options).embed(["red"])
        gone = server.url
    again = OnnxEmbedder("team/tiny", endpoint=gone, **options)
    assert again.id == embedder.id
    assert np.array_equal(again.embed(TEXTS), embedder.embed(TEXTS))


def test_a_hub_that_is_away_is_unavailable(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    with HttpServer(lambda request: Answer(404)) as server:
        gone = server.url
    with pytest.raises(EmbedderUnavailable, match="could not be asked for 'team/tiny'"):
        OnnxEmbedder("team/tiny", endpoint=gone, cache_dir=str(tmp_path)).embed(["red"])


def test_without_the_hub_library_a_name_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"'team/tiny'.*huggingface_hub"):
        OnnxEmbedder("team/tiny").embed(["red"])


# -- a real model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_dir: Path) -> OnnxEmbedder:
    folder = shared_dir / "models" / "all-MiniLM-L6-v2"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    return OnnxEmbedder(folder, threads=1)


@pytest.mark.shared
def test_the_real_model_knows_what_means_the_same(real: OnnxEmbedder) -> None:
    assert real.dim == 384
    near, far = ["How old are you?", "What is your age?"], ["How old are you?", "The train leaves at noon."]
    one, two = (real.embed(texts) for texts in (near, far))
    assert float(one[0] @ one[1]) > 0.6
    assert float(two[0] @ two[1]) < 0.3


@pytest.mark.shared
def test_the_vector_of_a_text_does_not_depend_on_its_neighbours(real: OnnxEmbedder) -> None:
    """This model quantises as it runs: in one batch, texts change each other's vectors."""
    texts = ["sort ascending", "what is the weather in Tokyo?", "hello", "a much longer text " * 20]
    together = real.embed(texts)
    alone = np.concatenate([real.embed([text]) for text in texts])
    assert np.array_equal(together, alone)
    batched = OnnxEmbedder(real._onnx.name, threads=1, batch_size=4).embed(texts)
    assert not np.allclose(batched, alone, atol=1e-3)


@pytest.mark.shared
def test_a_copy_of_the_real_model_is_the_same_model(real: OnnxEmbedder, tmp_path: Path) -> None:
    copy = tmp_path / "all-MiniLM-L6-v2"
    shutil.copytree(os.path.dirname(find_model_files(real._onnx.name).model), copy)
    assert OnnxEmbedder(copy).id == real.id
