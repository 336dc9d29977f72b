"""The protocols of the providers: their bytes ⇄ answers. Pure: no I/O, no clock, no randomness."""

from __future__ import annotations

from typing import Final

from lix_cache.gateway.protocols.chat import Chat
from lix_cache.gateway.protocols.messages import Messages
from lix_cache.gateway.protocols.protocol import EventReader, Protocol
from lix_cache.gateway.protocols.responses import Responses

__all__ = ["PROTOCOLS", "EventReader", "Protocol", "protocol_of", "speaking_at"]

#: By name. Embeddings are another kind of answer: see embeddings.py.
PROTOCOLS: Final[dict[str, Protocol]] = {one.name: one for one in (Chat(), Responses(), Messages())}
_BY_PATH = {one.path: one for one in PROTOCOLS.values()}


def protocol_of(path: str) -> Protocol | None:
    """Return the protocol that is spoken at a path such as ``/v1/chat/completions``, if it is known."""
    return _BY_PATH.get(path)


def speaking_at(path: str) -> Protocol:
    """Return the protocol in whose form a client expects an error at a path, of any kind."""
    return PROTOCOLS["messages" if path.startswith("/v1/messages") else "chat"]
