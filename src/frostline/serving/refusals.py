"""How the server refuses, whatever does so: as JSON ``{"error": …}``, of one line."""

from collections.abc import Mapping

import h11
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_AT_ONCE = 64
"""Requests that are answered; to more the answer is 503."""
_TEXT = (b"content-type", b"text/plain; charset=utf-8")


def refusal(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    line = " ".join(reason.split()).encode(errors="backslashreplace").decode()  # it may quote what was sent
    return JSONResponse({"error": line}, status, headers)


async def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, error.detail, error.headers)


async def failed(request: Request, error: Exception) -> Response:
    """uvicorn writes the traceback to the server's stderr; it is nobody else's business."""
    return refusal(500, "internal error, see the server's output")


class Refusals:
    """Starlette's own, which are plain text, get the form of ours; and requests are refused that are too many."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        plain: Message = {}

        async def send_json(message: Message) -> None:
            if message["type"] == "http.response.start" and _TEXT in message["headers"]:
                plain.update(message)
            elif plain:
                await refusal(plain["status"], message["body"].decode())(scope, receive, send)
            else:
                await send(message)

        if self._running == _AT_ONCE:
            await refusal(503, "too many requests at once: try again", {"Retry-After": "1"})(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send_json)
        finally:
            self._running -= 1


class Connection(H11Protocol):
    """uvicorn's, but for the form in which it refuses what is not HTTP."""

    def send_400_response(self, msg: str) -> None:
        answer = refusal(400, msg, {"Connection": "close"})
        for event in (
            h11.Response(status_code=400, headers=answer.raw_headers, reason=b"Bad Request"),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
