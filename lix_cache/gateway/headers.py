"""What headers ask of the gateway, what it answers in them, and which ones it passes on. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lix_cache.gateway.accounts import OWN_KEY
from lix_cache.gateway.errors import Refused

__all__ = [
    "FOR_PAGES",
    "Control",
    "Pairs",
    "Verdict",
    "check_origin",
    "forwarded",
    "read_control",
    "returned",
    "told",
]

Pairs = list[tuple[bytes, bytes]]

#: Of one connection, never of the next (RFC 9110, 7.6.1).
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
#: The gateway's own; the provider need not know who uses it.
_OURS = re.compile(rb"x-lix-cache|x-lix-(?:key|session)\Z")
#: What a request may ask in: one that is mistyped would be heeded by nobody.
_ASKED = frozenset(f"x-lix-cache-{name}" for name in ("mode", "namespace", "tags", "threshold", "ttl"))
#: What an answer says, and a client or a proxy may send back: it asks for nothing.
_TOLD = frozenset(f"x-lix-cache-{name}" for name in ("added-ms", "reason", "saved-tokens", "similarity"))
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_AROUND = " \t\"'"
_MODES = ("off", "exact", "semantic")
#: Longest time to live that a client may ask for: 30 days.
MOST_SECONDS = 30 * 86400.0
MOST_TAGS = 16


@dataclass(frozen=True)
class Control:
    """What a client asks for. Those who ask the same share an answer that is under way, and no others.

    Attributes:
        no_cache: do not answer from the cache; the answer is stored.
        no_store: do not store; nothing is looked up in the cache's shared flights either.
        only_if_cached: answer from the cache or not at all.
        max_age: oldest answer that will do, in seconds.
        min_fresh: for how many seconds more the answer must be one to serve.
        ttl: time to live of what is stored, in seconds.
        namespace: a part of the tenant's cache.
        mode: which tiers.
        threshold: least similarity of a semantic hit.
        tags: words that what is stored can be purged by.
    """

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age: float | None = None
    min_fresh: float = 0.0
    ttl: float | None = None
    namespace: str = ""
    mode: Literal["", "off", "exact", "semantic"] = ""
    threshold: float | None = None
    tags: tuple[str, ...] = ()


#: What most requests ask for.
NOTHING_ASKED = Control()


class Verdict(NamedTuple):
    """How a request was answered. A tuple: one is made for each request, and frozen fields cost a call each.

    Attributes:
        state: ``hit-l1-exact``, ``hit-l2-semantic``, ``hit-l3-verified``, ``miss`` or ``bypass``.
        reason: a word.
        age: of the answer, in seconds.
        similarity: of a semantic hit.
        saved: tokens of the prompt and of the completion.
    """

    state: str
    reason: str = ""
    age: float | None = None
    similarity: float | None = None
    saved: tuple[int, int] | None = None

    @property
    def is_hit(self) -> bool:
        """Whether the cache answered."""
        return self.state.startswith("hit")


#: To what the gateway itself answers a page in a browser; what a provider answers says it as it likes. The
#: request has come with the key that it needs, and no cookie lets a page read more than that.
FOR_PAGES = (b"access-control-allow-origin", b"*")
#: Origins of pages of this machine, and of programs that are built like a browser.
_OF_THIS_MACHINE = re.compile(
    r"https?://(?:(?:[\w-]+\.)*localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?"
    r"|(?!https?:)[a-z][a-z0-9+.-]*://[\w.-]*",
    re.IGNORECASE | re.ASCII,
)

#: What this machine and its networks call it: no other site can point an address, a name without a dot or one
#: that is kept for local use at this machine.
_LOCAL_HOSTS = re.compile(
    r"(?:(?:[\w-]+\.)*(?:localhost|local|lan|internal|home\.arpa|svc)|[\w-]+"
    r"|\d{1,3}(?:\.\d{1,3}){3}|\[[\da-f:.]+(?:%[\w.-]+)?\])\.?(?::\d{1,5})?",
    re.IGNORECASE | re.ASCII,
)

#: No page can set the last by itself.
_OF_KEY_OR_PREFLIGHT = (*sorted(OWN_KEY), "access-control-request-method")


def check_origin(headers: Mapping[str, str], *, may_bring_key: bool) -> None:
    """Refuse what a browser sends for another site's page, where no key says who asks.

    Its user does not know of it, and would pay with the gateway's own key. A page without an origin may be
    any page's frame. One whose site's name was pointed at this machine ("DNS rebinding") says no origin when
    it reads, but says that name.

    Args:
        headers: of the request.
        may_bring_key: let a page through that brings a provider's key, and what its browser asks before: it
            gets nothing that it would not get from the provider itself.

    Raises:
        Refused: 403.
    """
    host = headers.get("host", "")
    if host and not may_bring_key and _LOCAL_HOSTS.fullmatch(host) is None:
        raise Refused(
            403,
            "foreign_host",
            "a gateway without tenants lends its own key and its sessions under no other name than one of "
            "this machine, such as localhost: let a proxy before it send one as Host, or give it tenants",
        )
    origin = headers.get("origin")
    if origin is None or _OF_THIS_MACHINE.fullmatch(origin) is not None:
        return
    if may_bring_key and any(headers.get(name) for name in _OF_KEY_OR_PREFLIGHT):
        return
    raise Refused(
        403,
        "foreign_origin",
        "a gateway without tenants lends its own key, its sessions and what is answered without a key to no "
        "page of another site: give the page a tenant's key",
    )


def read_control(headers: Mapping[str, str]) -> Control:
    """Read the control headers.

    Args:
        headers: names in lower case.

    Raises:
        Refused: one of the gateway's own headers makes no sense.
    """
    cache_control = headers.get("cache-control", "")
    if "pragma" in headers:
        # An old word for the same (RFC 9111, 5.4).
        cache_control += ",no-cache" * any(name == "no-cache" for name, _ in _directives(headers["pragma"]))
    ours = [name for name in headers if name.startswith("x-lix-cache-")]
    if not cache_control and not ours:
        return NOTHING_ASKED
    for name in ours:
        if name not in _ASKED and name not in _TOLD:
            known = ", ".join(sorted(_ASKED))
            raise Refused(400, "invalid_header", f"{name[:80]} is no header of the gateway; it knows {known}")
    words: dict[str, str] = {}
    ages, rests = [], [0.0]
    for name, value in _directives(cache_control):
        words[name] = value
        if name == "max-age":
            # An age that makes no sense is to be treated as stale (RFC 9111, 4.2.1).
            ages.append(_number(value, 0.0, math.inf, 0.0))
        elif name == "min-fresh":
            rests.append(_number(value, 0.0, math.inf, math.inf))
    namespace = headers.get("x-lix-cache-namespace", "")
    if namespace and not _NAMESPACE.match(namespace):
        raise _senseless("X-Lix-Cache-Namespace", "1 to 64 letters, digits, dots, hyphens and underscores")
    mode = headers.get("x-lix-cache-mode", "")
    if mode and mode not in _MODES:
        raise _senseless("X-Lix-Cache-Mode", "off, exact or semantic")
    return Control(
        no_cache="no-cache" in words,
        no_store="no-store" in words,
        only_if_cached="only-if-cached" in words,
        max_age=min(ages, default=None),  # of several the strictest
        min_fresh=max(rests),
        ttl=_own_number(headers, "x-lix-cache-ttl", "X-Lix-Cache-TTL", 1.0, MOST_SECONDS),
        namespace=namespace,
        mode=mode,  # type: ignore[arg-type]
        tags=_tags(headers.get("x-lix-cache-tags", "")),
        threshold=_own_number(headers, "x-lix-cache-threshold", "X-Lix-Cache-Threshold", 0.0, 1.0),
    )


def _tags(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if len(found) > MOST_TAGS or not all(map(_NAMESPACE.match, found)):
        wanted = f"at most {MOST_TAGS} words of 1 to 64 letters, digits, dots, hyphens and underscores"
        raise _senseless("X-Lix-Cache-Tags", wanted)
    return found


def _directives(text: str) -> Iterable[tuple[str, str]]:
    # Whatever may be meant as a directive is one: what is heeded too much costs a hit, the rest an answer.
    for part in re.split(r"[,;]", text.lower()):
        name, _, value = part.strip(_AROUND).partition("=")
        if name:
            yield name.strip(_AROUND), value.strip(_AROUND)


def _number(text: str, least: float, most: float, otherwise: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return otherwise
    return value if least <= value <= most else otherwise


def _own_number(headers: Mapping[str, str], name: str, shown: str, least: float, most: float) -> float | None:
    if name not in headers:
        return None
    value = _number(headers[name], least, most, -1.0)
    if value < 0:
        raise _senseless(shown, f"a number from {least:g} to {most:g}")
    return value


def _senseless(name: str, wanted: str) -> Refused:
    return Refused(400, "invalid_header", f"{name} must be {wanted}")


def forwarded(pairs: Iterable[tuple[bytes, bytes]], *, decodes: bool) -> list[tuple[str, str]]:
    """Return a client's headers as they go upstream.

    Args:
        pairs: names in lower case.
        decodes: whether the gateway reads the answer, which must then come without an encoding.
    """
    pairs = list(pairs)
    named = _named_in_connection(pairs)
    kept = []
    for name, value in pairs:
        if name in _HOP_BY_HOP or name in named or name in (b"host", b"content-length", b"expect"):
            continue
        if _OURS.match(name) or (decodes and name == b"accept-encoding"):
            continue
        kept.append((name.decode("latin-1"), _text_of(value)))
    if decodes:
        kept.append(("accept-encoding", "identity"))
    return kept


def _text_of(value: bytes) -> str:
    """Return a header's value as a text that is sent as the bytes that it was, if they are UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


