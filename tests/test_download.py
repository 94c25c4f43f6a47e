"""Downloads from real servers on loopback that drop, lie, redirect and change their file."""

import base64
import gzip
import hashlib
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from frostline.config import paths
from frostline.runtime.errors import FrostlineError
from frostline.sources import download as module
from frostline.sources.download import download
from servers import Answer, FileServer, running, wait_until

pytestmark = pytest.mark.slow

BODY = bytes(range(256)) * 1024  # 262,144 bytes
MD5 = hashlib.md5(BODY).hexdigest()
QUARTER = len(BODY) // 4
GOOGLE_HASH = f"crc32c=AAAAAA==, md5={base64.b64encode(bytes.fromhex(MD5)).decode()}"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(module, "BACKOFF", (0.0, 0.0, 0.0, 0.0, 0.0))


def leftovers():
    return sorted(path.name for path in paths.DOWNLOADS.iterdir() if path.suffix != ".lock")


def drop(after, **other):
    return Answer(stop_after=after, **other)  # type: ignore[arg-type]  # forwarded as given


def test_downloads_and_leaves_nothing_else(tmp_path):
    with running(FileServer(BODY)) as server:
        download(server.url, Path("data/raw/file.bin"), size=len(BODY), md5=MD5.upper())
    assert Path("data/raw/file.bin").read_bytes() == BODY
    assert leftovers() == []
    assert list(Path("data/raw").iterdir()) == [Path("data/raw/file.bin")]


def test_goes_on_after_a_drop_at_each_quarter():
    with running(FileServer(BODY, drop(QUARTER), drop(QUARTER), drop(QUARTER), drop(0))) as server:
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert Path("file.bin").read_bytes() == BODY
    quarters = [f"bytes={n * QUARTER}-" for n in (1, 2, 3, 3)]
    assert server.ranges == [None, *quarters]
    assert [headers.get("If-Range") for _, headers in server.requests] == [None, *['"v1"'] * 4]


@pytest.mark.parametrize("arrived", [0, QUARTER, 2 * QUARTER, 3 * QUARTER, len(BODY) - 1])
def test_goes_on_after_one_drop(arrived):
    with running(FileServer(BODY, drop(arrived))) as server:
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert Path("file.bin").read_bytes() == BODY
    resumed = arrived // module._CHUNK * module._CHUNK
    assert server.ranges == [None, f"bytes={resumed}-" if resumed else None]


class WantsCredentials(BaseHTTPRequestHandler):
    def do_CONNECT(self):
        self.send_error(407)

    def log_message(self, *_):
        pass


def test_a_proxy_that_wants_credentials_is_said_at_once(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), WantsCredentials) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        for other in ("https_proxy", "NO_PROXY", "no_proxy"):  # which would win
            monkeypatch.delenv(other, raising=False)
        with pytest.raises(FrostlineError, match=r"the proxy wants credentials \(407\)\.\nPut them into HTTPS_PROXY"):
            download("https://weights.example/file.bin", Path("file.bin"), size=len(BODY), md5=MD5)
        proxy.shutdown()


