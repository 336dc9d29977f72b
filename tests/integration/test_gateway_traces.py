"""Spans by the conventions for generative AI: what was asked of whom, how it was answered; no content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support.provider import Provider, RunningGateway
from tests.support.wire import MESSAGE, ask, chat_body, post

pytest.importorskip("opentelemetry.sdk", reason="the SDK of OpenTelemetry is not installed")

ANN = "ann-key-0123456789abcdef"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", lambda name: provider.get_tracer(name))
    yield exporter
    provider.shutdown()


def test_a_model_whose_name_is_no_text_has_a_span_that_can_be_sent(exporter: Any) -> None:
    with Provider() as provider, RunningGateway(provider, None, traces=True) as gateway:
        post(gateway.url, {**chat_body(), "model": "a\ud800b"})
        gateway.settle()
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.attributes["gen_ai.request.model"]) == ("chat a?b", "a?b")


@pytest.mark.promise("no-leak")
def test_each_generation_is_a_span_without_content(redis_config: CacheConfig, exporter: Any) -> None:
    tenants = (TenantSettings("ann", (digest_of_key(ANN),)),)
    with (
        Provider() as provider,
        RunningGateway(provider, redis_config, traces=True, tenants=tenants) as gateway,
    ):
        said = chat_body("My pet is called Zanzibar.")
        post(gateway.url, said, authorization=f"Bearer {ANN}", traceparent=PARENT)
        post(gateway.url, {**said, "stream": True}, authorization=f"Bearer {ANN}")
        post(gateway.url, chat_body(stream=True), authorization=f"Bearer {ANN}")
        post(gateway.url, chat_body(max_tokens=5), MESSAGE, x_api_key=ANN, anthropic_version="2023-06-01")
        provider.do("400")
        post(gateway.url, chat_body("wrong"), authorization=f"Bearer {ANN}")
        post(gateway.url, {"model": "e", "input": "x"}, "/v1/embeddings", authorization=f"Bearer {ANN}")
        ask(gateway.url, "GET", "/v1/models", headers={"authorization": f"Bearer {ANN}"})
        gateway.settle()
    spans = exporter.get_finished_spans()
    miss, hit, stream, message, wrong, vectors = spans
    assert miss.name == "chat m-1"
    assert miss.kind.name == "SERVER"
    assert f"{miss.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{miss.parent.span_id:016x}" == PARENT.split("-")[2]
    assert hit.parent is None
    found = dict(miss.attributes)
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.provider.name"] == "openai"
    assert found["gen_ai.request.model"] == "m-1"
    assert found["gen_ai.response.finish_reasons"] == ("stop",)
    assert found["gen_ai.usage.input_tokens"] > 0
    assert found["gen_ai.usage.output_tokens"] > 0
    assert (found["lix_cache.cache"], found["lix_cache.tenant"]) == ("miss", "ann")
    assert hit.attributes["lix_cache.cache"] == "hit-l1-exact"
    assert hit.attributes["lix_cache.saved_tokens"] > 0
    assert "gen_ai.usage.input_tokens" not in hit.attributes, "a hit used none"
    assert stream.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert message.attributes["gen_ai.provider.name"] == "anthropic"
    assert (wrong.status.status_code.name, wrong.attributes["error.type"]) == ("ERROR", "400")
    assert vectors.attributes["gen_ai.operation.name"] == "embeddings"
    assert all(span.end_time > span.start_time for span in spans)
    text = json.dumps([json.loads(span.to_json()) for span in spans])
    for secret in ("Zanzibar", "Scripted", ANN, digest_of_key(ANN)):
        assert secret not in text


def test_without_the_setting_there_are_none(redis_config: CacheConfig, exporter: Any) -> None:
    with Provider() as provider, RunningGateway(provider, redis_config) as gateway:
        post(gateway.url, chat_body())
    assert not exporter.get_finished_spans()
