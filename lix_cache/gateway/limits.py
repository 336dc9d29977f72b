"""What tenants may use of a gateway that runs in several processes: counted in Redis, by all together.

One trip for a request of a tenant that has a limit, none for the others, and never longer than Redis's
deadline. While Redis is away each process counts by itself, and adds what was spent when it is back.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from lix_cache.clock import Clock
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.tenants import Tenant
from lix_cache.gateway.tiers import RedisTier

__all__ = ["Limits"]

_DAY = 86400
_MINUTE = 60


class Limits:
    """Requests in a minute and tokens in a day, of each tenant.

    Args:
        redis: where they are counted; None for this process alone.
        clock: time, the same for all processes.
    """

    def __init__(self, redis: RedisTier | None, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        #: Tokens that Redis has not been told of: tenant and day -> tokens.
        self._untold: dict[tuple[str, int], int] = defaultdict(int)
        self._telling = asyncio.Lock()

    async def admit(self, tenant: Tenant) -> None:
        """Count a request, and refuse it where the last minute had too many.

        Raises:
            Refused: 429.
        """
        most = tenant.requests_per_minute
        if not most:
            return
        wait = await self._wait(tenant, most)
        if wait:
            raise Refused(429, "rate_limit", "too many requests of this key in a minute", retry_after=wait)

    async def _wait(self, tenant: Tenant, most: int) -> int:
        """Return for how many seconds the tenant must wait; 0 if it need not."""
        redis, now = self._redis, self._clock.time()
        minute, gone = divmod(now, _MINUTE)
        found = None
        if redis is not None:
            names = [redis.name("requests", tenant.name, str(int(minute) - i)) for i in (0, 1)]
            found = await redis.ask(("INCR", names[0]), ("EXPIRE", names[0], 3 * _MINUTE), ("GET", names[1]))
        if redis is None or found is None:
            return tenant.take(self._clock.monotonic())
        here, before = int(found[0]), int(found[2] or 0)
        # Of the minute before as much as is less than a minute ago.
        share = 1 - gone / _MINUTE
        if here + before * share <= most:
            return 0
        # A request that is refused is not one of the minute's.
        await redis.ask(("DECR", names[0]))
        if here > most or not before:
            return max(1, round(_MINUTE - gone))
        return max(1, round((here + before * share - most) * _MINUTE / before))

    async def check_budget(self, tenant: Tenant) -> None:
        """Refuse a call of the provider when the day's tokens are spent.

        Calls that run already are not ended, so a budget may be exceeded by what they cost.

        Raises:
            Refused: 429.
        """
        if not tenant.tokens_per_day:
            return
        now = self._clock.time()
        day = int(now // _DAY)
        spent = tenant.spent(day)
        if self._redis is not None:
            found = await self._redis.ask(("GET", self._redis.name("tokens", tenant.name, str(day))))
            if found is not None:
                spent = int(found[0] or 0) + self._untold.get((tenant.name, day), 0)
        if spent >= tenant.tokens_per_day:
            wait = int(_DAY - now % _DAY) + 1
            raise Refused(429, "budget_spent", "the day's tokens of this key are spent", retry_after=wait)

    def spent(self, tenant: Tenant, tokens: int) -> bool:
        """Count tokens that a call of the provider cost; say whether Redis is to be told (:meth:`tell`)."""
        day = int(self._clock.time() // _DAY)
        tenant.spend(tokens, day)
        if self._redis is None or not tenant.tokens_per_day or tokens <= 0:
            return False
        self._untold[tenant.name, day] += tokens
        return True

    async def tell(self) -> None:
        """Tell Redis what was spent, also while it was away.

        What it took without an answer is told again: counted twice rather than not at all.
        """
        redis = self._redis
        async with self._telling:
            if redis is None or not self._untold:
                return
            told = dict(self._untold)
            names = [redis.name("tokens", tenant, str(day)) for tenant, day in told]
            commands = [("INCRBY", name, tokens) for name, tokens in zip(names, told.values(), strict=True)]
            expiries = [("EXPIRE", name, 2 * _DAY) for name in names]
            answers = await redis.ask_each(*commands, *expiries)
            for (key, tokens), answer in zip(told.items(), answers, strict=False):
                if answer is None:
                    continue
                self._untold[key] -= tokens
                if not self._untold[key]:
                    del self._untold[key]
