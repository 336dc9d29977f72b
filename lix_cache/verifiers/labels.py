"""From a cross-encoder's logits to the probability that two texts mean the same."""

from __future__ import annotations

from typing import Any

from lix_cache.errors import VerifierError

__all__ = ["probability_of_same"]

#: What models call the label that says: these two mean the same.
_SAME = ("entailment", "paraphrase", "duplicate", "is_duplicate", "equivalent", "same", "similar", "yes")


def probability_of_same(logits: Any, config: dict[str, Any], label: str | int | None) -> Any:
    """Return the probability of "the same", shape (n,), from logits of shape (n, labels)."""
    import numpy as np

    count = logits.shape[1]
    position = _position(count, config.get("id2label"), label)
    if count == 1 or config.get("problem_type") == "multi_label_classification":
        # Written with tanh, which does not overflow.
        return 0.5 * (1.0 + np.tanh(0.5 * logits[:, position]))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers[:, position] / powers.sum(axis=1)


def _position(count: int, id2label: object, label: str | int | None) -> int:
    """Return which label means "the same"."""
    named = id2label if isinstance(id2label, dict) else {}
    names = [str(named.get(str(i), "")).casefold() for i in range(count)]
    if isinstance(label, str):
        if label.casefold() not in names:
            raise VerifierError(f"the model has no label {label!r}; its config.json names {names}")
        return names.index(label.casefold())
    if label is not None:
        if not 0 <= label < count:
            raise VerifierError(f"the model has no label {label}, but {count} labels")
        return label
    if count == 1:
        return 0
    known = [names.index(name) for name in _SAME if name in names]
    if known:
        return known[0]
    if count == 2:
        return 1
    raise VerifierError(
        f"which of the model's labels {names} means that two texts say the same? Name it: label="
    )
