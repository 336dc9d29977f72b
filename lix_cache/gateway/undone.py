"""What Redis did not take yet. It is done again, a part at a time, until it is done.

Beside what heeds other processes, never before it: however much there is to do, a purge is heeded in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from lix_cache._log import logger
from lix_cache.errors import told

__all__ = ["Group", "Undone", "Work"]

#: Does something. Returns whether it is done.
Work: TypeAlias = "Callable[[], Awaitable[bool]]"
#: What one thing can be done for instead of each by itself: a kind, and a tenant.
Group: TypeAlias = "tuple[str, str]"

#: Of a group with something to do instead.
_MOST = 1000
#: Failures of a group in one turn: Redis is away then, or refuses all of the kind.
_PATIENCE = 8


class Undone:
    """Works by their groups and names; a name has one."""

    def __init__(self) -> None:
        self._works: dict[Group, dict[str, Work]] = {}
        self._trouble = ""

    def __len__(self) -> int:
        return sum(map(len, self._works.values()))

    def tenants(self, kind: str) -> set[str]:
        """Return whose works of a kind there are."""
        return {tenant for one, tenant in self._works if one == kind}

    def later(self, group: Group, name: str, work: Work) -> None:
        """Do something with the next turn."""
        self._works.setdefault(group, {})[name] = work

    async def surely(self, group: Group, name: str, work: Work, instead: Work | None = None) -> bool:
        """Do something now, and again with each turn until it is done.

        Args:
            group, name: of it; it takes the place of one with the same.
            work: what to do.
            instead: does it as well as all others of the group, where these are too many to be remembered.

        Returns:
            Whether it is done.
        """
        works = self._works.get(group, {})
        if instead is not None and name not in works and len(works) >= _MOST:
            works.clear()
            self.later(group, "", instead)
            return False
        self.later(group, name, work)  # before it begins: the request that waits for it may end
        return await self._is_done(group, name, work)

    async def _is_done(self, group: Group, name: str, work: Work) -> bool:
        if not await work():
            return False
        works = self._works.get(group, {})
        # Another one of this name may have come meanwhile.
        if works.get(name) is work:
            del works[name]
            if not works:
                del self._works[group]
        return True

    async def do_again(self, patience: int = _PATIENCE) -> None:
        """Take a turn: one after the other, for at once they would open as many connections, and keep them.

        Args:
            patience: failures of a group after which the others of it wait for the next turn.
        """
        for group, works in list(self._works.items()):
            failed = 0
            for name in list(works):
                work = works.get(name)
                if work is None:
                    continue
                if not await self._is_done_again(group, name, work):
                    failed += 1
                    if works.get(name) is work:
                        works[name] = works.pop(name)  # last: what always fails must not hold up the others
                if failed >= patience:
                    break
                await asyncio.sleep(0)  # where Redis is away, none of them waits for anything

    async def _is_done_again(self, group: Group, name: str, work: Work) -> bool:
        try:
            return await self._is_done(group, name, work)
        except Exception as error:  # noqa: BLE001 - the others are to be done all the same
            if self._trouble != (trouble := told(error)):
                logger.error("what was deleted may be there still: {}", trouble)
            self._trouble = trouble
            return False

    async def finish(self, seconds: float) -> None:
        """Do all that can be done, within a time."""
        finishing = asyncio.get_running_loop().create_task(self._finish())
        await asyncio.wait({finishing}, timeout=seconds)
        finishing.cancel()
        if len(self):
            logger.error("{} times what was deleted may be in Redis still: it was away", len(self))

    async def _finish(self) -> None:
        left = -1
        while len(self) not in (0, left):  # one that is done may leave another to do
            left = len(self)
            await self.do_again(left)
