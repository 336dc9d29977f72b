"""HTTP as it is, for tests of what SDKs would not send or show."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["CHAT", "MESSAGE", "Reply", "ask", "chat_body", "half_read", "post", "raw"]

CHAT, MESSAGE = "/v1/chat/completions", "/v1/messages"


class Reply:
    """An answer."""

    def __init__(
        self, status: int, headers: Mapping[str, str], body: bytes, *, is_whole: bool = True
    ) -> None:
        self.status, self.body, self.is_whole = status, body, is_whole
        self.headers = {name.lower(): value for name, value in headers.items()}

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def state(self) -> str:
        return self.headers.get("x-lix-cache", "")

    @property
    def reason(self) -> str:
        return self.headers.get("x-lix-cache-reason", "")

    @property
    def text(self) -> str:
        """The words of a chat completion, whichever its form."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return str(self.json["choices"][0]["message"]["content"])
        lines = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: {")]
        return "".join(
            choice["delta"].get("content") or "" for line in lines for choice in json.loads(line)["choices"]
        )


def chat_body(text: str = "Where is the billing page?", **more: Any) -> dict[str, Any]:
    return {"model": "m-1", "messages": [{"role": "user", "content": text}], **more}


def ask(
    url: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Reply:
    """Send a request; an answer that breaks off is one that is not whole."""
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request(method, path, body, {"content-type": "application/json", **(headers or {})})
        response = connection.getresponse()
        try:
            return Reply(response.status, dict(response.getheaders()), response.read())
        except http.client.IncompleteRead as error:
            return Reply(response.status, dict(response.getheaders()), error.partial, is_whole=False)
    finally:
        connection.close()


def post(url: str, body: Any, path: str = CHAT, **headers: str) -> Reply:
    """Send a body as JSON; headers by their names with underscores."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask(url, "POST", path, data, {name.replace("_", "-"): value for name, value in headers.items()})


def half_read(
    port: int,
    body: Any,
    path: str = CHAT,
    until: bytes = b"",
    when: Callable[[], object] = lambda: None,
    **headers: str,
) -> None:
    """Send a request, read until some bytes have come, wait for what a function waits for, and leave."""
    data = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        seen = b""
        while until and until not in seen:
            seen += connection.recv(1 << 16)
        when()


def raw(port: int, data: bytes, seconds: float = 30) -> bytes:
    """Send bytes and return all that comes back until the other side closes or is silent."""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        connection.sendall(data)
        connection.settimeout(seconds)
        seen = b""
        try:
            while chunk := connection.recv(1 << 16):
                seen += chunk
        except (TimeoutError, ConnectionError):
            pass
        return seen
