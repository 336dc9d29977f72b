"""Code lengths and the canonical code made from them."""

from __future__ import annotations

import heapq
from collections import Counter

__all__ = ["canonical_codes", "code_lengths", "limited_lengths"]


def code_lengths(data: bytes) -> list[tuple[int, int]]:
    """Return (symbol, code length) for every byte value in ``data``, in canonical order.

    Canonical order is by (length, symbol). A single symbol gets one bit.
    """
    return _huffman_lengths(Counter(data))


def limited_lengths(counts: dict[int, int], longest: int) -> list[tuple[int, int]]:
    """Return (symbol, code length) in canonical order, with no length above ``longest``.

    The lengths are optimal under that limit.
    """
    lengths = _huffman_lengths(counts)
    if lengths[-1][1] <= longest:
        return lengths
    return _package_merge(counts, longest)


def _package_merge(counts: dict[int, int], longest: int) -> list[tuple[int, int]]:
    """Larmore and Hirschberg, "A Fast Algorithm for Optimal Length-Limited Huffman Codes", 1990.

    Every list holds all symbols and the pairs of the list before, by weight; where
    weights are equal, symbols come first, in their order. A symbol's length is the number
    of times it is in the 2n - 2 lightest items of the last list.
    """
    leaves = sorted((count, symbol) for symbol, count in counts.items())
    weights = [count for count, _ in leaves]
    own: list[list[bool]] = []
    items = weights
    for level in range(longest):
        if level:
            pairs = [a + b for a, b in zip(items[0::2], items[1::2], strict=False)]
            marked = [(count, False) for count in weights] + [(count, True) for count in pairs]
            marked.sort()
            items = [count for count, _ in marked]
            own.append([not pair for _, pair in marked])
        else:
            own.append([True] * len(items))
    lengths = [0] * len(leaves)
    take = 2 * len(leaves) - 2
    for flags in reversed(own):
        # Symbols are taken in the order of their weight, so a number says which.
        taken = sum(flags[:take])
        for index in range(taken):
            lengths[index] += 1
        take = 2 * (take - taken)
    pairs_of = [(symbol, length) for (_, symbol), length in zip(leaves, lengths, strict=True)]
    return sorted(pairs_of, key=lambda pair: (pair[1], pair[0]))


def _huffman_lengths(counts: dict[int, int]) -> list[tuple[int, int]]:
    """Huffman, "A Method for the Construction of Minimum-Redundancy Codes", 1952."""
    if len(counts) == 1:
        return [(next(iter(counts)), 1)]
    # Leaves are numbered by symbol, inner nodes above them in the order they are
    # made; a parent's number is larger than its children's, so one pass downwards
    # gives every depth without recursion.
    heap = [(count, symbol) for symbol, count in counts.items()]
    heapq.heapify(heap)
    parent: dict[int, int] = {}
    first = node = max(counts) + 1
    while len(heap) > 1:
        count, left = heapq.heappop(heap)
        other, right = heap[0]
        parent[left] = parent[right] = node
        heapq.heapreplace(heap, (count + other, node))
        node += 1
    depth = {node - 1: 0}
    for inner in range(node - 2, first - 1, -1):
        depth[inner] = depth[parent[inner]] + 1
    lengths = [(symbol, depth[parent[symbol]] + 1) for symbol in counts]
    return sorted(lengths, key=lambda pair: (pair[1], pair[0]))


def canonical_codes(lengths: list[tuple[int, int]]) -> list[int]:
    """Return the code word of each pair, for pairs in canonical order."""
    codes = []
    code = previous = 0
    for _, length in lengths:
        code <<= length - previous
        codes.append(code)
        code += 1
        previous = length
    return codes
