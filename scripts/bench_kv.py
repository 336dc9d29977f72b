"""Measure what resuming from disk saves: cold, in memory, resumed; sizes; how near the lossy encodings are.

Needs torch and transformers, xllamacpp with gguf for llama.cpp, and mlx-lm; what is missing is left out and
said. The models: r100 (100 M random weights, made here) and coffee-3m (trained, in the shared folder).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lix_cache.errors import MissingExtra
from lix_cache.kv.block_file import Description, decode, encode
from lix_cache.kv.engine import Engine
from lix_cache.kv.engines.transformers import TransformersEngine
from lix_cache.kv.identity import as_ids
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.store import KvStore

#: Cold ÷ resumed that is promised: engine, model, tokens.
AIMS = {
    ("llama.cpp", "r100", 1024): 100,
    ("llama.cpp", "r100", 4096): 250,
    ("llama.cpp", "coffee-3m", 16384): 200,
    ("transformers", "r100", 1024): 25,
    ("transformers", "r100", 4096): 40,
    ("transformers", "coffee-3m", 16384): 120,
    ("mlx", "r100", 1024): 60,
    ("mlx", "r100", 4096): 150,
}
#: How its training chose what to leave out: by the first byte of a conversation's SHA-256.
_HELD_OUT = 13
_SYSTEMS = {
    "conv_taskmaster4": "You are the barista's assistant at a coffee bar. Take the order, ask for what is "
    "missing (size, milk, flavor), read the order back and confirm it.",
    "conv_sgd": "You are a helpful assistant for everyday services: restaurants, hotels, flights, music, "
    "movies, events, banks and doctors. Ask for what is missing, confirm, and then act.",
}
_R100: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 768,
    "intermediate_size": 2304,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "eos_token_id": 4,
    "pad_token_id": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--tokens", type=int, nargs="*", default=[1024, 4096], help="prompt lengths with r100"
    )
    parser.add_argument(
        "--long", type=int, default=16384, help="prompt length with coffee-3m; 0 leaves it out"
    )
    engines = ["transformers", "llama.cpp", "mlx"]
    parser.add_argument("--engines", nargs="*", choices=engines, default=engines)
    parser.add_argument(
        "--repeats", type=int, default=5, help="of what is resumed; what is cold is measured once"
    )
    parser.add_argument("--runs", type=int, default=1, help="of all of it; medians are printed at the end")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shared", default=os.environ.get("LIX_CACHE_SHARED", "../shared"))
    parser.add_argument("--json", metavar="FILE", help="write the numbers there as well")
    options = parser.parse_args()
    shared = Path(options.shared)
    coffee = shared / "models" / "coffee-3m"
    runs: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for run in range(options.runs):
        print(f"run {run + 1} of {options.runs}; load of the machine {os.getloadavg()[0]:.1f}", flush=True)
        for row in rows_of(coffee, options):
            show(row)
            runs.setdefault((row["engine"], row["model"], row["tokens"]), []).append(row)
    print(f"medians of {options.runs} runs, with the least and the most")
    for rows in runs.values():
        summary(rows)
    quality = lossy(shared, options.threads) if "transformers" in options.engines and coffee.is_dir() else {}
    for encoding, found in quality.items():
        print(f"{encoding}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
    if options.json:
        told = {"resume": [row for rows in runs.values() for row in rows], "encodings": quality}
        Path(options.json).write_text(json.dumps(told, indent=1))


def rows_of(coffee: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure every engine and model once; say what is left out."""
    for engine in options.engines:
        lengths = {"r100": options.tokens, "coffee-3m": [options.long] if options.long else []}
        # No figure is promised for it, and it is slow here.
        for model in ("r100",) if engine == "mlx" else lengths:
            for count in lengths[model]:
                try:
                    yield measure(engine, model, count, coffee, options)
                except (ImportError, MissingExtra, FileNotFoundError) as error:
                    print(f"{engine}, {model}: left out ({error})", flush=True)


