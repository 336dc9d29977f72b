"""What a semantic cache counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache.errors import ConfigError
from lix_cache.semantic.result import Lookup, Reason
from lix_cache.semantic.stats import Latencies, Prices, Stats, about_tokens


@given(st.lists(st.floats(2e-6, 800.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_quantiles_are_right_within_a_twentieth(seconds: list[float], share: float) -> None:
    latencies = Latencies()
    for value in seconds:
        latencies.add(value)
    exact = float(np.quantile(seconds, share, method="inverted_cdf"))
    assert latencies.quantile(share) == pytest.approx(exact, rel=0.05)
    assert latencies.count == len(seconds)


def test_any_duration_is_counted() -> None:
    latencies = Latencies()
    assert latencies.quantile(0.5) == 0.0
    for value in (0.0, -1.0, 1e9):
        latencies.add(value)
    assert latencies.count == 3
    assert latencies.quantile(0.1) < 2e-6
    assert latencies.as_dict()["p99_ms"] > 60_000


def test_prices_are_for_a_million_tokens() -> None:
    prices = Prices(prompt=2.5, completion=10.0)
    assert prices.of(1_000_000, 500_000) == pytest.approx(7.5)
    for wrong in (-1, math.inf, math.nan, "1", True):
        with pytest.raises(ConfigError):
            Prices(prompt=wrong, completion=1)  # type: ignore[arg-type]


def test_tokens_are_about_a_quarter_of_the_characters() -> None:
    assert [about_tokens(n) for n in (0, 1, 4, 5, 400)] == [0, 1, 1, 2, 100]


def test_a_stats_count_by_reason_and_remembers_the_last_trouble() -> None:
    stats = Stats()
    stats.looked_up(Lookup(True, "x", reason=Reason.EXACT), 0.001)
    stats.looked_up(Lookup(False, reason=Reason.MARGIN), 0.002)
    stats.trouble("embedder_errors", ValueError("no model"))
    stats.renew_lock()
    stats = stats.as_dict(Prices(1, 1))
    assert (stats["hits"], stats["misses"], stats["hit_ratio"]) == (1, 1, 0.5)
    assert stats["embedder_errors"] == 1
    assert stats["last_error"] == "builtins.ValueError"
    assert Stats().as_dict(None)["hit_ratio"] == 0.0


def test_a_lookup_is_true_exactly_if_it_is_a_hit() -> None:
    assert Lookup(True, response=0)
    assert not Lookup(False, response=None)
    assert sorted(Reason.HITS) == ["exact", "semantic", "shared"]
