"""Requests in fewer tokens, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lix_cache.gateway.encoders import Encoded, Encoding

__all__ = ["EncodingThread"]


class EncodingThread:
    """Encodes requests in one thread, one after the other: some megabytes take a second.

    Args:
        names: see :class:`~lix_cache.gateway.encoders.Encoding`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._encoding = Encoding(names)
        self._thread = ThreadPoolExecutor(1, "lix-cache-encoder")

    @property
    def part_of_key(self) -> str:
        """What belongs to the key of a request that is sent encoded."""
        return self._encoding.part_of_key

    async def of_request(self, protocol: str, request: Mapping[str, Any]) -> Encoded:
        """See :meth:`Encoding.of_request`. A call that is cancelled is carried out all the same."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._encoding.of_request, protocol, request)

    def close(self) -> None:
        """Let go of the thread when it has done its work."""
        self._thread.shutdown(wait=False)
