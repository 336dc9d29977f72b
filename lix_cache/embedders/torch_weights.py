"""Which weights a torch model has: a branch on the hub may change under one name."""

from __future__ import annotations

import hashlib
from typing import Any

__all__ = ["weights_digest"]


def weights_digest(model: Any, *choices: object) -> str:
    """Return a digest of a torch module's weights and of choices that change its answers."""
    import torch

    whole = hashlib.blake2b(digest_size=12)
    for name, weights in sorted(model.state_dict().items()):
        whole.update(f"{name} {weights.dtype} {tuple(weights.shape)} ".encode())
        # As bytes: numpy does not know all of torch's types.
        whole.update(weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    whole.update(repr(choices).encode())
    return whole.hexdigest()
