"""Code lengths and the canonical code made from them."""

from __future__ import annotations

import heapq
from collections import Counter

__all__ = ["canonical_codes", "code_lengths"]


def code_lengths(data: bytes) -> list[tuple[int, int]]:
    """Return (symbol, code length) for every byte value in ``data``, in canonical order.

    Canonical order is by (length, symbol). The lengths are optimal (Huffman, "A Method
    for the Construction of Minimum-Redundancy Codes", 1952); a single symbol gets one bit.
    """
    counts = Counter(data)
    if len(counts) == 1:
        return [(data[0], 1)]
    # Leaves are numbered by symbol, inner nodes from 256 up in the order they are
    # made; a parent's number is larger than its children's, so one pass downwards
    # gives every depth without recursion.
    heap = [(count, symbol) for symbol, count in counts.items()]
    heapq.heapify(heap)
    parent: dict[int, int] = {}
    node = 256
    while len(heap) > 1:
        count, left = heapq.heappop(heap)
        other, right = heap[0]
        parent[left] = parent[right] = node
        heapq.heapreplace(heap, (count + other, node))
        node += 1
    depth = {node - 1: 0}
    for inner in range(node - 2, 255, -1):
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
