"""Who asks, and what the headers of a request say: once for all that say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lix_cache.gateway.asgi import CONNECTION, Scope, headers_of
from lix_cache.gateway.headers import Control, check_origin, read_control
from lix_cache.gateway.prepared import Source, source_of
from lix_cache.gateway.tenants import Tenant

if TYPE_CHECKING:
    from lix_cache.gateway.core import Core

__all__ = ["Asker", "asker_of"]

_LENGTH = b"content-length"
#: Protocols and queries of one connection that are remembered.
_MOST_SOURCES = 16
#: Bytes of headers that are remembered.
_LARGEST = 8192


class Asker:
    """What the headers say. Kept with the connection, which holds them anyway, and nowhere else.

    Attributes:
        headers: names in lower case.
        tenant: who asks.
    """

    __slots__ = ("_control", "_core", "_pairs", "_sources", "_version", "headers", "tenant")

    def __init__(self, core: Core, scope: Scope, pairs: list[tuple[bytes, bytes]]) -> None:
        self.headers: Mapping[str, str] = headers_of(scope)
        self.tenant: Tenant = core.tenants.find(self.headers)
        if self.tenant.is_local:
            check_origin(self.headers, may_bring_key=not (core.lends or self.tenant.keeps_sessions))
        self._core = core
        self._version = scope["http_version"]
        self._pairs = pairs
        self._control: Control | None = None
        self._sources: dict[tuple[str, str], Source] = {}

    def is_of(self, core: Core, scope: Scope, pairs: list[tuple[bytes, bytes]]) -> bool:
        """Whether another request says the same but for its length, and is under the same settings."""
        return self._core is core and self._pairs == pairs and self._version == scope["http_version"]

    @property
    def control(self) -> Control:
        """What the client asks of the gateway.

        Raises:
            Refused: that makes no sense.
        """
        if self._control is None:
            self._control = read_control(self.headers)
        return self._control

    def source(self, protocol: str, query: str) -> Source:
        """Return where a request comes from, as far as its key is concerned."""
        found = self._sources.get((protocol, query))
        if found is None:
            if len(self._sources) >= _MOST_SOURCES:
                self._sources.clear()
            headers = self._core.tenants.for_providers(self.headers)
            found = source_of(self.tenant.name, protocol, self.control.namespace, headers, query)
            self._sources[protocol, query] = found
        return found


def asker_of(core: Core, scope: Scope) -> tuple[Asker, Mapping[str, str]]:
    """Return who asks, and the request's headers.

    Raises:
        Refused: the headers make no sense, or the key is not known.
    """
    connection = scope.get(CONNECTION)
    pairs = scope["headers"]
    if connection is None:
        found = Asker(core, scope, pairs)
        return found, found.headers
    rest = [pair for pair in pairs if pair[0] != _LENGTH]
    last: Asker | None = connection.asker
    if last is None or len(pairs) - len(rest) > 1 or not last.is_of(core, scope, rest):
        last = Asker(core, scope, rest)
        # A connection that does nothing is not to hold much.
        size = sum(len(name) + len(value) for name, value in rest)
        connection.asker = last if size <= _LARGEST else None
        return last, last.headers
    if len(pairs) == len(rest):
        if "content-length" not in last.headers:
            return last, last.headers
        return last, {name: value for name, value in last.headers.items() if name != "content-length"}
    length = next(value for name, value in pairs if name == _LENGTH)
    return last, {**last.headers, "content-length": length.decode("latin-1")}
