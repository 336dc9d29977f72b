"""The protocols of the providers: their bytes ⇄ answers. Pure: no I/O, no clock, no randomness."""

from __future__ import annotations

from lix_cache.gateway.protocols.protocol import EventReader, Protocol

__all__ = ["EventReader", "Protocol", "protocol_of"]


def protocol_of(path: str) -> Protocol | None:
    """Return the protocol that is spoken at a path such as ``/v1/chat/completions``, if it is known."""
    return _BY_PATH.get(path)


_BY_PATH: dict[str, Protocol] = {}
