"""Real engines with the trained models of the shared folder, and a conversation they can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

__all__ = ["SYSTEM", "conversation", "model_folder", "transformers_engine"]

SYSTEM = (
    "You are the barista's assistant at a coffee bar. Take the order, ask for what is missing (size, milk, "
    "flavor), read the order back and confirm it."
)
_TURNS = (
    ("user", "Hi, I would like to order a latte please."),
    ("assistant", "Sure, what size would you like for your latte?"),
    ("user", "A large one, with oat milk and a bit of vanilla."),
    ("assistant", "Okay, a large latte with oat milk and vanilla. Anything else?"),
)


def conversation(turns: int, system: str = SYSTEM) -> list[dict[str, Any]]:
    """Return a system prompt and so many messages, the last of the user."""
    messages = [{"role": "system", "content": system}]
    for number in range(turns):
        role, text = _TURNS[number % len(_TURNS)]
        messages.append({"role": role, "content": f"{text} ({number})"})
    if messages[-1]["role"] == "assistant":
        messages.append({"role": "user", "content": "Thank you, that is all."})
    return messages


def model_folder(shared_dir: Path, name: str = "coffee-3m") -> Path:
    folder = shared_dir / "models" / name
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    return folder


def transformers_engine(shared_dir: Path, name: str = "coffee-3m", **options: Any) -> Any:
    """Return the reference engine with a model of the shared folder, at one thread."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from lix_cache.kv.engines.transformers import TransformersEngine

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    folder = model_folder(shared_dir, name)
    # The second model has the tokenizer of the first.
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder(shared_dir))
    dtype = options.pop("dtype", "float32")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return TransformersEngine(model, tokenizer, **options)