def summary(rows: list[dict[str, Any]]) -> None:
    """Print the medians of the runs of one row."""
    first = rows[0]
    aim = "" if first["aim"] is None else f" (aim {first['aim']})"
    told = f"{first['engine']:12} {first['model']:9} {first['tokens']:6} tokens:"
    for name in ("cold", "memory", "resumed", "loading"):
        told += f" {name} {statistics.median(row[name] for row in rows) * 1e3:.1f} ms,"
    for over, under, form in (("cold", "resumed", ".0f"), ("resumed", "memory", ".2f")):
        ratios = sorted(row[over] / row[under] for row in rows)
        middle = statistics.median(ratios)
        told += f" {over} ÷ {under} {middle:{form}} [{ratios[0]:{form}}–{ratios[-1]:{form}}]"
        told += f"{aim};" if over == "cold" else " (aim 1.5);"
    busy = [statistics.median(row[f"{name}_cpu"] for row in rows) for name in ("cold", "memory", "resumed")]
    told += f" CPU: cold ÷ resumed {busy[0] / busy[2]:.0f}, resumed ÷ memory {busy[2] / busy[1]:.2f};"
    size = statistics.median(row["stored_bytes"] / row["native_bytes"] for row in rows)
    print(f"{told} bytes ÷ native {size:.4f}", flush=True)


@contextmanager
def engine_of(kind: str, model: str, count: int, coffee: Path, threads: int) -> Iterator[Engine]:
    folder = Path(tempfile.mkdtemp(prefix="bench-kv-"))
    try:
        if kind == "transformers":
            yield transformers_engine(model, count, coffee, threads)
        elif kind == "mlx":
            yield mlx_engine(count, coffee)
        else:
            from lix_cache.kv.engines.llama_cpp import LlamaServerEngine

            gguf = (
                coffee / "coffee-3m.gguf" if model == "coffee-3m" else r100_gguf(folder / "r100.gguf", coffee)
            )
            if not gguf.is_file():
                raise FileNotFoundError(gguf)
            yield LlamaServerEngine.load(gguf, context_tokens=count + 512, slots=2, threads=threads)
    finally:
        shutil.rmtree(folder)


def transformers_engine(model: str, count: int, coffee: Path, threads: int) -> TransformersEngine:
    import torch

    # Whether its types are known depends on whether it is installed.
    transformers: Any = import_module("transformers")
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    if not coffee.is_dir():
        raise FileNotFoundError(coffee)
    tokenizer = transformers.AutoTokenizer.from_pretrained(coffee)
    if model == "coffee-3m":
        made = transformers.AutoModelForCausalLM.from_pretrained(coffee, dtype=torch.float32)
    else:
        torch.manual_seed(1)
        made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_R100)).to(torch.bfloat16)
    return TransformersEngine(made, tokenizer, context_tokens=count + 512)


def mlx_engine(count: int, coffee: Path) -> Engine:
    """Return r100 in mlx, 32-bit floats. On Linux preload OpenBLAS: the BLAS it brings is 25 times slower."""
    from lix_cache.kv.engines.mlx import MlxEngine

    mx: Any = import_module("mlx.core")
    llama: Any = import_module("mlx_lm.models.llama")
    if not coffee.is_dir():
        raise FileNotFoundError(coffee)
    config = llama.ModelArgs.from_dict({**_R100, "model_type": "llama", "rms_norm_eps": 1e-5})
    mx.random.seed(1)
    made = llama.Model(config)
    mx.eval(made.parameters())
    transformers: Any = import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(coffee)
    return MlxEngine(made, tokenizer, context_tokens=count + 512)


