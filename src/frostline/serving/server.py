"""`frostline serve`: classify the images that people send over HTTP, and a page to drop one on."""

import base64
import hashlib
import ipaddress
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from anyio import CapacityLimiter, to_thread
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from frostline.common.data_urls import data_url
from frostline.data.images import ImageTooLargeError, NotAImageError, as_png, decode_image
from frostline.explain.grad_cam import checked_grad_cam
from frostline.explain.heat_map import heat_png, where
from frostline.metrics.predicted import predicted_classes, rule_in_words
from frostline.runtime.errors import FrostlineError
from frostline.runtime.process_pool import cores
from frostline.serving.classifier import Classifier, answers, load_classifier
from frostline.serving.refusals import Connection, Refusals, failed, refused
from frostline.serving.sent import BODY_LIMIT, Sent, images_of


def serve(model_path: Path, host: str, port: int, root: Path | None, threshold: float | None = None) -> None:
    """Answer requests until the process is interrupted; see `application`.

    Args:
        model_path: a `.keras` file.
        host: address to listen at.
        port: 0 for a free one.
        root: the folder below which requests may name files; None for nowhere.
        threshold: for two classes, from 0 to 1, in place of the model's.

    Raises:
        FrostlineError: the address or `root` cannot be used, or something is wrong with the model's file.
    """
    if root is not None and not root.is_dir():
        raise FrostlineError(f"{root} is not a folder.\n--root names the folder whose images may be asked for.")
    with _listening(host, port) as listener:
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        address, number = socket.getnameinfo(listener.getsockname(), numeric)  # with the scope of IPv6
        names = ["*"]
        if ipaddress.ip_address(address).is_loopback:
            names = [host, "localhost", "127.0.0.1", "::1", "[::1]"]  # not a stranger's page by way of DNS (rebinding)
        else:
            _say(f"warning: whoever reaches {address} may use this server; it has no login")
        app = application(load_classifier(model_path, threshold), root, names)
        place = f"[{address}]" if ":" in address else address
        _say(f"{model_path} is served at http://{place}:{number} (Ctrl-C ends it)")
        settings = uvicorn.Config(
            app,
            log_level="error",
            server_header=False,
            proxy_headers=False,
            http=Connection,
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(settings).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        place, _, *scope = address  # getaddrinfo takes 99999 for a port, modulo 65536
        return socket.create_server((place, port, *scope), family=family)
    except (OSError, OverflowError, UnicodeError) as error:  # the last one for a name that no server can have
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise FrostlineError(f"{host}:{port} cannot be used: {reason}.\nGive another --port or --host.") from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - what the command says, before and between requests


def application(classifier: Classifier, root: Path | None = None, hosts: Sequence[str] = ("*",)) -> Starlette:
    """The server: GET / is a page to drop an image on, GET /health says that it is up.

    POST /invocations answers ``{"predictions": [{"class", "probability", "probabilities"}, …]}``, in order, for

    - an image file under its type (``Content-Type: image/jpeg``),
    - a form with image files (``multipart/form-data``), whose fields of text do not count,
    - JSON ``{"inputs": […]}`` with images as base64 or data: URLs, which MLflow's server takes, too,
    - JSON ``{"paths": […]}`` with files below the folder `root`, where that is given,

    each as it is or packed (``Content-Encoding: gzip``).

    ``?explain=true`` adds to each ``seen``, the image as the model sees it, ``heat``, the Grad-CAM map of the class as
    an image to lay over that, and ``where`` in it this mostly lies, in words. Over the image that was sent it fits
    by the model's fit: squash: stretched over all of it; crop: over its largest centred square; pad: over the smallest
    square around it. All else is answered 4xx or 5xx with ``{"error": …}``, one line. `hosts`: the names under which
    the server may be asked.
    """
    page, policy = _page(classifier)
    at_once, one_by_one = CapacityLimiter(cores()), threading.Lock()  # TensorFlow takes all cores for one request

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def invocations(request: Request) -> Response:
        sent = await images_of(request, root)
        asked = request.query_params.multi_items()
        if strange := [key for key, _ in asked if key != "explain"]:
            raise HTTPException(422, f"{strange[0]}: there is no such parameter; valid: explain")
        explain = "&".join(value for _, value in asked) or "false"
        if explain not in ("true", "false"):
            raise HTTPException(422, f"explain={explain}: true or false")
        answer = await to_thread.run_sync(_classify, classifier, sent, explain == "true", one_by_one, limiter=at_once)
        return JSONResponse({"predictions": answer})

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/health", health),
            Route("/invocations", invocations, methods=["POST"]),
        ],
        middleware=[
            Middleware(Refusals),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={HTTPException: refused, Exception: failed},
    )


# The answer


def _classify(
    classifier: Classifier, sent: Sequence[Sent], explain: bool, one_by_one: threading.Lock
) -> list[dict[str, Any]]:
    pixels = np.stack([_decode(name, read, classifier) for name, read in sent])
    with one_by_one:
        probabilities = classifier.probabilities(pixels)
        predicted = predicted_classes(probabilities, classifier.threshold)
        maps = checked_grad_cam(classifier.model, pixels, predicted) if explain else None
    found = answers(classifier.classes, probabilities, predicted)
    if maps is not None:
        for answer, image, heat in zip(found, pixels, maps, strict=True):
            answer["heat"] = data_url("png", heat_png(heat, image.shape[:2]))
            answer["where"] = where(heat)
            answer["seen"] = data_url("png", as_png(image))
    return found


def _decode(name: str, read: Callable[[], bytes], classifier: Classifier) -> np.ndarray:
    try:
        return decode_image(read(), classifier.size, classifier.fit)
    except ValueError as error:  # UnreadableImageError is one
        kinds = ((NotAImageError, 415), (ImageTooLargeError, 413), (ValueError, 422))
        status = next(status for kind, status in kinds if isinstance(error, kind))
        raise HTTPException(status, f"{name}: {error}" if name else str(error)) from error


# The page


def _page(classifier: Classifier) -> tuple[str, str]:
    """The page, and the Content-Security-Policy that lets only its own script and style work."""
    environment = Environment(
        loader=PackageLoader("frostline.serving", "drop_page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (environment.get_template(name).render() for name in ("page.css", "page.js"))
    page = environment.get_template("page.html.jinja").render(
        classes=classifier.classes,
        threshold=classifier.threshold,
        rule=rule_in_words(classifier.threshold, classifier.classes),
        size=classifier.size,
        fit=classifier.fit,
        limit=BODY_LIMIT,
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
    )
    policy = (
        f"default-src 'none'; img-src blob: data:; connect-src 'self'; style-src {_digest(style)}; "
        f"script-src {_digest(script)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
