"""The check that the demo is for: every message came back once, in order, unchanged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lix_cache.cli.conversations import Message

__all__ = ["Verdict", "compare"]


@dataclass
class Verdict:
    """What a comparison of all that went in with all that came back found.

    Attributes:
        messages: how many should have come back.
        lost: how many did not.
        doubled: how many came that should not, or once too often.
        out_of_order: conversations whose messages are all there, in another order.
        examples: the first troubles, in words.
    """

    messages: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not (self.lost or self.doubled or self.out_of_order)


def compare(
    verdict: Verdict, conversation: str, sent: Sequence[Message], came_back: Sequence[dict[str, Any]]
) -> None:
    """Add one conversation to the verdict. Role, content and metadata must be equal to the letter."""
    expected = [_key(m.role, m.content, m.metadata) for m in sent]
    got = [_key(m.get("role"), m.get("content"), m.get("metadata")) for m in came_back]
    verdict.messages += len(expected)
    if expected == got:
        return
    lost = Counter(expected) - Counter(got)
    doubled = Counter(got) - Counter(expected)
    verdict.lost += lost.total()
    verdict.doubled += doubled.total()
    verdict.out_of_order += not lost and not doubled
    if len(verdict.examples) < 3:
        what = f"{lost.total()} lost, {doubled.total()} too many" if lost or doubled else "out of order"
        verdict.examples.append(f"{conversation}: {what}")


def _key(role: Any, content: Any, metadata: Any) -> str:
    return json.dumps([role, content, metadata], sort_keys=True)