def test_a_server_that_falls_silent_is_asked_again(monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT", (10, 2))
    with running(FileServer(BODY, Answer(hang_after=QUARTER))) as server:
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert server.ranges == [None, f"bytes={QUARTER}-"]


def test_a_server_that_always_drops_fails_and_a_rerun_resumes():
    with running(FileServer(BODY, drop(QUARTER), *[drop(0)] * 5)) as server:
        with pytest.raises(FrostlineError, match=r"no connection|sent 65,536 of 262,144"):
            download(server.url, Path("file.bin"), size=len(BODY))
        assert len(server.requests) == 6
        assert not Path("file.bin").exists()
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert Path("file.bin").read_bytes() == BODY
    assert server.ranges[-1] == f"bytes={QUARTER}-"


def test_resumes_what_a_killed_process_left_and_does_not_disturb_it_before():
    code = (
        "import sys; from pathlib import Path; from frostline.sources.download import download\n"
        f"download(sys.argv[1], Path('file.bin'), size={len(BODY)})"
    )
    with running(FileServer(BODY, Answer(hang_after=2 * QUARTER))) as server:
        process = subprocess.Popen([sys.executable, "-c", code, server.url], stderr=subprocess.PIPE)
        wait_until(lambda: any(part.stat().st_size > 0 for part in paths.DOWNLOADS.glob("*.part")))
        with pytest.raises(FrostlineError, match=f"{server.url} is being downloaded by another process"):
            download(server.url, Path("file.bin"), size=len(BODY))
        assert len(server.requests) == 1
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert process.stderr is not None
        process.stderr.close()
        assert not Path("file.bin").exists()
        kept = next(paths.DOWNLOADS.glob("*.part")).stat().st_size
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert Path("file.bin").read_bytes() == BODY
    assert server.ranges == [None, f"bytes={kept}-"]


def test_a_whole_file_that_was_not_yet_moved_is_not_downloaded_again():
    Path("taken").write_text("a file where a folder should be")
    with running(FileServer(BODY)) as server:
        with pytest.raises(OSError, match="taken"):
            download(server.url, Path("taken/file.bin"), size=len(BODY))
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert len(server.requests) == 1
    assert Path("file.bin").read_bytes() == BODY


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_tries_again_after_a_passing_fault(status):
    with running(FileServer(BODY, Answer(status), Answer(status, {"Retry-After": "0"}))) as server:
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert len(server.requests) == 3


@pytest.mark.parametrize("value", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_long_retry_after_is_an_error(value):
    with (
        running(FileServer(BODY, Answer(429, {"Retry-After": value}))) as server,
        pytest.raises(FrostlineError, match="429 Too Many Requests and asks to wait"),
    ):
        download(server.url, Path("file.bin"), size=len(BODY))
    assert len(server.requests) == 1


def test_a_slow_trickle_arrives():
    with running(FileServer(BODY, Answer(pieces=20))) as server:
        download(server.url, Path("file.bin"), size=None, md5=MD5)
    assert len(server.requests) == 1


def test_starts_over_where_ranges_are_unknown():
    with running(FileServer(BODY, drop(QUARTER), Answer(ranges=False))) as server:
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert server.ranges == [None, f"bytes={QUARTER}-"]


@pytest.mark.parametrize("etag", ["", 'W/"v1"'])
def test_never_resumes_without_a_strong_validator(etag):
    with running(FileServer(BODY, drop(QUARTER, headers={"ETag": etag}))) as server:
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert server.ranges == [None, None]


def test_resumes_by_last_modified():
    date = "Wed, 01 Jan 2020 00:00:00 GMT"
    headers = {"ETag": "", "Last-Modified": date}
    first, second = drop(QUARTER, headers=headers), Answer(headers=headers, if_range=False)
    with running(FileServer(BODY, first, second)) as server:
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert server.requests[1][1]["If-Range"] == date
    assert server.ranges[1] == f"bytes={QUARTER}-"


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_in_between_is_downloaded_anew(if_range):
    old = bytes(len(BODY))
    with running(FileServer(old, drop(QUARTER), *[drop(0)] * 5, Answer(if_range=if_range))) as server:
        with pytest.raises(FrostlineError):
            download(server.url, Path("file.bin"), size=None)
        server.body, server.etag = BODY, '"v2"'
        download(server.url, Path("file.bin"), size=None)
    assert Path("file.bin").read_bytes() == BODY
    assert server.ranges[6:] == [f"bytes={QUARTER}-"] + ([] if if_range else [None])


def test_an_answer_without_a_length_that_ends_early_is_resumed():
    unsized = {"Content-Length": "", "Connection": "close"}
    with running(FileServer(BODY, drop(QUARTER, headers=unsized))) as server:
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert server.ranges == [None, f"bytes={QUARTER}-"]


def test_starts_over_when_the_range_is_past_the_servers_file():
    with running(FileServer(BODY, drop(QUARTER), Answer(416))) as server:
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert server.ranges == [None, f"bytes={QUARTER}-", None]


@pytest.mark.parametrize(
    "lie", ["bytes 0-262143/262144", "bytes 65536-99999/262144", "bytes 65536-999999/1000000", "nonsense", ""]
)
def test_a_range_that_lies_is_an_error_and_a_rerun_starts_over(lie):
    with running(FileServer(BODY, drop(QUARTER), Answer(headers={"Content-Range": lie}))) as server:
        with pytest.raises(FrostlineError, match=r"asked for bytes 65536 to the end, the server sent"):
            download(server.url, Path("file.bin"), size=len(BODY))
        assert leftovers() == []
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert server.ranges[-1] is None


@pytest.mark.parametrize("body", [BODY[QUARTER:] + b"!", BODY[QUARTER:-1], BODY], ids=["longer", "shorter", "whole"])
def test_a_range_whose_length_lies_never_becomes_the_file(body):
    rest = Answer(body=body, stop_after=len(BODY))
    with running(FileServer(BODY, drop(QUARTER), rest)) as server:
        try:
            download(server.url, Path("file.bin"), size=len(BODY))
        except FrostlineError as error:
            assert "bytes or more, expected" in str(error)
            assert leftovers() == []
            download(server.url, Path("file.bin"), size=len(BODY))
    assert Path("file.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    ("answer", "size", "message"),
    [
        (Answer(), len(BODY) + 1, "the file has 262,144 bytes, expected 262,145"),
        (Answer(body=BODY + b"!"), len(BODY), "the file has 262,145 bytes, expected 262,144"),
        (
            Answer(headers={"Content-Length": "", "Connection": "close"}),
            1000,
            "bytes or more, expected 1,000",
        ),
        (
            Answer(body=gzip.compress(bytes(1 << 20)), headers={"Content-Encoding": "gzip"}),
            None,
            "bytes or more, expected 1,",
        ),
        (Answer(headers={"Content-Length": str(10**18)}), None, "the disk has .* free"),
        (Answer(headers={"Content-Type": "text/html; charset=utf-8"}), None, "sent a web page"),
        (Answer(404), None, "answered 404 Not Found"),
        (Answer(206), None, "answered 206"),
        (Answer(302), None, "answered 302"),
    ],
)
def test_an_answer_that_is_not_the_file(answer, size, message):
    answer.stop_after = len(BODY) + 1  # close the connection, whatever length was announced
    with running(FileServer(BODY, answer)) as server, pytest.raises(FrostlineError, match=message) as caught:
        download(server.url, Path("file.bin"), size=size)
    assert len(server.requests) == 1
    assert not Path("file.bin").exists()
    assert leftovers() == []
    assert str(caught.value).count("\n") <= 1


def test_more_bytes_announced_than_sent_is_an_error_in_the_end():
    short = Answer(headers={"Content-Length": str(len(BODY) + 10)}, stop_after=len(BODY))
    with (
        running(FileServer(BODY, *[short] * 6)) as server,
        pytest.raises(FrostlineError, match="what has arrived is kept"),
    ):
        download(server.url, Path("file.bin"), size=None)
    assert not Path("file.bin").exists()


@pytest.mark.parametrize("known_by", ["settings", "server"])
def test_a_wrong_digest_deletes_the_download(known_by):
    wrong = bytes([BODY[0] ^ 1]) + BODY[1:]
    answer = Answer(body=wrong, headers={"x-goog-hash": GOOGLE_HASH} if known_by == "server" else {})
    with running(FileServer(BODY, answer)) as server:
        with pytest.raises(FrostlineError, match=f"expected {MD5}"):
            download(server.url, Path("file.bin"), size=len(BODY), md5=MD5 if known_by == "settings" else None)
        assert leftovers() == []
        download(server.url, Path("file.bin"), size=len(BODY))
    assert Path("file.bin").read_bytes() == BODY


def test_the_servers_digest_outlives_a_drop():
    rest = Answer(body=b"x" * (len(BODY) - QUARTER))
    with (
        running(FileServer(BODY, drop(QUARTER, headers={"x-goog-hash": GOOGLE_HASH}), rest)) as server,
        pytest.raises(FrostlineError, match=f"expected {MD5}"),
    ):
        download(server.url, Path("file.bin"), size=len(BODY))


def redirect(*targets):
    return [Answer(302, {"Location": target}) for target in targets]


def test_follows_five_redirects():
    with running(FileServer(BODY, *redirect("/1", "2", "?3", "to be set", "/5"))) as server:
        server.answers[3].headers["Location"] = f"//127.0.0.1:{server.server_port}/4"
        download(server.url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert [path for path, _ in server.requests] == ["/file.bin", "/1", "/2", "/2?3", "/4", "/5"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["/loop"] * 6, "more than 5 redirects"),
        (["file:///etc/hostname"], "file:///etc/hostname: refused"),
        (["http://example.com/file.bin"], r"http://example\.com/file\.bin: refused"),
        (["http://user:word@example.com/?key=word"], r"http://example\.com/: refused"),
        (["http://127.0.0.1.example.com/"], "refused"),
        (["http://[not-an-address/"], "no address"),
    ],
)
def test_refuses_redirects(targets, message):
    with running(FileServer(BODY, *redirect(*targets))) as server:
        with pytest.raises(FrostlineError, match=message) as caught:
            download(server.url, Path("file.bin"), size=len(BODY))
        assert len(server.requests) == len(targets)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/f",
        "ftp://example.com/f",
        "file:///etc/hostname",
        "f.zip",
        "https://",
        "http://[x/",
    ],
)
def test_refuses_addresses_that_are_not_https(url):
    with pytest.raises(FrostlineError, match=r"refused|not an address"):
        download(url, Path("file.bin"), size=None)


