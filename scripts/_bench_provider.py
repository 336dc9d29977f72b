"""A provider for the gateway's bench: answers as soon as a request is whole, and does little else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

__all__ = ["serve_provider"]

_EVENTS = 50
_TEXT = "It is in the settings, under Security. " * 6


def _chat(stream: bool) -> bytes:
    head = {"id": "chatcmpl-1", "created": 1, "model": "m", "system_fingerprint": "f"}
    if not stream:
        message = {"role": "assistant", "content": _TEXT, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 60, "total_tokens": 69}
        body = json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
            len(body),
            body,
        )
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _events() -> list[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": f"word {n} "}, None) for n in range(_EVENTS - 3)] + [({}, "stop")]
    lines = [
        json.dumps(
            {**head, "choices": [{"index": 0, "delta": d, "logprobs": None, "finish_reason": f}]}
        ).encode()
        for d, f in deltas
    ]
    return [
        b"%x\r\n%b\r\n" % (len(e), e) for e in (b"data: " + line + b"\n\n" for line in [*lines, b"[DONE]"])
    ]


class _Provider(asyncio.Protocol):
    """Answers as soon as a request is whole."""

    def connection_made(self, transport: Any) -> None:
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            if len(rest) < length:
                return
            body, self._data = rest[:length], rest[length:]
            if b'"stream":true' in body:
                # One write an event, as it would come.
                self._transport.write(_HEAD_STREAM)
                if b'"user":"slow"' in body:
                    self._slowly(0)
                    return
                for event in _ALL_EVENTS:
                    self._transport.write(event)
                self._transport.write(b"0\r\n\r\n")
            else:
                self._transport.write(_WHOLE)

    def _slowly(self, number: int) -> None:
        """Send an event at a time, so that the first one is there long before the last one."""
        if number == len(_ALL_EVENTS):
            self._transport.write(b"0\r\n\r\n")
            return
        self._transport.write(_ALL_EVENTS[number])
        asyncio.get_running_loop().call_later(0.0002, self._slowly, number + 1)


_HEAD_STREAM, _WHOLE, _ALL_EVENTS = _chat(True), _chat(False), _events()


def serve_provider(port: int) -> None:
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Provider, "127.0.0.1", port)
        await server.serve_forever()

    import uvloop

    uvloop.run(serve())