def r100_gguf(path: Path, coffee: Path) -> Path:
    """Write random weights of a Llama for llama.cpp, with the tokenizer of the trained model."""
    import gguf

    text = json.loads((coffee / "tokenizer.json").read_text("utf-8"))
    vocabulary = {number: token for token, number in text["model"]["vocab"].items()}
    special = {one["id"]: one["content"] for one in text["added_tokens"]}
    vocabulary.update(special)
    width, layers, dim = _R100["hidden_size"], _R100["num_hidden_layers"], _R100["head_dim"]
    heads, kv_heads, inner = (
        _R100["num_attention_heads"],
        _R100["num_key_value_heads"],
        _R100["intermediate_size"],
    )
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_context_length(32768)
    out.add_embedding_length(width)
    out.add_block_count(layers)
    out.add_feed_forward_length(inner)
    out.add_head_count(heads)
    out.add_head_count_kv(kv_heads)
    out.add_rope_dimension_count(dim)
    out.add_key_length(dim)
    out.add_value_length(dim)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(2048)
    out.add_file_type(1)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("default")
    out.add_token_list([vocabulary.get(number, f"<unused{number}>") for number in range(2048)])
    kinds = [3 if number in special else 1 if number in vocabulary else 5 for number in range(2048)]
    out.add_token_types(kinds)
    merges = text["model"]["merges"]
    out.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    out.add_eos_token_id(4)
    out.add_add_bos_token(False)
    chance = np.random.default_rng(1)

    def add(name: str, *shape: int) -> None:
        values = (
            chance.standard_normal(shape, np.float32) * 0.02 if len(shape) > 1 else np.ones(shape, np.float32)
        )
        out.add_tensor(f"{name}.weight", values.astype(np.float16) if len(shape) > 1 else values)

    add("token_embd", 2048, width)
    add("output_norm", width)
    for layer in range(layers):
        block = f"blk.{layer}."
        add(block + "attn_norm", width)
        add(block + "ffn_norm", width)
        add(block + "attn_q", heads * dim, width)
        add(block + "attn_k", kv_heads * dim, width)
        add(block + "attn_v", kv_heads * dim, width)
        add(block + "attn_output", width, heads * dim)
        add(block + "ffn_gate", inner, width)
        add(block + "ffn_up", inner, width)
        add(block + "ffn_down", width, inner)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def first_token(model: LocalModel, ids: list[int], source: str) -> tuple[float, float]:
    """Return the seconds to the first token of a reply whose state came from there, and those of the CPU."""
    began, busy = time.perf_counter(), time.process_time()
    reply = model.generate(ids, session="s", max_tokens=1)
    reply.all()
    took = time.perf_counter() - began, time.process_time() - busy
    if reply.usage.source != source:
        raise AssertionError(f"{reply.usage} where {source} was measured")
    return took


