"""Download one file over HTTPS: resumed where it broke off, verified, and at its place only when whole."""

import base64
import contextlib
import email.utils
import hashlib
import ipaddress
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from filelock import lock_descriptor
from requests import Response, Session
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from frostline.common.files import md5_of, read_json, replacing, write_json
from frostline.common.urls import hide_credentials
from frostline.config import paths
from frostline.runtime.errors import FrostlineError

BACKOFF = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt; after the last one the download fails, and a rerun resumes it."""

_TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
_MAX_REDIRECTS = 5
_MAX_RETRY_AFTER = 60  # seconds; a server that asks for more is an error
_CHUNK = 1 << 14  # bytes; of a chunk that a drop cuts short, nothing is kept
_RETRIED_STATUS = {408, 429, 500, 502, 503, 504}


@dataclass
class _Remote:
    """What the server said of its file; kept beside the partial download, to resume it safely."""

    validator: str | None = None
    """Strong ETag or Last-Modified: tells whether the server still has the file that a partial is of."""
    size: int | None = None
    md5: str | None = None


class _Interrupted(Exception):  # noqa: N818 - not an error yet: another attempt may succeed
    """This attempt failed for `reason`; the server may have asked to `wait` so many seconds."""

    def __init__(self, reason: str, wait: float = 0) -> None:
        super().__init__(reason)
        self.wait = wait


def download(url: str, path: Path, *, size: int | None, md5: str | None = None) -> None:
    """Download `url` to `path`, which appears only once it is whole and verified.

    Verified by `size` (bytes), by `md5` (hexadecimal) and by the MD5 that Google's storage sends in
    x-goog-hash, whichever are known. A download that broke off goes on where it stopped, in this run or in
    the next, as long as the server still has the same file. A server may be as slow as it likes, but not silent
    for a minute.

    Raises FrostlineError for an address that is neither HTTPS nor loopback, for a server that stays
    unreachable or sends something else than the file, for too little disk space, for a file that is not
    the expected one, and while another process downloads the same.
    """
    _check_address(url)
    partial = paths.DOWNLOADS / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.part"
    with alone(partial, hide_credentials(url)):
        remote = _remembered(partial)
        if remote.size is None or _length(partial) != remote.size:
            remote = _fetch(url, partial, size)
        _verify(url, partial, size, {md5 and md5.lower(), remote.md5})
        with replacing(path) as temporary:
            shutil.move(partial, temporary)  # a rename, unless the two lie on different file systems
        _forget(partial)


@contextmanager
def alone(partial: Path, source: str) -> Iterator[None]:
    """Keep other processes from writing to `partial` meanwhile; raise FrostlineError if one already does.

    The lock is the kernel's: it ends with its process, however that ends. The empty file beside `partial` stays.
    """
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.with_suffix(".lock").open("w") as file:
        if not lock_descriptor(file.fileno(), blocking=False):
            raise FrostlineError(
                f"{source} is being downloaded by another process.\nWait for it to end, and run the same command again."
            )
        yield


def check_disk(folder: Path, needed: int) -> None:
    """Raise FrostlineError unless the disk of `folder` has room for `needed` more bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FrostlineError(
            f"{folder}: {decimal(needed)} are still to be downloaded, the disk has {decimal(free)} free.\n"
            "Free some space and run the same command again."
        )


