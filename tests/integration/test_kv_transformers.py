"""The KV store with transformers and trained weights: what is resumed is what was there, bit by bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache import kv
from lix_cache.errors import ConfigError, EngineError, InvalidInput
from lix_cache.kv.engine import Halt, Options
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.store import KvStore
from lix_cache.kv.tensors import Tensor
from tests.support.kv_models import SYSTEM, conversation, model_folder, transformers_engine

pytestmark = [
    pytest.mark.shared,
    # torch's own import warns on some platforms, and its threads are no concern here.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def engine(shared_dir: Path) -> Any:
    return transformers_engine(shared_dir)


@pytest.fixture(scope="module")
def other_engine(shared_dir: Path) -> Any:
    return transformers_engine(shared_dir, "coffee-3m-b")


@pytest.fixture
def store(tmp_path: Path) -> KvStore:
    return KvStore(tmp_path / "kv")


def resumed(engine: Any, store: KvStore, **options: Any) -> LocalModel:
    """Return a model that knows nothing but what is in the store, as after a restart."""
    return LocalModel(engine, KvStore(store.folder), **options)


LONG = conversation(40)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_restored_state_is_bit_equal(engine: Any, shared_dir: Path, dtype: str) -> None:
    engine = engine if dtype == "auto" else transformers_engine(shared_dir, dtype=dtype)
    ids = engine.tokenize(engine.render(LONG))[:600]
    live = engine.begin()
    engine.prefill(live, ids)
    parts = [engine.export(live, first, min(first + 256, 600)) for first in range(0, 600, 256)]
    again = engine.restore(parts, ids)
    assert again.size == live.size
    options = Options(max_tokens=30)
    replies = [list(engine.generate(state, [5, 6, 7], options)) for state in (live, again)]
    assert replies[0] == replies[1]
    assert live.size == again.size
    for one, two in zip(live.cache.layers, again.cache.layers, strict=True):
        assert torch.equal(one.keys, two.keys)
        assert torch.equal(one.values, two.values)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 599, 600])
def test_a_state_that_was_not_stepped_since_it_was_restored_is_cut_and_exported(
    engine: Any, count: int
) -> None:
    # Its parts are joined by the next step, and must be those of the tokens that are left by then.
    ids = engine.tokenize(engine.render(LONG))[:600]
    live = engine.begin()
    engine.prefill(live, ids)
    parts = [engine.export(live, first, min(first + 256, 600)) for first in range(0, 600, 256)]
    cut, again = engine.restore(parts, ids), engine.restore(parts, ids)
    for state in (live, cut):
        assert engine.cut(state, count)
    first, *others = [
        {name: (one.shape, bytes(one.view)) for name, one in engine.export(state, 0, count).items()}
        for state in (live, cut, again)
    ]
    assert all(other == first for other in others)
    assert cut.size == live.size
    assert engine.cut(again, count)
    scores = [engine._feed(state, [5, 6, 7]) for state in (live, cut, again)]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


@pytest.mark.promise("right-answer")
def test_parts_that_are_not_of_one_sequence_are_refused(engine: Any) -> None:
    live = engine.begin()
    engine.prefill(live, [5] * 20)
    one, two = engine.export(live, 0, 8), engine.export(live, 8, 20)
    other = {name: Tensor("F16", part.shape, bytes(part.size // 2)) for name, part in two.items()}
    wide = {
        name: Tensor(part.dtype, (*part.shape[:2], part.shape[2] // 2), bytes(part.size // 2))
        for name, part in two.items()
    }
    fewer = {name: part for name, part in two.items() if name != "1.v"}
    for bad in (other, wide, fewer):
        with pytest.raises(EngineError, match="does not fit"):
            engine.restore([one, bad], [5] * 20)
    with pytest.raises(EngineError, match="another number of tokens"):
        engine.restore([one, two], [5] * 21)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("step", [1, 2])
def test_a_model_that_fails_in_the_middle_of_a_step_leaves_no_half_of_it(
    engine: Any, store: KvStore, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = LocalModel(engine).generate(LONG, session="s", max_tokens=8).all()
    model = LocalModel(engine, store)
    model.generate(LONG[:-1], session="s", max_tokens=4).all()
    steps = []

    def failing(*arguments: Any, **options: Any) -> Any:
        # Half of the layers have seen the tokens by then.
        steps.append(1)
        return half(*arguments, **options) if len(steps) == step else whole(*arguments, **options)

    def half(*arguments: Any, **options: Any) -> Any:
        whole(*arguments, **options)
        raise RuntimeError("out of memory")

    layer = engine._model.model.layers[1]
    whole = layer.forward
    monkeypatch.setattr(layer, "forward", failing)
    with pytest.raises(EngineError, match="the model failed"):
        model.generate(LONG, session="s", max_tokens=8).all()
    monkeypatch.undo()
    assert model.generate(LONG, session="s", max_tokens=8).all() == wanted
    model.close()


@pytest.mark.promise("right-answer")
def test_a_conversation_resumes_after_a_restart_with_the_same_reply(engine: Any, store: KvStore) -> None:
    cold = LocalModel(engine)
    expected = cold.generate(LONG, max_tokens=40).all()
    first = LocalModel(engine, store)
    first.generate(LONG[:-2], session="s", max_tokens=10).all()
    first.close()
    model = resumed(engine, store)
    reply = model.generate(LONG, session="s", max_tokens=40)
    assert reply.all() == expected
    assert reply.usage.source == "disk"
    assert reply.usage.cached_tokens > 0.8 * reply.usage.prompt_tokens
    assert model.counters["restores"] == 1


@pytest.mark.promise("right-answer")
def test_cached_tokens_are_those_that_were_not_computed(
    engine: Any, store: KvStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = LocalModel(engine, store)
    first.generate(LONG, session="s", max_tokens=5).all()
    first.close()
    computed = []
    feed = type(engine)._feed
    monkeypatch.setattr(
        type(engine),
        "_feed",
        lambda self, live, ids, *more: (computed.append(len(ids)), feed(self, live, ids, *more))[1],
    )
    for model in (LocalModel(engine), resumed(engine, store)):
        computed.clear()
        reply = model.generate(LONG, session="s", max_tokens=5)
        reply.all()
        # One call for the prompt; then one for each token but the last.
        assert computed[0] == reply.usage.prompt_tokens - reply.usage.cached_tokens
        assert computed[1:] == [1] * (reply.usage.completion_tokens - 1)
    assert reply.usage.cached_tokens == reply.usage.prompt_tokens - 1


def test_a_session_goes_on_in_memory_and_computes_what_is_new(engine: Any) -> None:
    model = LocalModel(engine)
    messages = conversation(1)
    for number in range(4):
        reply = model.generate(messages, session="s", max_tokens=30)
        text = reply.all()
        if number:
            assert reply.usage.source == "memory"
            # All but what the user said now.
            assert reply.usage.prompt_tokens - reply.usage.cached_tokens < 30
        messages += [
            {"role": "assistant", "content": text},
            {"role": "user", "content": f"And another one, number {number}."},
        ]
    assert model.stats()["live_sessions"] == 1


def test_a_call_without_a_session_finds_the_one_it_goes_on_from(engine: Any) -> None:
    model = LocalModel(engine)
    messages = conversation(1)
    first = model.generate(messages, max_tokens=20)
    messages += [{"role": "assistant", "content": first.all()}, {"role": "user", "content": "Yes."}]
    second = model.generate(messages, max_tokens=5)
    second.all()
    assert second.session == first.session
    assert second.usage.source == "memory"
    other = model.generate(messages, tenant="ann", max_tokens=5)
    other.all()
    assert other.usage.cached_tokens == 0


def test_tokens_that_the_model_made_are_not_tokenised_again(engine: Any, store: KvStore) -> None:
    """A reply whose text gives other tokens would lose the state behind it."""

    class Odd(type(engine)):  # type: ignore[misc]
        def tokenize(self, text: str) -> list[int]:
            # A letter at a time, but for the first prompt: never what the model made of it.
            parts = [text] if len(text) < 300 else text
            return [one for part in parts for one in super(Odd, self).tokenize(part)]

    odd = Odd(engine._model, engine._tokenizer)
    messages = conversation(1)
    model = LocalModel(odd, store)
    first = model.generate(messages, session="s", max_tokens=30)
    text = first.all()
    model.close()
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "Yes."}]
    again = resumed(odd, store).generate(messages, session="s", max_tokens=3)
    again.all()
    assert again.usage.cached_tokens >= first.usage.prompt_tokens + len(first.ids) - 1


# -- sharing, and not sharing ----------------------------------------------------------


def test_sessions_with_a_common_prefix_share_its_blocks(engine: Any, store: KvStore) -> None:
    system = f"{SYSTEM} " * 8
    model = LocalModel(engine, store)
    count = len(engine.tokenize(engine.render(conversation(0, system)[:1], reply=False)))
    assert count > 256
    for number in range(5):
        messages = [*conversation(0, system)[:1], {"role": "user", "content": f"Number {number}, please."}]
        model.generate(messages, session=f"s{number}", max_tokens=5).all()
    model.close()
    names = [path.stem for path in Path(store.folder).rglob("*.safetensors")]
    blocks = [name for name in names if "-" not in name]
    assert len(blocks) == count // 256
    assert sum(f"-{count}-" in name for name in names) == 1
    # A new session begins behind the system prompt.
    fresh = resumed(engine, store).generate(
        [*conversation(0, system)[:1], {"role": "user", "content": "Something else."}], max_tokens=3
    )
    fresh.all()
    assert fresh.usage.cached_tokens == count


@pytest.mark.promise("right-answer")
def test_two_models_of_one_geometry_never_share(engine: Any, other_engine: Any, store: KvStore) -> None:
    assert engine.fingerprint != other_engine.fingerprint
    first = LocalModel(engine, store)
    first.generate(LONG, session="s", max_tokens=5).all()
    first.close()
    expected = LocalModel(other_engine).generate(LONG, max_tokens=20).all()
    reply = resumed(other_engine, store).generate(LONG, session="s", max_tokens=20)
    assert reply.all() == expected
    assert reply.usage.cached_tokens == 0


@pytest.mark.promise("isolation")
def test_tenants_share_nothing(engine: Any, store: KvStore) -> None:
    first = LocalModel(engine, store)
    first.generate(LONG, session="s", tenant="ann", max_tokens=5).all()
    again = first.generate(LONG, session="s", tenant="bob", max_tokens=5)
    again.all()
    assert (again.usage.cached_tokens, again.miss) == (0, None)
    first.close()
    reply = resumed(engine, store).generate(LONG, session="s", tenant="cid", max_tokens=5)
    reply.all()
    assert reply.usage.cached_tokens == 0
    assert resumed(engine, store).generate(LONG, tenant="ann", max_tokens=5).usage.cached_tokens > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_dtype_is_another_model(engine: Any, shared_dir: Path, dtype: str, store: KvStore) -> None:
    half = transformers_engine(shared_dir, dtype=dtype)
    assert half.fingerprint != engine.fingerprint
    model = LocalModel(half, store)
    model.generate(LONG, session="s", max_tokens=5).all()
    expected = model.generate([*LONG, *conversation(1)[1:]], session="s", max_tokens=20).all()
    model.close()
    again = resumed(half, store).generate(LONG, session="s", max_tokens=1)
    again.all()
    assert again.usage.source == "disk"
    assert expected


# -- damage and ends -------------------------------------------------------------------


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "foreign", "gone"])
def test_a_damaged_store_costs_time_and_no_answer(engine: Any, store: KvStore, damage: str) -> None:
    expected = LocalModel(engine).generate(LONG, max_tokens=20).all()
    first = LocalModel(engine, store)
    first.generate(LONG, session="s", max_tokens=5).all()
    first.close()
    for number, path in enumerate(sorted(Path(store.folder).rglob("*.safetensors"))):
        data = bytearray(path.read_bytes())
        data[len(data) // 2 + number] ^= 4
        new = {"torn": bytes(data[:-100]), "flipped": bytes(data), "empty": b"", "foreign": b"x" * 9000}
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(new[damage])
    model = resumed(engine, store)
    reply = model.generate(LONG, session="s", max_tokens=20)
    assert reply.all() == expected
    assert reply.usage.cached_tokens == 0
    model.close()
    assert model.counters["failed_restores"] == 0


KILLED = """
import json, sys
from pathlib import Path
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.store import KvStore
from lix_cache.kv.tensors import Tensor
from tests.support.kv_models import conversation, transformers_engine
model = LocalModel(transformers_engine(Path(sys.argv[1])), KvStore(sys.argv[2]))
reply = model.generate(conversation(40), session="s", max_tokens=30)
reply.all()
model.flush()
print(json.dumps(reply.ids), flush=True)
import time
time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.promise("right-answer")
def test_the_same_reply_after_a_kill_and_a_restart(engine: Any, store: KvStore, shared_dir: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(shared_dir), store.folder],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        ids = json.loads(child.stdout.readline())
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]
    reply = resumed(engine, store).generate(conversation(40), session="s", max_tokens=30)
    reply.all()
    assert reply.ids == ids
    assert reply.usage.cached_tokens == reply.usage.prompt_tokens - 1


