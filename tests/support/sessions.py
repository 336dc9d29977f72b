"""Messages as callers give them, and what they get back."""

from __future__ import annotations

from typing import Any

__all__ = ["batch", "said"]


def batch(*texts: Any) -> list[dict[str, Any]]:
    """Return a user's messages, ready to be added."""
    return [{"role": "user", "content": text} for text in texts]


def said(messages: Any) -> list[Any]:
    """Return the contents of messages, with ids or without; of None, which is no session, []."""
    return [getattr(one, "message", one)["content"] for one in messages or ()]
