"""What the page at ``/ui`` is made of: its files, and the numbers that it asks for, behind the admin key.

The page itself holds nothing and needs no key. It sends the key in a header, and keeps it in the tab's
sessionStorage and not in a cookie. Browsers send a cookie to every port of a host, and with requests that
other pages cause; ``/admin/purge`` would believe it. A script that could read the storage is what the policy
below keeps away: no inline script, no other origin, no text that becomes HTML.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from lix_cache.gateway.admin_request import Served, Work, read_object
from lix_cache.gateway.by_meaning import Place
from lix_cache.gateway.eligibility import Question
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.overview import overview, tenants

if TYPE_CHECKING:
    from collections.abc import Callable

    from lix_cache.gateway.app import Gateway

__all__ = ["page_routes"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_LONGEST_QUESTION = 8_000
_LONGEST_BODY = 64 << 10
_MINUTES = (15, 60, 360, 1440)


def _files() -> dict[str, tuple[bytes, str]]:
    """Return all files of the page: a request names one of them or none, never a path on the disk."""
    found = {}
    for one in files("lix_cache.gateway").joinpath("ui").iterdir():
        kind = _KINDS.get(one.name.rpartition(".")[2])
        if kind is not None and one.is_file():
            found[one.name] = one.read_bytes(), kind
    return found


class _Numbers:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._core = gateway.core

    async def overview(self, request: Request) -> dict[str, Any]:
        """Requests, tokens, money and durations over time."""
        found = await overview(self._core, _minutes(request), request.query_params.get("tenant") or None)
        found["health"] = await self._gateway.health.state()
        return found

    async def tenants(self, request: Request) -> dict[str, Any]:
        """What each tenant may do, and what it did."""
        return await tenants(self._core, _minutes(request))

    async def sessions(self, request: Request) -> dict[str, Any]:
        """A page of the sessions, the last used first."""
        sessions = self._core.sessions
        if sessions is None:
            return {"is_on": False, "sessions": [], "cursor": None}
        tenant, cursor = request.query_params.get("tenant"), request.query_params.get("cursor")
        tenants = [name for name in self._core.tenants.names if tenant in (None, "", name)]
        return {"is_on": True, **await sessions.page(tenants, cursor or None)}

    async def transcript(self, request: Request) -> dict[str, Any]:
        """The newest messages of one session, or those before one of them."""
        sessions = self._core.sessions
        asked = request.query_params
        if sessions is None:
            raise Refused(404, "no_sessions", "sessions are not switched on (--sessions)")
        if asked.get("tenant") not in self._core.tenants.names:
            raise Refused(404, "unknown_tenant", "there is no such tenant")
        return await sessions.transcript(asked["tenant"], asked.get("id", ""), asked.get("before"))

    async def places(self, _: Request) -> dict[str, Any]:
        """Where questions were asked lately."""
        seen = await self._core.timeline.seen()
        return {
            "is_on": self._core.meaning is not None,
            "places": [
                {
                    "id": one.id,
                    "tenant": one.tenant,
                    "last": one.last,
                    "count": one.count,
                    **{
                        name: one.context.get(name, "")
                        for name in ("protocol", "provider", "model", "namespace")
                    },
                    # Which of several system prompts or settings: enough to tell them apart.
                    "body": one.context.get("body", "")[:6],
                }
                for one in seen
            ],
        }

    async def explain(self, request: Request) -> dict[str, Any]:
        """Say what would become of a question, without sending it anywhere or counting it."""
        asked = await read_object(request, _LONGEST_BODY, {"question": str, "place": str})
        meaning, question = self._core.meaning, asked.get("question")
        if meaning is None:
            raise Refused(404, "no_embedder", "answers by meaning need an embedder (--embedder)")
        if not question or not question.strip() or len(question) > _LONGEST_QUESTION:
            raise Refused(
                400, "invalid_body", f"question must be a text of 1 to {_LONGEST_QUESTION} characters"
            )
        seen = next((one for one in await self._core.timeline.seen() if one.id == asked.get("place")), None)
        if seen is None:
            raise Refused(404, "unknown_place", "no question was asked there lately; choose another place")
        return await meaning.explain(Place(seen.tenant, seen.context, Question(question, "")))


def _minutes(request: Request) -> int:
    text = request.query_params.get("minutes", "15")
    if text not in map(str, _MINUTES):
        raise Refused(400, "invalid_query", f"minutes must be one of {', '.join(map(str, _MINUTES))}")
    return int(text)


def page_routes(gateway: Gateway, guarded: Callable[[Work], Served]) -> list[Route]:
    """Return the routes of the page and of its numbers.

    Args:
        gateway: whose.
        guarded: puts the admin key before a route.
    """
    numbers, pieces = _Numbers(gateway), _files()

    async def file(request: Request) -> Response:
        found = pieces.get(request.path_params.get("name") or "index.html")
        if found is None:
            return Response("there is no such file", 404, _HEADERS, "text/plain")
        return Response(found[0], 200, {**_HEADERS, "content-type": found[1]})

    async def home(_: Request) -> Response:
        return RedirectResponse("/ui/", 308, _HEADERS)

    return [
        Route("/ui", home, methods=["GET"]),
        Route("/ui/", file, methods=["GET"]),
        Route("/ui/{name}", file, methods=["GET"]),
        Route("/admin/view/overview", guarded(numbers.overview), methods=["GET"]),
        Route("/admin/view/tenants", guarded(numbers.tenants), methods=["GET"]),
        Route("/admin/view/sessions", guarded(numbers.sessions), methods=["GET"]),
        Route("/admin/view/transcript", guarded(numbers.transcript), methods=["GET"]),
        Route("/admin/view/places", guarded(numbers.places), methods=["GET"]),
        Route("/admin/view/explain", guarded(numbers.explain), methods=["POST"]),
    ]
