"""HTTP servers on loopback that serve one file and misbehave as told."""

import datetime
import ipaddress
import json
import ssl
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Headers = dict[str, str]
Server = TypeVar("Server", bound=ThreadingHTTPServer)


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Answer:
    """How to answer one request for a file; the default is to answer well."""

    status: int | None = None
    """Send this status and no file."""
    headers: Headers = field(default_factory=dict)
    """Headers to add or to replace; an empty value removes one."""
    body: bytes | None = None
    """Send this instead of what was asked for."""
    ranges: bool = True
    """Know ranges; False: send the whole file always."""
    if_range: bool = True
    """Know If-Range; False: send the range even of a file that has changed."""
    stop_after: int | None = None
    """Drop the connection after so many bytes of the body."""
    hang_after: int | None = None
    """Send nothing more after so many bytes of the body, but keep the connection."""
    pieces: int = 1
    """Send the body in so many pieces, with pauses in between."""


class FileServer(ThreadingHTTPServer):
    """Serves `body` at every path; each request takes the next of `answers`, then all are answered well."""

    daemon_threads = True

    def __init__(self, body, *answers, etag='"v1"'):
        super().__init__(("127.0.0.1", 0), _FileHandler)
        self.body, self.etag, self.answers = body, etag, list(answers)
        self.requests: list[tuple[str, Headers]] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.bin"

    def speak_tls(self, certificate):
        """Serve https:// from now on, with a self-signed `certificate` for 127.0.0.1 that it writes."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
        today = datetime.datetime.now(datetime.UTC)
        signed = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(today - datetime.timedelta(days=1))
            .not_valid_after(today + datetime.timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        certificate.write_bytes(
            signed.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def ranges(self):
        """The Range header of each request so far."""
        return [headers.get("Range") for _, headers in self.requests]


class QuietHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def send(self, status, headers, body, answer):
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        try:
            if answer.stop_after is not None or answer.hang_after is not None:
                self.wfile.write(body[: answer.stop_after if answer.hang_after is None else answer.hang_after])
                self.wfile.flush()
                if answer.hang_after is not None:
                    self.rfile.read(1)  # returns when the client is gone
                self.close_connection = True
                return
            step = -(-len(body) // answer.pieces) or 1
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                self.wfile.flush()
                if answer.pieces > 1:
                    time.sleep(0.005)
        except OSError:  # the client is gone
            self.close_connection = True

    def send_file(self, body, etag, answer):
        """Answer as a good server does (RFC 9110: Range, If-Range, 416), but for what `answer` says."""
        if answer.status is not None:
            content = answer.body or b""
            self.send(answer.status, {"Content-Length": str(len(content)), **answer.headers}, content, answer)
            return
        headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        status, wanted = 200, self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, etag) or not answer.if_range
        if wanted and answer.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"}, b"", answer)
                return
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[start:]
        if answer.body is not None:
            body = answer.body
        self.send(status, {**headers, "Content-Length": str(len(body)), **answer.headers}, body, answer)


class _FileHandler(QuietHandler):
    server: FileServer

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        answer = self.server.answers.pop(0) if self.server.answers else Answer()
        self.send_file(self.server.body, self.server.etag, answer)


class KaggleServer(ThreadingHTTPServer):
    """The part of Kaggle's API that downloads a competition, reached as the proxy for http:// addresses.

    The client (kagglesdk) posts JSON to /api/v1/<service>/<method>; the download is answered by a redirect to
    a signed address of another host, which needs no credentials and takes the next of `answers` each time.
    """

    daemon_threads = True
    signature = "signature-of-the-address"

    def __init__(self, archive, *answers, credentials, status=200):
        """`credentials`: the one Authorization header that is accepted; `status`: what it gets."""
        super().__init__(("127.0.0.1", 0), _KaggleHandler)
        self.archive, self.answers = archive, list(answers)
        self.credentials, self.status = credentials, status
        self.downloads: list[Headers] = []

    @property
    def ranges(self):
        """The Range header of each request to the storage so far."""
        return [headers.get("Range") for headers in self.downloads]


class _KaggleHandler(QuietHandler):
    server: KaggleServer

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match self.path.removeprefix("http://localhost/api/v1/"):
            case "security.OAuthService/IntrospectToken":
                active = f"Bearer {request['token']}" == self.server.credentials
                self._json(200, {"active": active, "username": "someone" if active else ""})
            case "competitions.CompetitionApiService/DownloadDataFiles":
                status = self.server.status if self.headers["Authorization"] == self.server.credentials else 401
                if status != 200:
                    self._json(status, {"code": status, "message": "No."})
                    return
                name, signature = request["competitionName"], self.server.signature
                location = f"http://storage.test/{name}/archive.zip?Signature={signature}"
                self.send(302, {"Location": location, "Content-Length": "0"}, b"", Answer())
            case _:
                self._json(404, {"code": 404, "message": "Not found"})

    def do_GET(self):
        assert self.path.startswith("http://storage.test/")
        self.server.downloads.append(dict(self.headers))
        answer = self.server.answers.pop(0) if self.server.answers else Answer()
        answer.headers.setdefault("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")
        self.send_file(self.server.archive, '"v1"', answer)

    def _json(self, status, value):
        body = json.dumps(value).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self.send(status, headers, body, Answer())


def is_healthy(uri):
    """Whether the MLflow server at `uri` answers."""
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