def test_an_unreachable_server_is_named_with_the_cause():
    with running(FileServer(BODY)) as server:
        url = server.url
    with pytest.raises(FrostlineError, match=r"127\.0\.0\.1:\d+/file\.bin: no connection \(NewConnectionError\)"):
        download(url + "?key=word", Path("file.bin"), size=None)


def test_https_needs_a_certificate_that_is_trusted(tmp_path, monkeypatch):
    server, certificate = FileServer(BODY, drop(QUARTER)), tmp_path / "certificate.pem"
    server.speak_tls(certificate)
    url = server.url.replace("http:", "https:")
    with running(server):
        with pytest.raises(FrostlineError, match="certificate is not trusted"):
            download(url, Path("file.bin"), size=len(BODY))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        download(url, Path("file.bin"), size=len(BODY), md5=MD5)
    assert server.ranges == [None, f"bytes={QUARTER}-"]


def test_a_redirect_never_leaves_https(tmp_path, monkeypatch):
    certificate = tmp_path / "certificate.pem"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with running(FileServer(BODY)) as plain:
        server = FileServer(BODY, *redirect("/still", plain.url))
        server.speak_tls(certificate)
        with running(server), pytest.raises(FrostlineError, match=f"{plain.url}: refused"):
            download(server.url.replace("http:", "https:"), Path("file.bin"), size=None)
        assert len(server.requests) == 2 and plain.requests == []


def test_a_tls_connection_that_breaks_is_tried_again():
    with running(FileServer(BODY)) as server, pytest.raises(FrostlineError, match=r"no connection \(SSLError\)"):
        download(server.url.replace("http:", "https:"), Path("file.bin"), size=None)


def test_without_a_terminal_prints_plain_lines(capsys):
    with running(FileServer(BODY, Answer(503))) as server:
        download(server.url + "?key=word", Path("file.bin"), size=len(BODY))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:2] == [
        f"downloading {server.url}",
        "the server answered 503 Service Unavailable; trying again in 0 s",
    ]
    assert err.splitlines()[2].startswith("file.bin: 262.1 kB, ")