def measure(kind: str, name: str, count: int, coffee: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a prompt of so many tokens: cold, in memory, and resumed by a process that just began."""
    folder = tempfile.mkdtemp(prefix="bench-kv-")
    try:
        with engine_of(kind, name, count, coffee, options.threads) as engine:
            ids = np.random.default_rng(2).integers(5, 2000, count).tolist()
            warm = LocalModel(engine)
            warm.generate(ids[:64], session="w", max_tokens=2).all()
            warm.close()
            model = LocalModel(engine, KvStore(folder, budget_bytes=1 << 40))
            cold = first_token(model, ids, "none")
            memory = [first_token(model, ids, "memory") for _ in range(options.repeats)]
            began = time.perf_counter()
            model.flush()
            saving = time.perf_counter() - began
            native = model.stats()["live_bytes"]
            model.close()
            resumed, loading = [], []
            for _ in range(options.repeats):
                again = LocalModel(engine, KvStore(folder, budget_bytes=1 << 40))
                resumed.append(first_token(again, ids, "disk"))
                # Until the engine has it. In transformers the first step copies it once more.
                loading.append((again.rates.load or 0) * count)
                # What it computed is on disk: it writes nothing.
                again._store = None
                again.close()
            stored = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
        return {
            "engine": kind,
            "model": name,
            "tokens": count,
            **_medians("cold", [cold]),
            **_medians("memory", memory),
            **_medians("resumed", resumed),
            "loading": statistics.median(loading),
            "save": saving,
            "native_bytes": native,
            "stored_bytes": stored,
            "aim": AIMS.get((kind, name, count)),
        }
    finally:
        shutil.rmtree(folder)


def _medians(name: str, times: list[tuple[float, float]]) -> dict[str, float]:
    walls, cpus = zip(*times, strict=True)
    return {name: statistics.median(walls), f"{name}_cpu": statistics.median(cpus)}


def show(row: dict[str, Any]) -> None:
    cpu = {name: row[f"{name}_cpu"] * 1e3 for name in ("cold", "memory", "resumed")}
    aim = "" if row["aim"] is None else f" (aim {row['aim']})"
    ms = {name: row[name] * 1e3 for name in ("cold", "memory", "resumed", "loading", "save")}
    print(
        f"{row['engine']:12} {row['model']:9} {row['tokens']:6} tokens: "
        f"cold {ms['cold']:8.1f} ms, in memory {ms['memory']:6.1f}, resumed {ms['resumed']:6.1f} "
        f"(of which loading {ms['loading']:.1f}); "
        f"cold ÷ resumed {row['cold'] / row['resumed']:5.0f}{aim}; "
        f"resumed ÷ memory {row['resumed'] / row['memory']:.2f} (aim 1.5); "
        f"bytes ÷ native {row['stored_bytes'] / row['native_bytes']:.4f}; saved in {ms['save']:.0f} ms; "
        f"CPU: cold {cpu['cold']:.0f} ms, in memory {cpu['memory']:.1f}, resumed {cpu['resumed']:.1f}",
        flush=True,
    )


def lossy(shared: Path, threads: int) -> dict[str, dict[str, float]]:
    """Return size, KL and agreement of the first token after a state that went through an encoding.

    On conversations that neither the model was trained on nor anything of the encodings was chosen by.
    """
    import torch

    engine = transformers_engine("coffee-3m", 4096, shared / "models" / "coffee-3m", threads)
    everything = [token for text in _held_out(shared) for token in engine.tokenize(text)]
    places = [(start, count) for start in range(0, 1300 * 8, 1300) for count in (250, 600, 1000)]
    places = [(start, count) for start, count in places if start + count + 64 <= len(everything)]
    results: dict[str, dict[str, float]] = {}
    for encoding in ("zstd", "q8", "q4"):
        divergences, agree, total, small, whole = [], 0, 0, 0, 0
        for start, count in places:
            base = everything[start : start + count + 64]
            ids = base[:count]
            live = engine.begin()
            engine.prefill(live, ids)
            state = engine.export(live, 0, count)
            halves = {key: _half(one) for key, one in state.items()}
            about = Description("tail", "0" * 64, "0" * 64, "0" * 64, 0, count, encoding)
            data = encode(about, as_ids(ids), halves)
            small += len(data)
            whole += sum(one.size for one in halves.values())
            packed = encode(about, as_ids(ids), state)
            again = engine.restore([decode(memoryview(packed), about, as_ids(ids))], ids)
            logits = [_logits(engine, sequence, base[count : count + 64]) for sequence in (live, again)]
            right, near = (torch.log_softmax(one.double(), -1) for one in logits)
            divergences.append(float((right.exp() * (right - near)).sum(-1).mean()))
            agree += int((right.argmax(-1) == near.argmax(-1)).sum())
            total += len(right)
        results[encoding] = {
            "bytes ÷ native (16 bit)": small / whole,
            "KL": statistics.mean(divergences),
            "top-1": agree / total,
        }
    return results


def _held_out(shared: Path) -> list[str]:
    """Return the conversations that coffee-3m was not trained on, as its training wrote them."""
    made = []
    for kind, prompt in _SYSTEMS.items():
        with (shared / "data" / kind / "conversations.jsonl").open(encoding="utf-8") as file:
            for line in file:
                text = f"<|system|>{prompt}<|end|>"
                for turn in json.loads(line)["turns"]:
                    role = "user" if turn["role"] in ("user", "USER") else "assistant"
                    text += f"<|{role}|>{turn['content'].strip()}<|end|>"
                if hashlib.sha256(text.encode()).digest()[0] < _HELD_OUT:
                    made.append(text)
    return made


def _half(tensor: Any) -> Any:
    from lix_cache.kv.tensors import Tensor

    return Tensor("F16", tensor.shape, tensor.array("<f4").astype("<f2").tobytes())


def _logits(engine: Any, sequence: Any, ids: list[int]) -> Any:
    import torch

    with torch.inference_mode():
        out = engine._model(input_ids=torch.tensor([ids]), past_key_values=sequence.cache, use_cache=True)
    return out.logits[0]


if __name__ == "__main__":
    main()
