"""Counts of the page: they add up, stay bounded, and come back from bytes as they were or not at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache.errors import ConfigError
from lix_cache.gateway.minutes import EDGES, Minute, Minutes, quantile
from lix_cache.gateway.places import Seen
from lix_cache.gateway.prices import PriceSettings, price_of
from lix_cache.gateway.settings import GatewaySettings, read_settings

NAMES = st.text(max_size=8)
REQUESTS = st.lists(st.tuples(NAMES, NAMES, NAMES, st.floats(0, 100), st.floats(0, 100)), max_size=20)


def filled(requests: list[tuple[str, str, str, float, float]]) -> Minute:
    minute = Minute()
    for tenant, state, reason, added, whole in requests:
        minute.answered(tenant, state, reason, added, whole)
        minute.counted(tenant, reason, (1, 2), are_saved=state > reason)
    return minute


@given(REQUESTS, REQUESTS)
def test_counts_of_two_workers_add_up_whatever_way_they_took(
    first: list[tuple[str, str, str, float, float]], second: list[tuple[str, str, str, float, float]]
) -> None:
    sums = Minute()
    for part in (first, second):
        read = Minute.decode(filled(part).encode())
        assert read is not None
        sums.add(read)
    both = filled(first + second)
    assert (sums.requests, sums.tokens, sums.added, sums.whole) == (
        both.requests,
        both.tokens,
        both.added,
        both.whole,
    )
    alone = Minute()
    alone.add(both, "a")
    assert all(label[0] == "a" for label in [*alone.requests, *alone.tokens])


JUNK = st.recursive(st.none() | st.integers() | NAMES, st.lists).map(lambda value: json.dumps(value).encode())


@pytest.mark.promise("bad-bytes")
@given(st.binary(max_size=200) | JUNK)
def test_other_bytes_are_no_minute(data: bytes) -> None:
    assert Minute.decode(data) is None
    assert Seen.read(data) is None


@pytest.mark.promise("bad-bytes")
def test_names_that_clients_choose_do_not_fill_the_memory() -> None:
    minutes = Minutes()
    for number in range(30_000):
        minute = minutes.at(60.0 * (number // 100))
        minute.counted("ann", f"model-{number}" * 100, (1, 1), are_saved=False)
        minute.answered("ann", "miss", f"reason-{number}", 0.1, 0.2)
    kept = minutes.between(0, 1 << 30)
    assert sum(one.rows for one in kept.values()) < 21_000
    assert max(one.rows for one in kept.values()) <= 202
    assert max(kept) == 299, "the newest are kept"
    assert minutes.changed <= set(kept)
    assert all(len(model) <= 100 for one in kept.values() for _, model in one.tokens)
    minutes.at(60.0 * 5000)
    assert set(minutes.between(0, 1 << 30)) == {5000}, "a day is kept"


def test_a_duration_is_known_to_its_class() -> None:
    assert quantile([0] * (len(EDGES) + 1), 0.5) is None
    for seconds in (0.0001, 0.0021, 0.73, 12.0):
        minute = Minute()
        minute.answered("", "miss", "", seconds, seconds)
        found = {quantile(minute.added["miss"], part) for part in (0.5, 0.95, 0.99)}
        (one,) = found
        assert one == pytest.approx(seconds, rel=0.17)
    minute = Minute()
    for seconds in [0.001] * 98 + [1.0] * 2:
        minute.answered("", "miss", "", seconds, seconds)
    assert quantile(minute.added["miss"], 0.5) == pytest.approx(0.001, rel=0.17)
    assert quantile(minute.added["miss"], 0.99) == pytest.approx(1.0, rel=0.17)
    minute.answered("", "bypass", "", 1e9, 1e9)
    assert quantile(minute.added["bypass"], 0.5) == pytest.approx(50, rel=0.2)


def test_the_first_price_that_fits_counts_and_none_is_supposed() -> None:
    prices = (PriceSettings(("gpt-*-mini",), 1.0, 2.0), PriceSettings(("gpt-*",), 3.0, 4.0))
    mini, large = price_of(prices, "gpt-5-mini"), price_of(prices, "gpt-5")
    assert mini is not None
    assert large is not None
    assert (mini.of(1_000_000, 0), large.of(0, 1_000_000)) == (1.0, 4.0)
    assert price_of(prices, "claude") is None
    assert price_of((), "gpt-5") is None
    with pytest.raises(ConfigError, match="one currency"):
        GatewaySettings(prices=(PriceSettings(currency="USD"), PriceSettings(currency="EUR")))
    for name in ("prompt", "completion"):
        with pytest.raises(ConfigError, match=name):
            PriceSettings(**{name: -1.0})
    text = '[{"models": ["m-*"], "prompt": 1, "completion": 2.5, "currency": "EUR"}]'
    assert read_settings(environ={"LIX_CACHE_GATEWAY_PRICES": text}).prices == (
        PriceSettings(("m-*",), 1.0, 2.5, "EUR"),
    )
