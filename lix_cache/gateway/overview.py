"""The numbers of the page: minutes put together into bins, sums, money and durations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lix_cache.gateway.minutes import Minute, quantile
from lix_cache.gateway.prices import PriceSettings, price_of
from lix_cache.gateway.tenants import LOCAL

if TYPE_CHECKING:
    from lix_cache.gateway.core import Core

__all__ = ["overview", "tenants"]

#: Minutes of a bin, so that a chart has 15 to 96 of them.
_STEPS = {15: 1, 60: 1, 360: 5, 1440: 15}
_PARTS = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


async def overview(core: Core, minutes: int, tenant: str | None) -> dict[str, Any]:
    """Return what was done in the last minutes, of all tenants or of one."""
    step = _STEPS[minutes]
    now = core.clock.time()
    last = int(now // 60) // step * step + step - 1
    first = last - minutes + 1
    found, workers, is_whole = await core.timeline.read(first, last)
    total = Minute()
    bins = []
    for start in range(first, last + 1, step):
        one = Minute()
        for number in range(start, start + step):
            if number in found:
                one.add(found[number], tenant)
        total.add(one)
        bins.append({"time": start * 60, **_states(one), **_tokens(one)})
    return {
        "now": now,
        "minutes": minutes,
        "step": step * 60,
        "tenant": tenant,
        "bins": bins,
        "reasons": _reasons(total),
        "tokens": _tokens(total),
        "money": _money(core.settings.prices, total.tokens),
        # How long a request took is counted by its state and not by its tenant.
        "durations": _durations(total) if tenant is None else None,
        "workers": sorted(workers),
        "worker": core.timeline.worker,
        "is_whole": is_whole,
        "redis": core.redis is not None,
        "memory": {"entries": len(core.memory), "bytes": core.memory.bytes},
        "tenants": [LOCAL] if core.tenants.local is not None else sorted(core.tenants.tenants),
        "embedder": core.meaning is not None,
        "is_demo": core.is_demo and core.tenants.local is not None,
    }


async def tenants(core: Core, minutes: int) -> dict[str, Any]:
    """Return what each tenant may do and what it did in the last minutes."""
    last = int(core.clock.time() // 60)
    found, workers, is_whole = await core.timeline.read(last - minutes + 1, last)
    total = Minute()
    for one in found.values():
        total.add(one)
    known = [core.tenants.local] if core.tenants.local is not None else list(core.tenants.tenants.values())
    rows = []
    patterns = {one.name: list(one.models) for one in core.settings.tenants}
    for tenant in known:
        mine = Minute()
        mine.add(total, tenant.name)
        rows.append(
            {
                "name": tenant.name,
                **_states(mine),
                "tokens": _tokens(mine),
                "money": _money(core.settings.prices, mine.tokens),
                "scopes": sorted(tenant.scopes),
                "models": patterns.get(tenant.name, ["*"]),
                "requests_per_minute": tenant.requests_per_minute,
                "tokens_per_day": tenant.tokens_per_day,
                "sessions": tenant.keeps_sessions,
            }
        )
    # Refused before it was known who asks.
    strangers = sum(count for (name, _, _), count in total.requests.items() if not name)
    return {
        "minutes": minutes,
        "tenants": rows,
        "refused": strangers,
        "workers": sorted(workers),
        "is_whole": is_whole,
    }


def _states(minute: Minute) -> dict[str, Any]:
    states: dict[str, int] = defaultdict(int)
    for (_, state, _), count in minute.requests.items():
        states[state] += count
    hits = sum(count for state, count in states.items() if state.startswith("hit"))
    return {"requests": sum(states.values()), "hits": hits, "states": dict(states)}


def _reasons(minute: Minute) -> list[dict[str, Any]]:
    reasons: dict[tuple[str, str], int] = defaultdict(int)
    for (_, state, reason), count in minute.requests.items():
        reasons[state, reason] += count
    rows = [{"state": state, "reason": reason, "count": count} for (state, reason), count in reasons.items()]
    return sorted(rows, key=lambda row: (-row["count"], row["state"], row["reason"]))


def _tokens(minute: Minute) -> dict[str, int]:
    sums = [sum(column) for column in zip(*minute.tokens.values(), strict=True)] or [0, 0, 0, 0]
    return {
        "saved_prompt": sums[0],
        "saved_answer": sums[1],
        "spent_prompt": sums[2],
        "spent_answer": sums[3],
    }


def _money(
    prices: Sequence[PriceSettings], tokens: Mapping[tuple[str, str], Sequence[int]]
) -> dict[str, Any] | None:
    """Return what was saved and spent; None where no price is set."""
    if not prices:
        return None
    saved = spent = 0.0
    unpriced = 0
    for (_, model), counts in tokens.items():
        price = price_of(prices, model)
        if price is None:
            unpriced += sum(counts)
            continue
        saved += price.of(counts[0], counts[1])
        spent += price.of(counts[2], counts[3])
    return {"currency": prices[0].currency, "saved": saved, "spent": spent, "unpriced_tokens": unpriced}


def _durations(minute: Minute) -> list[dict[str, Any]]:
    rows = []
    for state in sorted(minute.added):
        row: dict[str, Any] = {"state": state, "count": sum(minute.added[state])}
        for name, counts in (("added", minute.added[state]), ("whole", minute.whole.get(state, []))):
            row[name] = {part: quantile(counts, wanted) for part, wanted in _PARTS}
        rows.append(row)
    return rows
