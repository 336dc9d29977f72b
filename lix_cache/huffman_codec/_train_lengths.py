"""Training, step 3: code lengths of a limited-length canonical code."""

from __future__ import annotations

from typing import Any

__all__ = ["limited_lengths"]


def limited_lengths(weights: Any, longest: int) -> Any:
    """Return the optimal code lengths of at most ``longest`` bits, for positive integer weights.

    Package-merge (Larmore and Hirschberg, "A Fast Algorithm for Optimal Length-Limited
    Huffman Codes", 1990): of the 2n - 2 lightest items of the last list, a symbol's
    length is the number of lists in which its own item is among those taken.
    """
    import numpy as np

    weights = np.asarray(weights, dtype=np.int64)
    count = len(weights)
    if count == 1:
        return np.ones(1, dtype=np.int64)
    if count > 1 << longest:
        raise ValueError(f"{count} code words do not fit into {longest} bits")
    order = np.argsort(weights, kind="stable")
    leaves = weights[order]
    items = leaves
    is_leaf = [np.ones(count, dtype=bool)]
    for _ in range(longest - 1):
        even = len(items) // 2 * 2
        packages = items[0:even:2] + items[1:even:2]
        both = np.concatenate((leaves, packages))
        merged = np.argsort(both, kind="stable")
        items = both[merged]
        is_leaf.append(merged < count)
    lengths = np.zeros(count, dtype=np.int64)
    take = 2 * count - 2
    for mask in reversed(is_leaf):
        own = int(mask[:take].sum())
        lengths[order[:own]] += 1
        take = 2 * (take - own)
    return lengths