#: What no browser takes for a page.
_INERT = (b"application/json", b"text/event-stream")
#: The gateway's own page is of the same origin, and the admin key is in that origin's storage. In a sandbox a
#: provider's page has an origin of its own and no scripts; a download would hide what clients without a
#: browser ask for, and nosniff alone lets HTML run that says it is HTML.
_SANDBOX = [(b"content-security-policy", b"sandbox"), (b"x-content-type-options", b"nosniff")]


def returned(pairs: Iterable[tuple[bytes, bytes]]) -> Pairs:
    """Return the provider's headers as they go to the client that asked. Never stored, so never replayed."""
    pairs = [(name.lower(), value) for name, value in pairs]
    named = _named_in_connection(pairs)
    kept = [
        (name, value)
        for name, value in pairs
        if name not in _HOP_BY_HOP and name not in named and not _OURS.match(name)
    ]
    kinds = [value.partition(b";")[0].strip().lower() for name, value in kept if name == b"content-type"]
    return kept if len(kinds) == 1 and kinds[0] in _INERT else [*kept, *_SANDBOX]


def _named_in_connection(pairs: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    return frozenset(
        word.strip().lower() for name, value in pairs if name == b"connection" for word in value.split(b",")
    )


def told(verdict: Verdict, added_ms: float) -> Pairs:
    """Return the headers that say how a request was answered."""
    pairs = [(b"x-lix-cache", verdict.state.encode())]
    if verdict.reason:
        pairs.append((b"x-lix-cache-reason", verdict.reason.encode("ascii", "replace")))
    if verdict.is_hit:
        pairs.append((b"age", b"%d" % max(0, int(verdict.age or 0))))
        if verdict.similarity is not None:
            pairs.append((b"x-lix-cache-similarity", b"%.4f" % verdict.similarity))
        if verdict.saved is not None:
            pairs.append((b"x-lix-cache-saved-tokens", b"%d" % sum(verdict.saved)))
    pairs.append((b"x-lix-cache-added-ms", b"%.2f" % added_ms))
    return pairs
