"""Gateways before a provider that keeps responses, and what cuts them off from Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lix_cache.gateway.tiers import RedisTier
from tests.support.http_server import Answer, HttpServer, Request
from tests.support.provider import RunningGateway
from tests.support.provider_wire import OUTPUTS, response
from tests.support.wire import ask, post

__all__ = ["BODY", "KEY", "PATH", "Keeper", "Line", "drop", "held", "is_served", "look", "made", "nothing"]

PATH, BODY = "/v1/responses", {"model": "m-1", "input": "What is to be deleted?"}
KEY = {"authorization": "Bearer sk-one"}


class Keeper(HttpServer):
    """A provider that keeps responses; ``status`` is what it says to the next DELETE.

    It has made a response before its gate is open, and says it afterwards.
    """

    def __init__(self) -> None:
        super().__init__(self._say)
        self.status, self.made, self.gate = 200, list[str](), threading.Event()
        self.gate.set()

    def _say(self, request: Request) -> Answer:
        json = {"content-type": "application/json"}
        if request.method == "DELETE":
            return Answer(self.status, {"deleted": True}, json)
        self.made.append(f"resp_{len(self.made)}")
        said = {**response(OUTPUTS["text"]), "id": self.made[-1]}
        self.gate.wait(60)
        return Answer(200, said, json)


class Line:
    """Between the gateways and Redis: ``lost`` says who gets no answer, and to which commands."""

    def __init__(self) -> None:
        self.lost: Callable[[RedisTier | None, set[str]], bool] = nothing
        self.asked: list[tuple[RedisTier, str]] = []

    def names(self, gateway: RunningGateway) -> list[str]:
        return [name for redis, name in self.asked if redis is gateway.core.redis]


def nothing(*_: object) -> bool:
    """Cut none off."""
    return False


def drop(gateway: RunningGateway, identity: str, what: str = "deletion") -> None:
    """Have a response dropped."""
    if what == "purge":
        gateway.do(gateway.core.purge("local", None, None))
    else:
        assert ask(gateway.url, "DELETE", f"/v1/responses/{identity}", headers=KEY).status == 200


def held(gateway: RunningGateway) -> list[str]:
    """Return the ids of what is in memory."""
    return [entry.answer.id for entry in gateway.core.memory._entries.values()]


def look(gateway: RunningGateway) -> None:
    """Let a gateway look at what was dropped."""
    assert gateway.core.redis is not None
    gateway.do(gateway.core.look(gateway.core.redis))


def made(gateway: RunningGateway, **more: Any) -> str:
    """Have a response made and stored everywhere; return its id."""
    identity = post(gateway.url, {**BODY, **more}, PATH, **KEY).json["id"]
    gateway.settle()
    return str(identity)


def is_served(gateway: RunningGateway, **more: Any) -> bool:
    reply = post(gateway.url, {**BODY, **more}, PATH, cache_control="only-if-cached", **KEY)
    assert reply.status in (200, 504)
    return reply.status == 200
