"""The KV store with mlx-lm: trained weights in blocks, a small random Gemma 3 with sliding windows whole.

Run where mlx-lm is installed: ``pip install -e '.[mlx]'``. With ``LIX_CACHE_TEST_MLX=1`` it must be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache.errors import ConfigError, EngineError
from lix_cache.kv.engine import Halt, Options
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.store import KvStore
from lix_cache.kv.tensors import Tensor
from tests.support.kv import tokens
from tests.support.kv_models import conversation, model_folder

pytestmark = [pytest.mark.shared, pytest.mark.slow]
if os.environ.get("LIX_CACHE_TEST_MLX") != "1":
    pytest.importorskip("mlx_lm")

IDS = [int(one) % 2000 + 5 for one in tokens(400)]


@pytest.fixture(scope="module")
def engine(shared_dir: Path) -> Any:
    from lix_cache.kv.engines.mlx import MlxEngine

    return MlxEngine.load(model_folder(shared_dir), context_tokens=1024)


@pytest.fixture(scope="module")
def hybrid(engine: Any) -> Any:
    import mlx.core as mx
    from mlx_lm.models import gemma3_text

    from lix_cache.kv.engines.mlx import MlxEngine

    config = {
        "model_type": "gemma3_text",
        "hidden_size": 64,
        "num_hidden_layers": 6,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "head_dim": 32,
        "num_key_value_heads": 1,
        "vocab_size": 2048,
        "sliding_window": 64,
        "sliding_window_pattern": 3,
    }
    mx.random.seed(1)
    model = gemma3_text.Model(gemma3_text.ModelArgs.from_dict(config))
    mx.eval(model.parameters())
    return MlxEngine(model, engine._tokenizer, context_tokens=1024)


def same(one: Any, two: Any) -> bool:
    return bool((one == two).all())


@pytest.mark.promise("right-answer")
def test_a_restored_state_is_bit_equal(engine: Any) -> None:
    assert (engine.exports, engine.cuts) == ("blocks", True)
    live = engine.begin()
    engine.prefill(live, IDS[:300])
    states = [engine.export(live, 0, 256), engine.export(live, 256, 300)]
    again = engine.restore(states, IDS[:300])
    assert again.size > 0
    for part in (IDS[300:301], IDS[301:340]):
        assert same(engine._feed(live, part), engine._feed(again, part))
    assert engine.cut(live, 310)
    assert engine.cut(again, 310)
    assert same(engine._feed(live, IDS[350:370]), engine._feed(again, IDS[350:370]))
    engine.release(again)
    with pytest.raises(EngineError, match="let go"):
        engine.prefill(again, [5])


@pytest.mark.promise("right-answer")
def test_a_conversation_resumes_after_a_restart(engine: Any, tmp_path: Path) -> None:
    long = conversation(12)
    first = LocalModel(engine, KvStore(tmp_path))
    reply = first.generate(long, session="s", max_tokens=6)
    text = reply.all()
    first.close()
    model = LocalModel(engine, KvStore(tmp_path))
    again = model.generate(long, session="s", max_tokens=6)
    assert again.all() == text
    assert (again.usage.source, again.usage.cached_tokens) == ("disk", reply.usage.prompt_tokens - 1)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("count", [20, 64, 65, 200])
def test_windows_are_restored_exactly(hybrid: Any, count: int) -> None:
    assert (hybrid.exports, hybrid.cuts) == ("snapshots", False)
    live = hybrid.begin()
    hybrid.prefill(live, IDS[:count])
    again = hybrid.restore([hybrid.export(live, 0, count)], IDS[:count])
    for part in (*([one] for one in IDS[count : count + 5]), IDS[count + 5 : count + 90]):
        assert same(hybrid._feed(live, part), hybrid._feed(again, part))
    assert not hybrid.cut(live, 3)
    with pytest.raises(EngineError, match="whole"):
        hybrid.export(live, 0, 3)


@pytest.mark.promise("bad-bytes")
def test_a_state_that_does_not_fit_is_refused(engine: Any, hybrid: Any) -> None:
    live = engine.begin()
    engine.prefill(live, IDS[:10])
    state = engine.export(live, 0, 10)
    for wrong in ([{}], [{**state, "0.k": Tensor("F16", (1, 1), b"\0\0")}]):
        with pytest.raises(EngineError):
            engine.restore(wrong, IDS[:10])
    with pytest.raises(EngineError, match="number of tokens"):
        engine.restore([state], IDS[:11])
    with pytest.raises(EngineError):
        hybrid.restore([{"0.nothing": state["0.k"]}], IDS[:10])


def test_replies(engine: Any) -> None:
    def made(**options: Any) -> list[int]:
        return list(engine.generate(engine.begin(), IDS[:20], Options(max_tokens=5, **options)))

    assert made() == made()
    assert made(temperature=0.9, top_p=0.9, seed=3) == made(temperature=0.9, top_p=0.9, seed=3)
    assert engine.detokenize(engine.tokenize("Hello there")) == "Hello there"
    with pytest.raises(EngineError, match="tokens"):
        engine.prefill(engine.begin(), IDS * 3)
    halt = Halt()
    halt.set()
    live = engine.begin()
    with pytest.raises(EngineError, match="halted"):
        next(engine.generate(live, IDS[:20], Options(halt=halt)))
    assert live.ids == []
    short: Iterator[int] = engine.generate(engine.begin(), IDS[:20], Options(max_tokens=9, halt=Halt()))
    assert next(short) >= 0


def test_other_weights_are_another_model(engine: Any, hybrid: Any, tmp_path: Path) -> None:
    assert engine.fingerprint.hex != hybrid.fingerprint.hex
    with pytest.raises(ConfigError, match="no model folder"):
        type(engine).load(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineError, match="cannot load"):
        type(engine).load(tmp_path)
    with pytest.raises(EngineError, match="template"):
        engine.render([{"role": "user"}, 3])  # type: ignore[list-item]


@pytest.mark.promise("right-answer")
def test_an_adapters_scale_is_the_models_identity_and_one_that_is_changed_begins_cold(
    shared_dir: Path, tmp_path: Path
) -> None:
    from mlx_lm.tuner.lora import LoRALinear

    from lix_cache.kv.engines.mlx import MlxEngine

    engine = MlxEngine.load(model_folder(shared_dir), context_tokens=1024)
    for layer in engine._model.model.layers:
        layer.self_attn.k_proj = LoRALinear.from_base(layer.self_attn.k_proj, r=4, scale=1.0)
        layer.self_attn.k_proj.lora_b = layer.self_attn.k_proj.lora_b + 0.1
    model = LocalModel(engine, KvStore(tmp_path))
    messages = conversation(20)
    model.generate(messages, session="s", max_tokens=8).all()
    before = model.fingerprint
    assert model.flush() == 1
    for layer in engine._model.model.layers:
        layer.self_attn.k_proj.scale = 9.0
    reply = model.generate(messages, session="s", max_tokens=8)
    reply.all()
    assert (reply.usage.cached_tokens, reply.usage.source) == (0, "none")
    assert model.fingerprint != before
    fresh = LocalModel(engine).generate(messages, max_tokens=8)
    fresh.all()
    assert fresh.ids == reply.ids


def test_temperature_and_share_choose_as_in_the_other_engines(engine: Any) -> None:
    import mlx.core as mx

    scores = mx.log(mx.array([0.5, 0.3, 0.15, 0.05]))
    # A share of nothing is the most probable token, and no seed is refused.
    for options in (Options(temperature=1.5, top_p=0.0, seed=-1), Options(temperature=0.0, top_p=0.5)):
        assert {engine._chooser(options)(scores) for _ in range(20)} == {0}
    # The temperature first: at 10 the four are nearly alike, and a share of 0.9 takes all of them.
    choose = engine._chooser(Options(temperature=10.0, top_p=0.9, seed=-5))
    assert {choose(scores) for _ in range(400)} == {0, 1, 2, 3}
