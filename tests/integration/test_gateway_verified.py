"""Answers by meaning that a verifier must pass, and what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lix_cache import CacheConfig, HashingEmbedder
from lix_cache.gateway.settings import GatewaySettings
from lix_cache.verifiers.onnx import OnnxVerifier
from tests.support.provider import Provider, RunningGateway
from tests.support.wire import ask, chat_body, post


class Judge:
    """Says of every pair what a test says."""

    id = "judge-1"

    def __init__(self) -> None:
        self.score: float | None = 1.0
        self.asked: list[tuple[str, str]] = []

    def scores(self, pairs: Sequence[tuple[str, str]]) -> Any:
        self.asked += pairs
        if self.score is None:
            raise OSError("scripted")
        return np.full(len(pairs), self.score, dtype=np.float32)


@pytest.mark.promise("right-answer")
def test_a_semantic_hit_must_pass_the_verifier(redis_config: CacheConfig) -> None:
    judge = Judge()
    with (
        Provider() as provider,
        RunningGateway(
            provider, redis_config, embedder=HashingEmbedder(), verifier=judge, verifier_threshold=0.5
        ) as gateway,
    ):
        assert ask(gateway.url, "GET", "/ready").json["verifier"] == "ok"
        judge.asked.clear()
        post(gateway.url, chat_body("How do I reset my password?"))
        gateway.settle()
        judge.score = 0.6
        near = post(gateway.url, chat_body("how do I reset my password please"))
        assert (near.state, near.reason) == ("hit-l3-verified", "semantic")
        assert judge.asked == [("how do I reset my password please", "How do I reset my password?")]
        for score in (0.4, None):
            judge.score = score
            assert post(gateway.url, chat_body(f"how do I reset my password {score}")).state == "miss"
        assert post(gateway.url, chat_body("How do I reset my password?")).state == "hit-l1-exact"
    judge.score = None
    with (
        Provider() as provider,
        RunningGateway(provider, redis_config, embedder=HashingEmbedder(), verifier=judge) as gateway,
    ):
        ready = ask(gateway.url, "GET", "/ready").json
        assert ready["status"] == "degraded"
        assert "OSError" in ready["verifier"]


def test_settings_name_the_verifier() -> None:
    from lix_cache.gateway.serve import verifier_for

    assert verifier_for(GatewaySettings()) is None
    assert isinstance(verifier_for(GatewaySettings(verifier="cross-encoder/some")), OnnxVerifier)