def test_a_full_store_fails_no_call(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    model = LocalModel(engine, KvStore(tmp_path / "file" / "kv"))
    assert model.generate(LONG, session="s", max_tokens=5).all()
    model.close()
    assert model.counters["failed_saves"] == 1


def test_memory_keeps_its_budget_and_what_leaves_it_is_on_disk(engine: Any, store: KvStore) -> None:
    one = LocalModel(engine)
    one.generate(LONG, session="s", max_tokens=5).all()
    size = one.stats()["live_bytes"]
    model = LocalModel(engine, store, memory_bytes=int(size * 2.5))
    for number in range(5):
        messages = [{"role": "system", "content": f"Number {number}."}, *LONG[1:]]
        model.generate(messages, session=f"s{number}", max_tokens=5).all()
        assert model.stats()["live_bytes"] <= size * 2.5
    assert model.counters["evictions"] == 3
    back = model.generate([{"role": "system", "content": "Number 0."}, *LONG[1:]], session="s0", max_tokens=5)
    back.all()
    assert back.usage.source == "disk"


def test_idle_sessions_go_to_disk_and_busy_ones_do_not(engine: Any, store: KvStore) -> None:
    model = LocalModel(engine, store)
    model.generate(LONG, session="s", max_tokens=5).all()
    assert model.flush(idle_seconds=3600) == 0
    assert not list(Path(store.folder).rglob("*.safetensors"))
    assert model.flush() == 1
    assert model.flush() == 0
    assert list(Path(store.folder).rglob("*.safetensors"))


@pytest.mark.promise("isolation")
def test_what_is_forgotten_is_nowhere(engine: Any, store: KvStore) -> None:
    model = LocalModel(engine, store)
    model.generate(LONG, session="s", max_tokens=5).all()
    model.flush()
    model.generate(LONG, session="t", max_tokens=5).all()
    assert model.forget("", "s") > 0
    assert not list(Path(store.folder).rglob("*.safetensors"))
    assert model.generate(LONG, session="s", max_tokens=2).usage.source == "none"


# -- replies ---------------------------------------------------------------------------


def test_a_stop_text_ends_the_reply_and_is_not_in_it(engine: Any) -> None:
    whole = LocalModel(engine).generate(LONG, max_tokens=40).all()
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    reply = LocalModel(engine).generate(LONG, max_tokens=40, stop=[stop])
    pieces = list(reply)
    assert "".join(pieces) == whole[: whole.index(stop)] == reply.text
    assert reply.finish_reason == "stop"
    assert len(pieces) > 1


def test_a_reply_that_is_dropped_lets_go_of_the_model(engine: Any) -> None:
    model = LocalModel(engine)
    reply = model.generate(LONG, session="s", max_tokens=40)
    next(reply)
    del reply
    reply = model.generate(LONG, session="s", max_tokens=3)
    reply.close()
    assert model.generate(LONG, session="s", max_tokens=3).all()
    assert reply.usage.completion_tokens == 0


def test_sampling_with_a_seed_is_repeatable(engine: Any) -> None:
    replies = {
        LocalModel(engine).generate(LONG, max_tokens=20, temperature=1.0, top_p=0.9, seed=seed).all()
        for seed in (1, 1, 2, 3)
    }
    assert 1 < len(replies) <= 3


def test_token_ids_are_a_prompt(engine: Any) -> None:
    ids = engine.tokenize(engine.render(LONG))
    assert (
        LocalModel(engine).generate(ids, max_tokens=10).all()
        == LocalModel(engine).generate(LONG, max_tokens=10).all()
    )


@pytest.mark.parametrize("prompt", [[], [1] * 5000, [-1], ["x"]])
def test_a_prompt_that_makes_no_sense_is_refused_and_blocks_nothing(engine: Any, prompt: list[Any]) -> None:
    model = LocalModel(engine)
    with pytest.raises(InvalidInput):
        model.generate(prompt)
    assert model.generate(LONG, max_tokens=1).all() is not None


def test_the_example_of_the_page_gains_at_its_second_run(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "kv.md"
    example = page.read_text("utf-8").split("```py\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "my-model").symlink_to(model_folder(shared_dir))
    said = []
    for _ in range(2):
        exec(compile(example, str(page), "exec"), {"__name__": "page"})
        said.append(capsys.readouterr().out.splitlines()[-1])
    count = int(said[0].split()[2])
    assert said == [
        f"0 of {count} tokens were not computed: none",
        f"{count - 1} of {count} tokens were not computed: disk",
    ]


@pytest.mark.parametrize("name", ["nope", "org/nope", "~/nope"])
def test_a_folder_that_is_not_there_is_said_at_once(name: str) -> None:
    with pytest.raises(ConfigError, match="there is no model folder"):
        kv.TransformersEngine.load(name)


def test_a_dtype_that_is_none_is_said_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one of auto, bfloat16, float16"):
        kv.TransformersEngine.load(tmp_path, dtype="bf17")


def test_settings_and_ends(engine: Any) -> None:
    with pytest.raises(ConfigError):
        LocalModel(engine, encoding="q2")
    model = LocalModel(engine)
    model.close()
    with pytest.raises(EngineError, match="closed"):
        model.generate(LONG)


def test_a_clock_in_the_system_prompt_is_named(engine: Any, store: KvStore) -> None:
    def asked(minute: int) -> list[dict[str, Any]]:
        return conversation(20, f"{SYSTEM} It is 12:{minute} now.")

    model = LocalModel(engine, store)
    first = model.generate(asked(10), session="s", max_tokens=3)
    assert (first.all() is not None, first.miss) == (True, None)
    reply = model.generate(asked(31), session="s", max_tokens=3)
    assert reply.miss is not None
    assert reply.miss.part == "system"
    assert reply.miss.token_in_part == reply.miss.token
    assert "of system" in str(reply.miss)
    reply.close()
    model.close()
    fresh = resumed(engine, store).generate(asked(45), session="other", max_tokens=3)
    assert fresh.miss is not None
    assert (fresh.miss.part, fresh.miss.session) == ("system", "s")


# -- lossy and lossless ----------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["zstd", "q8", "q4"])
def test_other_encodings_resume_and_are_kept_apart(engine: Any, store: KvStore, encoding: str) -> None:
    first = LocalModel(engine, store, encoding=encoding)
    first.generate(LONG, session="s", max_tokens=5).all()
    first.close()
    assert resumed(engine, store).generate(LONG, session="s", max_tokens=2).usage.cached_tokens == 0
    reply = resumed(engine, store, encoding=encoding).generate(LONG, session="s", max_tokens=20)
    reply.all()
    assert reply.usage.cached_tokens == reply.usage.prompt_tokens - 1
    if encoding != "q4":
        assert reply.ids == _ids(LocalModel(engine), LONG, 20)


def _ids(model: LocalModel, messages: list[dict[str, Any]], count: int) -> list[int]:
    reply = model.generate(messages, max_tokens=count)
    reply.all()
    return reply.ids


# -- windows and recurrent layers ------------------------------------------------------


def small(kind: str, shared_dir: Path) -> Any:
    from lix_cache.kv.engines.transformers import TransformersEngine

    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder(shared_dir))
    common: dict[str, Any] = {
        "vocab_size": 2048,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "eos_token_id": 4,
        "pad_token_id": 0,
    }
    if kind == "gemma3":
        layers = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
        config = transformers.Gemma3TextConfig(**common, sliding_window=64, layer_types=layers)
    else:
        layers = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
        config = transformers.Qwen3NextConfig(
            **common, layer_types=layers, num_experts=0, linear_num_value_heads=2, linear_num_key_heads=2,
            linear_key_head_dim=16, linear_value_head_dim=16,
        )  # fmt: skip
    torch.manual_seed(7)
    torch.set_num_threads(1)
    return TransformersEngine(transformers.AutoModelForCausalLM.from_config(config), tokenizer)


@pytest.fixture(scope="module", params=["gemma3", "qwen3-next"])
def hybrid(request: pytest.FixtureRequest, shared_dir: Path) -> Iterator[Any]:
    return small(request.param, shared_dir)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("count", [10, 64, 65, 300])
def test_windows_and_recurrent_states_are_restored_exactly(hybrid: Any, count: int) -> None:
    assert hybrid.exports == "snapshots"
    ids = hybrid.tokenize(hybrid.render(LONG))
    live = hybrid.begin()
    hybrid.prefill(live, ids[:count])
    again = hybrid.restore([hybrid.export(live, 0, count)], ids[:count])
    logits = [hybrid._feed(state, ids[count : count + 100]) for state in (live, again)]
    assert torch.equal(*logits)
    logits = [hybrid._feed(state, ids[count + 100 : count + 101]) for state in (live, again)]
    assert torch.equal(*logits)


def test_a_hybrid_model_resumes_where_it_stood_and_at_the_system_prompt(hybrid: Any, store: KvStore) -> None:
    first = LocalModel(hybrid, store)
    reply = first.generate(LONG[:-2], session="s", max_tokens=4)
    reply.all()
    first.close()
    goes_on = [*LONG[:-2], {"role": "assistant", "content": reply.text}, *LONG[-1:]]
    again = resumed(hybrid, store).generate(goes_on, session="s", max_tokens=4)
    again.all()
    system = len(hybrid.tokenize(hybrid.render(LONG[:1], reply=False)))
    assert again.usage.source == "disk"
    assert again.usage.cached_tokens in (system, reply.usage.prompt_tokens + len(reply.ids) - 1)
    other = resumed(hybrid, store).generate(
        [LONG[0], {"role": "user", "content": "Hello?"}], session="t", max_tokens=2
    )
    other.all()
    assert other.usage.cached_tokens == system


@pytest.mark.promise("no-stall")
def test_a_prompt_that_is_being_computed_can_be_halted(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    halt, fed = Halt(), []
    live = engine.begin()
    generated = engine.generate(live, [5] * 1200, Options(halt=halt))
    step = engine._step

    def counted(*arguments: Any) -> Any:
        fed.append(1)
        halt.set()
        return step(*arguments)

    monkeypatch.setattr(engine, "_step", counted)
    with pytest.raises(EngineError, match="halted"):
        next(generated)
    monkeypatch.undo()
    assert (len(fed), len(live.ids)) == (1, 512), "what it computed is kept"
    again = Halt()
    replies = engine.generate(live, [7], Options(max_tokens=50, halt=again))
    next(replies)
    again.set()
    assert len(list(replies)) <= 1


def adapted(shared_dir: Path, **attributes: Any) -> Any:
    """Return an engine with adapters whose weights are the same; an attribute says which is active."""
    import torch

    class Adapter(torch.nn.Module):
        def __init__(self, base: Any) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.base = base
            self.down = torch.nn.Parameter(torch.randn(4, base.in_features) / 10)
            self.up = torch.nn.Parameter(torch.randn(base.out_features, 4) / 10)
            self.scaling = {"one": 0.0, "two": 4.0}
            self._active_adapter = ["one"]
            vars(self).update(attributes)

        def forward(self, states: Any) -> Any:
            scale = sum(self.scaling[one] for one in self._active_adapter)
            return self.base(states) + scale * (states @ self.down.T @ self.up.T)

    found = transformers_engine(shared_dir)
    for layer in found._model.model.layers:
        layer.self_attn.k_proj = Adapter(layer.self_attn.k_proj)
    return type(found)(found._model, found._tokenizer)


def activate(engine: Any, name: str) -> None:
    for layer in engine._model.model.layers:
        layer.self_attn.k_proj._active_adapter = [name]


@pytest.mark.promise("right-answer")
def test_an_adapters_scale_and_which_is_active_are_the_models_identity(shared_dir: Path) -> None:
    found = [
        adapted(shared_dir, **attributes).fingerprint.hex
        for attributes in (
            {},
            {"scaling": {"one": 0.5, "two": 4.0}},
            {"_active_adapter": ["two"]},
            {"_disable_adapters": True},
            {"merged_adapters": ["one"]},
            {"gain": 2.5},
        )
    ]
    assert len(set(found)) == len(found)
    assert adapted(shared_dir, calls=7).fingerprint.hex == found[0], "what only counts changes nothing"


@pytest.mark.promise("right-answer")
def test_an_adapter_that_is_exchanged_while_the_model_runs_begins_cold(
    shared_dir: Path, store: KvStore
) -> None:
    engine = adapted(shared_dir)
    plain = {}
    for name in ("one", "two"):
        activate(engine, name)
        reply = LocalModel(engine).generate(LONG, max_tokens=12)
        reply.all()
        plain[name] = reply.ids
    assert plain["one"] != plain["two"]
    activate(engine, "one")
    model = LocalModel(engine, store)
    first = model.generate(LONG, session="s", max_tokens=12)
    first.all()
    before = model.fingerprint
    assert model.flush() == 1
    # In memory, on disk, and as a copy of a state in memory.
    activate(engine, "two")
    for session in ("s", None, "t"):
        reply = model.generate(LONG, session=session, max_tokens=12)
        reply.all()
        assert reply.ids == plain["two"]
        if session == "s":
            assert (reply.usage.cached_tokens, reply.usage.source) == (0, "none")
    assert model.fingerprint != before
    model.close()
    activate(engine, "one")
    again = LocalModel(engine, store).generate(LONG, session="s", max_tokens=12)
    again.all()
    assert (again.ids, again.usage.source) == (plain["one"], "disk")


@pytest.mark.promise("right-answer")
def test_weights_that_are_written_to_while_the_model_runs_make_another_model(shared_dir: Path) -> None:
    import torch

    engine = transformers_engine(shared_dir)
    live = engine.begin()
    engine.prefill(live, list(range(5, 60)))
    before = engine.fingerprint
    with torch.no_grad():
        engine._model.model.layers[0].self_attn.k_proj.weight.mul_(1.5)
    made = list(engine.generate(live, [7, 8], Options(max_tokens=5)))
    assert engine.fingerprint != before
    assert live.evaluated == 57
    fresh = engine.begin()
    assert list(engine.generate(fresh, [*range(5, 60), 7, 8], Options(max_tokens=5))) == made


@pytest.mark.promise("no-stall")
def test_the_system_prompts_state_is_halted_with_the_request(engine: Any, store: KvStore) -> None:
    halt, fed = Halt(), []
    step = type(engine)._step

    class Windowed(type(engine)):  # type: ignore[misc]
        exports, cuts = "snapshots", False

        def _step(self, sequence: Any, ids: list[int]) -> Any:
            fed.append(len(ids))
            halt.set()
            return step(self, sequence, ids)

    windowed = Windowed(engine._model, engine._tokenizer)
    windowed.exports, windowed.cuts = "snapshots", False
    system = {"role": "system", "content": "You take orders at a coffee bar. " * 150}
    model = LocalModel(windowed, store)
    with pytest.raises(EngineError, match="halted"):
        model.generate([system, {"role": "user", "content": "Hi."}], session="s", halt=halt).all()
    assert len(fed) == 1, "of more than a thousand tokens, the first chunk"
    assert fed[0] < len(windowed.tokenize(windowed.render([system], reply=False)))
