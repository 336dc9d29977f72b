"""A span for each generation, by OpenTelemetry's conventions for generative AI. Never with content.

Recorded when the request has ended, with the times that it had: so a gateway without spans pays nothing, and
one with them pays for one call. Where the spans go is the SDK's business: docs/gateway.md says how.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lix_cache.errors import MissingExtra

if TYPE_CHECKING:
    from lix_cache.gateway.answer import Answer
    from lix_cache.gateway.headers import Verdict

__all__ = ["Traces"]

_OPERATIONS = {"embeddings": "embeddings"}
_FLUSH_MS = 10_000
_PROVIDERS = {"messages": "anthropic"}


class Traces:
    """Records spans by the tracer of this process.

    Raises:
        MissingExtra: ``opentelemetry-api`` is not installed.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import propagate, trace
        except ImportError:
            raise MissingExtra("opentelemetry-api", "otel", "the setting traces") from None
        self._trace: Any = trace
        self._propagate: Any = propagate
        self._tracer: Any = trace.get_tracer("lix_cache.gateway")

    def record(
        self,
        headers: Mapping[str, str],
        *,
        protocol: str,
        tenant: str,
        model: str,
        status: int,
        verdict: Verdict,
        answer: Answer | None,
        seconds: float,
        waited: float,
    ) -> None:
        """Record one request. It is a child of the span that its ``traceparent`` names.

        Args:
            headers: of the request, names in lower case.
            protocol: such as ``chat``.
            tenant: who asked.
            model: that was asked for.
            status: of the answer; 0 if there was none.
            verdict: how it was answered.
            answer: if it is known.
            seconds: that the request took.
            waited: of these, with the provider.
        """
        operation = _OPERATIONS.get(protocol, "chat")
        # Half a character, which protobuf cannot carry, would keep other spans back.
        model = model[:200].encode("utf-8", "replace").decode()
        ended = time.time_ns()
        span = self._tracer.start_span(
            f"{operation} {model[:100]}".rstrip(),
            context=self._propagate.extract(headers),
            kind=self._trace.SpanKind.SERVER,
            start_time=ended - int(seconds * 1e9),
        )
        if span.is_recording():
            span.set_attributes(
                {
                    "gen_ai.operation.name": operation,
                    "gen_ai.provider.name": _PROVIDERS.get(protocol, "openai"),
                    "gen_ai.request.model": model,
                    "http.response.status_code": status,
                    "lix_cache.cache": verdict.state,
                    "lix_cache.reason": verdict.reason,
                    "lix_cache.tenant": tenant,
                    "lix_cache.waited_seconds": waited,
                    **_said(answer, verdict),
                }
            )
            if status >= 400 or not status:
                span.set_attribute("error.type", str(status or verdict.reason))
                span.set_status(self._trace.StatusCode.ERROR)
        span.end(ended)

    def flush(self) -> None:
        """Send what is waiting, where the SDK keeps it for a while."""
        flush = getattr(self._trace.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            flush(_FLUSH_MS)


def _said(answer: Answer | None, verdict: Verdict) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if verdict.similarity is not None:
        found["lix_cache.similarity"] = verdict.similarity
    if verdict.saved is not None:
        found["lix_cache.saved_tokens"] = sum(verdict.saved)
    if answer is None:
        return found
    found["gen_ai.response.model"] = answer.model
    found["gen_ai.response.finish_reasons"] = answer.finish
    if answer.usage is not None and not verdict.is_hit:
        # A hit used none: what it saved stands by itself.
        found["gen_ai.usage.input_tokens"] = answer.usage.input
        found["gen_ai.usage.output_tokens"] = answer.usage.output
    return found
