"""Strange arguments of what needs no Redis: an answer, or a typed error that names the argument."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lix_cache
from lix_cache import LixCacheError
from lix_cache.errors import CodecError
from tests.contract.test_method_errors import STRANGE, names_it

HASHING = lix_cache.HashingEmbedder(16)
POLICY = lix_cache.CachePolicy()
THRESHOLDS = lix_cache.Thresholds(0.9)
EVALUATION = lix_cache.Evaluation(10, 5, {}, (), (0.0, 0.0, 0.0))
PAIRS = lix_cache.PairEvaluation(10, 5, 10, 1, {})


def aembed(embedder: Any, texts: Any, seconds: Any = None) -> Any:
    return asyncio.run(lix_cache.aembed(embedder, texts, seconds))


#: What is called, and what it must be given.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "CachePolicy": (lix_cache.CachePolicy, {}),
    "CachePolicy.check_lookup": (POLICY.check_lookup, {"query": "x", "context": {}}),
    "CachePolicy.check_store": (POLICY.check_store, {"query": "x", "response": "r", "context": {}}),
    "CachePolicy.from_json": (lix_cache.CachePolicy.from_json, {"text": "{}"}),
    "CachePolicy.is_time_sensitive": (POLICY.is_time_sensitive, {"query": "x"}),
    "Dictionary.parse": (lix_cache.Dictionary.parse, {"data": b"x"}),
    "Evaluation.hit_interval": (EVALUATION.hit_interval, {}),
    "Evaluation.false_hit_interval": (EVALUATION.false_hit_interval, {}),
    "HuffmanCodec.decode": (lix_cache.HuffmanCodec.decode, {"data": lix_cache.HuffmanCodec.encode(b"x")}),
    "HuffmanCodec.encode": (lix_cache.HuffmanCodec.encode, {"data": b"x"}),
    "HashingEmbedder": (lix_cache.HashingEmbedder, {}),
    "HashingEmbedder.embed": (HASHING.embed, {"texts": ["a"]}),
    "CachedEmbedder": (lix_cache.CachedEmbedder, {"embedder": HASHING}),
    "CachedEmbedder.embed": (lix_cache.CachedEmbedder(HASHING).embed, {"texts": ["a"]}),
    "OpenAIEmbedder": (lix_cache.OpenAIEmbedder, {"model": "m"}),
    "PairEvaluation.true_accepts_interval": (PAIRS.true_accepts_interval, {}),
    "PairEvaluation.false_accepts_interval": (PAIRS.false_accepts_interval, {}),
    "Prices": (lix_cache.Prices, {"prompt": 1.0, "completion": 1.0}),
    "Prices.of": (lix_cache.Prices(1.0, 1.0).of, {"prompt_tokens": 1, "completion_tokens": 2}),
    "Thresholds": (lix_cache.Thresholds, {"threshold": 0.9}),
    "Thresholds.from_dict": (lix_cache.Thresholds.from_dict, {"values": {"threshold": 0.9}}),
    "Thresholds.with_score": (THRESHOLDS.with_score, {"score": 1.0}),
    "Thresholds.with_threshold": (THRESHOLDS.with_threshold, {"threshold": 0.9}),
    "TrainingOptions": (lix_cache.TrainingOptions, {}),
    "aembed": (aembed, {"embedder": HASHING, "texts": ["a"]}),
    "embed_within": (lix_cache.embed_within, {"embedder": HASHING, "texts": ["a"], "seconds": 5.0}),
}
#: Names of what is read, which stand only in the errors of others.
PASSED = {"clock", "name", "response"}


def refused(call: Callable[[], Any]) -> BaseException | None:
    try:
        call()
    except Exception as error:
        return error
    return None


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def strange(call: Callable[..., Any], good: dict[str, Any]) -> list[tuple[str, int, str, str]]:
    bad = []
    for one in inspect.signature(call).parameters:
        for number, value in enumerate(STRANGE):
            error = None if one in PASSED else refused(lambda: call(**{**good, one: value}))  # noqa: B023
            # What is no file, and what is no stream, is no matter of the argument's kind.
            if error is None or isinstance(error, (OSError, CodecError)):
                continue
            if not isinstance(error, LixCacheError) or not names_it(error, one):
                bad.append((one, number, type(error).__name__, str(error)[:90]))
    return bad


@pytest.mark.parametrize("name", list(CALLS))
def test_a_strange_argument_is_a_typed_error_that_names_it(name: str) -> None:
    assert strange(*CALLS[name]) == []


def test_a_log_of_questions_refuses_what_it_cannot_write(folder: Path) -> None:
    log = lix_cache.QuestionLog(folder / "log")
    assert strange(log.write, {"query": "x", "answer_id": "a"}) == []
    log.close()
    # A number would be the descriptor of a file that is open, and close() would close it.
    assert strange(lix_cache.QuestionLog, {"path": folder / "log"}) == []


def test_an_evictor_refuses_times_that_make_no_sense(folder: Path) -> None:
    config = lix_cache.CacheConfig(archive_dir=str(folder), evictor_enabled=False)
    evictor = lix_cache.HybridConversationCache("s", config).evictor
    assert strange(evictor.use, {"idle_seconds": 60.0}) == []
    assert strange(evictor.join, {}) == []
    assert strange(evictor.stop, {}) == []