def _fetch(url: str, partial: Path, size: int | None) -> _Remote:
    """Bring `partial` to its full length, trying again after faults that may pass."""
    with Session() as session, _progress(url, partial) as bar:
        for wait in (*BACKOFF, None):
            try:
                return _attempt(session, url, partial, size, bar)
            except _Interrupted as error:
                if wait is None or error.wait > _MAX_RETRY_AFTER:
                    raise FrostlineError(
                        f"{hide_credentials(url)}: {error}.\n"
                        "Run the same command again later: what has arrived is kept. Behind a proxy, name it in "
                        "HTTPS_PROXY; without a network, give the file itself."
                    ) from error
                wait = max(wait, error.wait)
                bar.console.out(f"{error}; trying again in {wait:g} s", highlight=False)
                time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _attempt(session: Session, url: str, partial: Path, size: int | None, bar: Progress) -> _Remote:
    old = _remembered(partial)
    offset = _length(partial) if old.validator else 0
    headers = {"Accept-Encoding": "identity"}  # so that lengths and ranges count the file's own bytes
    if offset and old.validator:
        headers |= {"Range": f"bytes={offset}-", "If-Range": old.validator}
    try:
        with _get(session, url, headers) as response:
            _check_status(url, response, partial, offset)
            if response.status_code == 206:
                remote = _continued(url, response, partial, old, offset)
            else:  # no range asked for, or the server knows no ranges, or it has another file by now
                remote, offset = _described(response), 0
            if remote.size is not None and size is not None and remote.size != size:
                _forget(partial)
                raise _wrong_size(url, remote.size, size)
            total = remote.size or size
            check_disk(partial.parent, (total or 0) - offset)
            bar.reset(bar.task_ids[0], completed=offset, total=total)
            with partial.open("ab" if offset else "wb") as file:
                write_json(partial.with_suffix(".json"), asdict(remote))
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    bar.advance(bar.task_ids[0], len(chunk))
                    if total is not None and file.tell() > total:
                        _forget(partial)
                        raise _wrong_size(url, file.tell(), total, or_more=True)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        if isinstance(error, requests.exceptions.ProxyError) and "connection failed: 407" in str(error):
            raise FrostlineError(
                f"{hide_credentials(url)}: the proxy wants credentials (407).\n"
                "Put them into HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT"
            ) from error
        if "CERTIFICATE_VERIFY_FAILED" in str(error):  # other TLS errors are dropped connections
            raise FrostlineError(
                f"{hide_credentials(url)}: the server's certificate is not trusted.\n"
                "If a proxy stands in between, name its certificates in REQUESTS_CA_BUNDLE."
            ) from error
        raise _Interrupted(f"no connection ({_cause(error)}) after {_length(partial):,} bytes") from error
    except requests.RequestException as error:
        raise FrostlineError(f"{hide_credentials(url)}: cannot be downloaded ({_cause(error)}).") from error
    arrived = _length(partial)
    if total is not None and arrived < total:
        raise _Interrupted(f"the server sent {arrived:,} of {total:,} bytes")
    return _Remote(remote.validator, arrived, remote.md5)


@contextmanager
def _get(session: Session, url: str, headers: dict[str, str]) -> Iterator[Response]:
    """Follow redirects by hand, so that every hop obeys the rule for addresses."""
    https = False
    for _ in range(_MAX_REDIRECTS + 1):
        https = _check_address(url, only_https=https)  # what began encrypted stays so, even to loopback
        try:
            response = session.get(url, headers=headers, stream=True, timeout=_TIMEOUT, allow_redirects=False)
            target = session.get_redirect_target(response)
            following = urljoin(url, target) if target else None
        except requests.RequestException:
            raise
        except ValueError as error:
            raise FrostlineError(
                f"{hide_credentials(url)}: the server redirects to something that is no address."
            ) from error
        with response:
            if following is None:
                yield response
                return
        url = following
    raise FrostlineError(
        f"{hide_credentials(url)}: more than {_MAX_REDIRECTS} redirects.\nCheck the address in the settings."
    )


def _check_address(url: str, *, only_https: bool = False) -> bool:
    """Return whether `url` is an https:// address; raise FrostlineError unless it is that or plain loopback."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise FrostlineError(f"{url!r} is not an address.") from error
    loopback = host == "localhost"
    with contextlib.suppress(ValueError):
        loopback = loopback or ipaddress.ip_address(host).is_loopback
    https, plain = parts.scheme == "https", parts.scheme == "http" and loopback and not only_https
    if not host or not (https or plain):
        shown = hide_credentials(url.split("?")[0])  # it may have no scheme, and a query all the same
        raise FrostlineError(f"{shown}: refused, files are only downloaded from https:// addresses.")
    return https


def _check_status(url: str, response: Response, partial: Path, offset: int) -> None:
    reason = f"the server answered {response.status_code} {response.reason}"
    if response.status_code == 416 and offset:  # its file is no longer than what we hold, so it is another file
        _forget(partial)
        raise _Interrupted(reason)
    if response.status_code in _RETRIED_STATUS:
        wait = _retry_after(response)
        raise _Interrupted(reason + (f" and asks to wait {wait:.0f} s" if wait else ""), wait)
    if response.status_code != 200 and not (response.status_code == 206 and offset):
        raise FrostlineError(f"{hide_credentials(url)}: {reason}.\nCheck the address in the settings.")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise FrostlineError(
            f"{hide_credentials(url)}: the server sent a web page, not the file.\n"
            "The network's login page may stand in between: open the address in a browser."
        )


def _retry_after(response: Response) -> float:
    """Return the seconds that Retry-After asks for, a number or a date (RFC 9110, section 10.2.3), or 0."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _described(response: Response) -> _Remote:
    headers = response.headers
    etag, length = headers.get("ETag", ""), headers.get("Content-Length", "")
    return _Remote(
        validator=etag if etag.startswith('"') else headers.get("Last-Modified"),  # W/"..." is weak: not for ranges
        size=int(length) if length.isdecimal() else None,
        md5=_google_md5(response),
    )


