"""What processes tell of their caches: Prometheus metrics, read over HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener

from lix_cache import InvalidInput

__all__ = ["KEY_VARIABLE", "Metrics", "check_url", "fetch", "read"]

#: Where ``top`` finds the key: an argument would be seen by every user of the machine, and kept by the shell.
KEY_VARIABLE = "LIX_CACHE_METRICS_KEY"
_MOST_BYTES = 4 << 20
_SECONDS = 2.0
_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([^ ]+)(?: \d+)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass
class Metrics:
    """What one process counted.

    Attributes:
        url: where it was read, without credentials and query.
        lookups: outcome to reason to count; the outcome is ``hit`` or ``miss``, or as the gateway names it.
        latency_ms: step to quantile (``0.5``, ``0.95``, ``0.99``) to milliseconds.
        error: why nothing could be read; None where it could.
    """

    url: str
    lookups: dict[str, dict[str, int]] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    error: str | None = None


def check_url(url: str) -> str:
    """Return the address.

    Raises:
        InvalidInput: it is not one of HTTP.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise InvalidInput("--metrics takes the http:// or https:// address of a process's metrics")
    return url


def fetch(url: str, key: str = "") -> Metrics:
    """Read the metrics of a process. Trouble is part of the result: the others are shown all the same.

    Args:
        url: where.
        key: what an admin key guards it with; "" for none.
    """
    shown = _without_secrets(url)
    try:
        asked = Request(url)  # noqa: S310 - checked above
        if key:
            # Not a plain header: that would go along to another host where the address redirects.
            asked.add_unredirected_header("Authorization", f"Bearer {key}")
        # build_opener: without it an address that redirects to a file would be followed there.
        with build_opener().open(asked, timeout=_SECONDS) as answer:
            body = answer.read(_MOST_BYTES)
    except HTTPError as error:
        error.close()
        told = f"HTTP {error.code}: {str(error.reason)[:200]}"
        if error.code in (401, 403):
            told += ": the key was refused" if key else f": put its admin key into {KEY_VARIABLE}"
        return Metrics(shown, error=told)
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return Metrics(shown, error=f"{type(error).__name__}: {str(reason)[:200]}")
    return read(shown, body.decode("utf-8", "replace"))


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def read(url: str, text: str) -> Metrics:
    """Return what a text in Prometheus' format says of caches and of a gateway; the rest is passed over."""
    found = Metrics(url)
    edges: dict[str, list[tuple[float, float]]] = {}
    for name, labels, value in _samples(text):
        if name.endswith("_gateway_requests_total"):
            _count(found, labels.get("cache", "?"), labels.get("reason", "?"), value)
        elif name.endswith("_lookups_total"):
            _count(found, labels.get("outcome", "?"), labels.get("reason", "?"), value)
        elif name.endswith("_latency_seconds") and {"step", "quantile"} <= labels.keys():
            steps = found.latency_ms.setdefault(labels["step"], {})
            # Several caches of one process: the slowest is what its user waits for.
            steps[labels["quantile"]] = max(steps.get(labels["quantile"], 0.0), 1000 * value)
        elif name.endswith("_gateway_added_seconds_bucket") and "le" in labels:
            edges.setdefault(f"gateway, {labels.get('cache', '?')}", []).append((float(labels["le"]), value))
    for step, buckets in edges.items():
        found.latency_ms[step] = {str(share): 1000 * _edge(buckets, share) for share in (0.5, 0.95, 0.99)}
    return found


def _samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is None:
            continue
        try:
            yield match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])
        except ValueError:
            continue


def _count(found: Metrics, outcome: str, reason: str, value: float) -> None:
    reasons = found.lookups.setdefault(outcome, {})
    reasons[reason] = reasons.get(reason, 0) + int(value)


def _edge(buckets: list[tuple[float, float]], share: float) -> float:
    """Return the upper edge of the bucket that a quantile is in; the last finite one, if it is beyond."""
    total = max(count for _, count in buckets)
    finite = [edge for edge, _ in buckets if edge != float("inf")]
    inside: list[Any] = [edge for edge, count in sorted(buckets) if count >= share * total]
    return float(min(inside[0], max(finite))) if inside and finite else 0.0
