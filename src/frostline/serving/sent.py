"""What a request to the server sends, in whichever form: its images."""

import asyncio
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from frostline.common.data_urls import from_text

_MIB = 1 << 20
BODY_LIMIT = 32 * _MIB
"""Bytes of a request's body, unpacked, and of a file that it names."""
_SWALLOWED = 8 * BODY_LIMIT
"""Of a body that is larger, so much is read all the same: a client that still sends would not see the answer."""
IMAGES_LIMIT = 64
"""Images in a request."""
_PATIENCE = 60
"""Seconds for a request's body to arrive."""

Sent = tuple[str, Callable[[], bytes]]
"""An image: what to call it in an error, and what reads its file."""


async def images_of(request: Request, root: Path | None) -> list[Sent]:
    """The images that `request` holds, one at least, not yet decoded.

    Args:
        request: see `application` for what it may send.
        root: the folder below which it may name files; None for nowhere.

    Raises HTTPException.
    """
    body = await _body_of(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        sent = _from_json(body, root)
    elif kind == "multipart/form-data":
        sent = await _from_form(request, body)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        sent = [("", partial(bytes, body))]
    else:
        raise HTTPException(415, f"Content-Type {kind!r}: send image/jpeg, multipart/form-data or application/json")
    if not sent:
        raise HTTPException(422, "no image was sent")
    if len(sent) > IMAGES_LIMIT:
        raise HTTPException(413, f"{len(sent)} images: at most {IMAGES_LIMIT} at once")
    return sent


async def _body_of(request: Request) -> bytes:
    body = await _sent_body(request)
    listed = ", ".join(request.headers.getlist("content-encoding")).lower()
    packed = [name for name in re.split(r"[\s,]+", listed) if name not in ("", "identity")]
    if not packed:
        return body
    if packed not in (["gzip"], ["x-gzip"]):
        raise HTTPException(415, f"Content-Encoding {listed!r}: send gzip, or none", {"Accept-Encoding": "gzip"})
    return await to_thread.run_sync(_unpacked, body)


def _unpacked(body: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            content = file.read(BODY_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise HTTPException(400, f"Content-Encoding is gzip, but the body is not: {error}") from error
    if len(content) > BODY_LIMIT:
        raise HTTPException(413, f"more than {BODY_LIMIT // _MIB} MiB when unpacked")
    return content


async def _sent_body(request: Request) -> bytes:
    parts, size = [], 0
    try:
        async with asyncio.timeout(_PATIENCE):
            async for part in request.stream():
                size += len(part)
                if size <= BODY_LIMIT:
                    parts.append(part)
                elif size > _SWALLOWED:
                    break
    except TimeoutError as error:
        raise HTTPException(408, f"the request did not arrive within {_PATIENCE} seconds") from error
    except ClientDisconnect as error:  # nobody reads the answer; uncaught it would be a traceback
        raise HTTPException(400, "the request broke off") from error
    if size > BODY_LIMIT:
        raise HTTPException(413, f"more than {BODY_LIMIT // _MIB} MiB")
    return b"".join(parts)


async def _from_form(request: Request, body: bytes) -> list[Sent]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    _, parameters = parse_options_header(request.headers["content-type"])
    boundary = parameters.get(b"boundary")
    if boundary and b"--%s--" % boundary not in body:  # the parser would drop the last file without a word
        raise HTTPException(400, "the form is cut off: its last boundary is missing")
    sent: list[Sent] = []
    async with Request(request.scope, receive).form(max_files=IMAGES_LIMIT, max_fields=IMAGES_LIMIT) as form:
        for _, value in form.multi_items():
            if isinstance(value, UploadFile) and (value.filename or value.size):  # else a field that was left empty
                content = await value.read()
                sent.append((value.filename or "", partial(bytes, content)))
        if form and not sent:
            raise HTTPException(
                422, f"no image was sent: {', '.join(form)} is no file (curl -F file=@dog.jpg sends one)"
            )
    return sent


def _from_json(body: bytes, root: Path | None) -> list[Sent]:
    try:
        # Line breaks within strings are let through: `base64 FILE` makes them.
        content = json.loads(body, strict=False, parse_constant=_no_number, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"not JSON: {error}") from error
    kind, values = next(iter(content.items())) if isinstance(content, dict) and len(content) == 1 else ("", [])
    if kind not in ("inputs", "paths"):
        raise HTTPException(422, 'the JSON must be {"inputs": [base64, ...]} or {"paths": [path, ...]}')
    values = [values] if isinstance(values, str) else values
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise HTTPException(422, f"{kind} must be a list of strings")
    if kind == "inputs":
        return [(f"inputs[{number}]", partial(from_text, text)) for number, text in enumerate(values)]
    if root is None:
        raise HTTPException(403, "paths are not accepted: the server was started without --root")
    return [(path, partial(_read_below, root.resolve(), path)) for path in values]


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("an object has a name twice")
    return content


def _read_below(root: Path, name: str) -> bytes:
    """The file called `name`, relative to `root`, if it really lies below it: links are followed first."""
    try:
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise HTTPException(403, f"{name}: not below the folder that the server gives access to")
        if not path.is_file():  # a pipe or a device would be waited for
            raise HTTPException(404, f"{name}: no such file")
        with path.open("rb") as file:
            content = file.read(BODY_LIMIT + 1)
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a null byte, links in a circle
        raise HTTPException(404, f"{name}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > BODY_LIMIT:
        raise HTTPException(413, f"{name}: more than {BODY_LIMIT // _MIB} MiB")
    return content