def _continued(url: str, response: Response, partial: Path, old: _Remote, offset: int) -> _Remote:
    """Return `old` completed, having checked that a 206 answer holds just the rest of the same file."""
    validator = response.headers.get("ETag" if (old.validator or "").startswith('"') else "Last-Modified")
    if validator not in (None, old.validator):
        _forget(partial)
        raise _Interrupted("the server's file has changed since the download began")
    content_range = response.headers.get("Content-Range", "none")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range)
    first, last, total = (int(number) for number in match.groups()) if match else (-1, -1, -1)
    if first != offset or last != total - 1 or total != (old.size or total):
        _forget(partial)
        raise FrostlineError(
            f"{hide_credentials(url)}: asked for bytes {offset} to the end, the server sent {content_range!r}.\n"
            "The partial download was deleted; run the same command again to start over."
        )
    return _Remote(old.validator, total, _google_md5(response) or old.md5)


def _google_md5(response: Response) -> str | None:
    """Return the MD5 (hexadecimal) of the whole file from Google storage's ``x-goog-hash: crc32c=, md5=``."""
    match = re.search(r"\bmd5=([A-Za-z0-9+/]{22}==)", response.headers.get("x-goog-hash", ""))
    return base64.b64decode(match[1]).hex() if match else None


def _verify(url: str, partial: Path, size: int | None, digests: set[str | None]) -> None:
    if size is not None and _length(partial) != size:
        found = _length(partial)
        _forget(partial)
        raise _wrong_size(url, found, size)
    if expected := digests - {None}:
        md5 = md5_of(partial)
        if expected != {md5}:
            _forget(partial)
            raise FrostlineError(
                f"{hide_credentials(url)}: the file's MD5 is {md5}, "
                f"expected {', '.join(map(str, expected - {md5}))}.\n"
                "The download was deleted; run the same command again. If it comes back, the file is another."
            )


def _wrong_size(url: str, found: int, expected: int, *, or_more: bool = False) -> FrostlineError:
    more = " or more" if or_more else ""
    return FrostlineError(
        f"{hide_credentials(url)}: the file has {found:,} bytes{more}, expected {expected:,}.\n"
        "It is not the file that the settings describe, and was not kept."
    )


def _remembered(partial: Path) -> _Remote:
    try:
        return _Remote(**read_json(partial.with_suffix(".json")))
    except (OSError, ValueError, TypeError):
        return _Remote()


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    partial.with_suffix(".json").unlink(missing_ok=True)


def _length(partial: Path) -> int:
    return partial.stat().st_size if partial.exists() else 0


def _cause(error: requests.RequestException) -> str:
    """Return the class of the innermost error: requests' own messages hold the address with its query."""
    inner = error.args[0] if error.args else error
    inner = getattr(inner, "reason", inner)
    return type(inner if isinstance(inner, Exception) else error).__name__


@contextmanager
def _progress(url: str, partial: Path) -> Iterator[Progress]:
    """Show a bar with rate and time left on a terminal, and one plain line at the start and at the end."""
    console, begun = Console(file=sys.stderr), time.monotonic()
    console.out(f"downloading {hide_credentials(url)}", highlight=False)
    name = Path(urlsplit(url).path).name
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        bar.add_task(name, total=None)
        yield bar
    console.out(f"{name}: {decimal(_length(partial))}, {time.monotonic() - begun:.1f} s", highlight=False)
