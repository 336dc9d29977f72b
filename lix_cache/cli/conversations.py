"""Conversations to replay: OpenAI-style, ShareGPT, or our own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import islice
from typing import Any

from lix_cache import InvalidInput
from lix_cache.cli.jsonl import Record, kind_of, read_records

__all__ = ["Conversation", "Message", "load"]

#: ShareGPT's names for who speaks.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}
_FORMATS = '"messages" (role, content), "conversations" (from, value; ShareGPT) or "turns" (role, content)'
_DEFAULT_VISITS = 2


@dataclass(frozen=True)
class Message:
    """A message to replay.

    Attributes:
        role: who says it.
        content: text or any JSON value.
        metadata: everything else it came with, such as tool calls.
    """

    role: str
    content: Any
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str | None:
        """The page it is about, if it says so."""
        url = self.metadata.get("url")
        return url if isinstance(url, str) else None

    @property
    def size(self) -> int:
        """Bytes of UTF-8: the role, the content, and what else there is as JSON."""
        parts = [self.role, self.content if isinstance(self.content, str) else _json(self.content)]
        if self.metadata:
            parts.append(_json(self.metadata))
        return sum(len(part.encode("utf-8", "surrogatepass")) for part in parts)


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Conversation:
    """A conversation to replay.

    Attributes:
        id: unique in the run; the session's id.
        title: what to show.
        messages: in order.
        visits: how often its user comes back to it, the first time included.
        where: where it was read, for errors.
    """

    id: str
    title: str
    messages: list[Message]
    visits: int
    where: str

    def by_visit(self) -> list[list[Message]]:
        """Cut into visits of about the same length, each beginning with the user."""
        starts = [0]
        for number in range(1, self.visits):
            start = max(number * len(self.messages) // self.visits, starts[-1] + 1)
            while start < len(self.messages) and self.messages[start].role != "user":
                start += 1
            if start < len(self.messages):
                starts.append(start)
        return [self.messages[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]


def load(paths: Iterable[str], limit: int | None) -> list[Conversation]:
    """Read the conversations of all files; of the set that is inside if there are none.

    Raises:
        InvalidInput: a file cannot be read or understood; the text names file and line.
    """
    listed = list(paths)
    conversations = list(islice(_unique(_all(listed)), limit))
    if not conversations:
        raise InvalidInput(f"there is no conversation in {', '.join(listed) or 'the demo set'}")
    return conversations


def _all(paths: list[str]) -> Iterator[Conversation]:
    if not paths:
        with files("lix_cache.cli").joinpath("data").joinpath("demo.jsonl").open("rb") as file:
            yield from map(_conversation, read_records(file, "demo.jsonl"))
    for path in paths:
        try:
            with open(path, "rb") as file:
                yield from map(_conversation, read_records(file, os.path.basename(path)))
        except OSError as error:
            raise InvalidInput(f"{path}: {error.strerror}") from None


def _unique(conversations: Iterable[Conversation]) -> Iterator[Conversation]:
    """Give a second name to an id that comes again: two conversations are two sessions."""
    seen: dict[str, int] = {}
    for found in conversations:
        seen[found.id] = count = seen.get(found.id, 0) + 1
        if count == 1:
            yield found
        else:
            yield Conversation(f"{found.id} #{count}", found.title, found.messages, found.visits, found.where)


def _conversation(record: Record) -> Conversation:
    value = record.value
    messages = _messages(record)
    name = str(value.get("id") or value.get("session_id") or f"conversation {record.number}")
    visits = value.get("sessions", _DEFAULT_VISITS)
    return Conversation(
        id=name,
        title=str(value.get("title") or name),
        messages=messages,
        visits=visits if isinstance(visits, int) and visits > 0 else _DEFAULT_VISITS,
        where=record.where,
    )


def _messages(record: Record) -> list[Message]:
    for key in ("messages", "conversations", "turns"):
        if key in record.value:
            items = record.value[key]
            break
    else:
        raise record.refuse(f"no messages; a conversation has {_FORMATS}")
    if not isinstance(items, list):
        raise record.refuse(f'"{key}" must be an array, not {kind_of(items)}')
    if not items:
        raise record.refuse(f'"{key}" is empty')
    return [_message(record, f"{key}[{i}]", item) for i, item in enumerate(items)]


def _message(record: Record, place: str, item: Any) -> Message:
    if not isinstance(item, dict):
        raise record.refuse(f"{place} must be an object, not {kind_of(item)}")
    is_sharegpt = "from" in item and "role" not in item
    role_key, content_key = ("from", "value") if is_sharegpt else ("role", "content")
    role = item.get(role_key)
    if not isinstance(role, str):
        what = "is missing" if role_key not in item else f"must be a string, not {kind_of(role)}"
        raise record.refuse(f'"{role_key}" of {place} {what}')
    if content_key not in item and "tool_calls" not in item:
        raise record.refuse(f'"{content_key}" of {place} is missing')
    metadata = {key: value for key, value in item.items() if key not in (role_key, content_key)}
    if is_sharegpt:
        role = _ROLES.get(role, role)
    return Message(role, item.get(content_key), metadata)
