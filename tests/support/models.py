"""Tiny models in files, made by the tests: real formats, real loading, known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

__all__ = ["WORDS", "write_cross_encoder", "write_token_model"]

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "one", "two", "three"]
_OPSET = 17


def write_tokenizer(folder: Path, *, limit: int | None = None) -> None:
    """Write a tokenizer of whole words with the frame ``[CLS] ... [SEP]``."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import models, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    if limit is not None:
        tokenizer.enable_truncation(limit)
    # As most models come: padded to a fixed length, which must not be believed.
    tokenizer.enable_padding(length=64, pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"))


def _save(path: Path, nodes: list[Any], inputs: list[Any], output: Any, weights: list[Any]) -> None:
    from onnx import checker, helper, save

    graph = helper.make_graph(nodes, "tiny", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(model, str(path))


def write_token_model(
    folder: Path,
    *,
    dim: int = 8,
    seed: int = 0,
    file: str = "model.onnx",
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids"),
    output: str = "last_hidden_state",
    kind: str = "int64",
    limit: int | None = None,
    configs: dict[str, Any] | None = None,
) -> Any:
    """Write a model that looks up a vector for each token; return its table, (words, dim)."""
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, limit=limit)
    table = np.random.default_rng(seed).normal(size=(len(WORDS), dim)).astype(np.float32)
    number = TensorProto.INT32 if kind == "int32" else TensorProto.INT64
    rows = ["b", 1] if output == "flat" else ["b", "s"]
    shape = ["b", "s", dim]
    _save(
        folder / file,
        [helper.make_node("Gather", ["table", "input_ids"], [output])],
        [helper.make_tensor_value_info(name, number, rows) for name in inputs],
        helper.make_tensor_value_info(output, TensorProto.FLOAT, shape),
        [numpy_helper.from_array(table, "table")],
    )
    for name, value in (configs or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), "utf-8")
    return table


def write_cross_encoder(
    folder: Path, *, labels: int = 1, config: dict[str, Any] | None = None, flat: bool = False
) -> Any:
    """Write a classifier of pairs; return its weights, (words, 2, labels).

    Its logits are the sum of a weight for each token, which depends on the text it stands in.
    """
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    table = np.random.default_rng(1).normal(size=(len(WORDS), 2, labels)).astype(np.float32)
    number, real = TensorProto.INT64, TensorProto.FLOAT
    masked = [
        # Row of the table: twice the token, plus the text it stands in.
        helper.make_node("Mul", ["input_ids", "two"], ["double"]),
        helper.make_node("Add", ["double", "token_type_ids"], ["row"]),
        helper.make_node("Gather", ["table", "row"], ["weights"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=real),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["weights", "mask3"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "tokens"], ["sums"], keepdims=0),
    ]
    last = helper.make_node("Reshape", ["sums", "shape"], ["logits"])
    _save(
        folder / "model.onnx",
        [*masked, last],
        [
            helper.make_tensor_value_info(name, number, ["b", "s"])
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ],
        helper.make_tensor_value_info("logits", real, ["b"] if flat else ["b", labels]),
        [
            numpy_helper.from_array(table.reshape(-1, labels), "table"),
            numpy_helper.from_array(np.array(2, dtype=np.int64), "two"),
            numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "tokens"),
            numpy_helper.from_array(np.array([-1] if flat else [-1, labels], dtype=np.int64), "shape"),
        ],
    )
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return table
