"""A real server and a real client; one process of its own."""

import base64
import dataclasses
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import numpy as np
import psutil
import pytest
import requests

from corpus import png_of
from frostline.serving.classifier import load_classifier
from frostline.serving.sent import BODY_LIMIT, IMAGES_LIMIT
from frostline.serving.server import application
from served import SIZE, ball, field, serving, write_model
from servers import wait_until

pytestmark = pytest.mark.slow

JSON = {"Content-Type": "application/json"}
JPEG = {"Content-Type": "image/jpeg"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
GZIP = {"Content-Encoding": "gzip"}


def part(content, *, name="file", file="a.jpg"):
    """Of a form with the boundary x."""
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    write_model(path)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder that the server gives access to, beside one that it does not."""
    folder = tmp_path_factory.mktemp("beside") / "root"
    (folder / "inside").mkdir(parents=True)
    (folder / "ball.jpg").write_bytes(ball())
    (folder / "inside" / "field.jpg").write_bytes(field())
    (folder / "notes.jpg").write_text("text")
    (folder / "huge.jpg").write_bytes(ball() + bytes(BODY_LIMIT))
    (folder.parent / "secret.jpg").write_bytes(ball())
    (folder / "way_out.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "way_in.jpg").symlink_to("ball.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return folder


@pytest.fixture(scope="module")
def address(model, root):
    with serving(application(load_classifier(model), root, ["127.0.0.1"])) as url:
        yield url


def classes(response):
    assert response.status_code == 200, response.text
    return [answer["class"] for answer in response.json()["predictions"]]


def reason(response):
    """The status, and the reason, which is the whole answer and of one line."""
    assert response.headers["Content-Type"] == "application/json"
    (error,) = response.json().values()
    assert error
    assert "\n" not in error
    assert "Traceback" not in error
    return response.status_code, error


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("PNG", "RGBA"),
        ("GIF", "P"),
        ("WEBP", "RGB"),
        ("BMP", "RGB"),
        ("TIFF", "RGB"),
    ],
)
def test_a_image_is_classified_however_it_comes(address, kind, mode):
    url, content = f"{address}/invocations", ball(kind, mode)
    text = base64.b64encode(content).decode()
    whole = requests.post(url, data=content, headers={"Content-Type": f"image/{kind.lower()}"})
    (answer,) = whole.json()["predictions"]
    assert answer["class"] == "ball"
    assert answer["probability"] == answer["probabilities"]["ball"] > 0.7
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    for response in (
        requests.post(url, data=content, headers={"Content-Type": "application/octet-stream"}),
        requests.post(url, files={"file": ("an image", content)}),
        requests.post(url, json={"inputs": [text]}),
        requests.post(url, json={"inputs": text}),
        requests.post(url, json={"inputs": [f"data:image/x;base64,{text}"]}),
        requests.post(url, json={"inputs": [f"data:image/x;charset=utf-8,{quote(content)}"]}),
        requests.post(url, json={"inputs": [base64.urlsafe_b64encode(content).decode().rstrip("=")]}),
        requests.post(url, data=f'{{"inputs": ["{base64.encodebytes(content).decode()}"]}}', headers=JSON),
        requests.post(url, data=gzip.compress(content), headers={"Content-Type": "image/x", **GZIP}),
        requests.post(url, data=gzip.compress(json.dumps({"inputs": text}).encode()), headers={**JSON, **GZIP}),
        requests.post(url, data=iter([content[:999], content[999:]]), headers={"Content-Type": "image/x"}),
        requests.post(f"{url}/", data=content, headers={"Content-Type": "image/x", "Content-Encoding": "identity"}),
        requests.post(url, files=[("empty", ("", b"")), ("file", ("an image", content)), ("note", (None, "text"))]),
    ):
        assert response.json() == whole.json()


def test_several_are_answered_in_order(address):
    url, expected = f"{address}/invocations", ["field", "ball", "field"]
    contents = [field(), ball(), field()]
    texts = [base64.b64encode(content).decode() for content in contents]
    assert classes(requests.post(url, files=[("file", (f"{n}.jpg", c)) for n, c in enumerate(contents)])) == expected
    assert classes(requests.post(url, json={"inputs": texts})) == expected
    assert (
        classes(requests.post(url, json={"paths": ["inside/field.jpg", "way_in.jpg", "inside/field.jpg"]})) == expected
    )


def test_paths_may_be_absolute(address, root):
    assert classes(requests.post(f"{address}/invocations", json={"paths": [str(root / "ball.jpg")]})) == ["ball"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("../secret.jpg", 403),
        ("inside/../../secret.jpg", 403),
        ("way_out.jpg", 403),
        ("/etc/hostname", 403),
        ("/proc/self/environ", 403),
        ("none.jpg", 404),
        ("inside", 404),
        ("pipe.jpg", 404),
        ("circle.jpg", 404),
        ("a\0b.jpg", 404),
        ("x" * 5000, 404),
        ("\ud800.jpg", 404),
        ("http://127.0.0.1/ball.jpg", 404),
        ("file:///etc/hostname", 404),
        ("notes.jpg", 415),
        ("huge.jpg", 413),
    ],
)
def test_no_path_leads_out_of_the_root_or_to_what_is_no_image(address, path, status):
    response = requests.post(f"{address}/invocations", data=json.dumps({"paths": [path]}), headers=JSON)
    assert reason(response)[0] == status


def test_without_a_root_no_path_is_read(model, root):
    with serving(application(load_classifier(model))) as address:
        status, error = reason(requests.post(f"{address}/invocations", json={"paths": [str(root / "ball.jpg")]}))
    assert (status, "--root" in error) == (403, True)


@pytest.mark.parametrize(
    ("headers", "body", "status", "words"),
    [
        (JPEG, b"text", 415, "not a JPEG"),
        (JPEG, b"<html><script>alert(1)</script>", 415, "not a JPEG"),
        (JPEG, b"\0\0\0\x18ftypheic" + bytes(64), 415, "HEIC"),
        (JPEG, ball()[:2000], 422, "truncated"),
        (JPEG, b"", 422, "empty"),
        (JPEG, png_of(20_000, 20_000), 413, "megapixels"),
        (JPEG, bytes(BODY_LIMIT + 1), 413, "32 MiB"),
        ({}, b"text", 415, "Content-Type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, ball(), 415, "image/jpeg"),
        ({"Content-Type": "multipart/form-data"}, ball(), 400, "boundary"),
        (FORM, b"--x\r\n\r\nno header\r\n--x--", 400, ""),
        (FORM, b"--x--\r\n", 422, "no image"),
        (FORM, b"", 400, "cut off"),
        (FORM, part(ball()) + part(ball())[:-500], 400, "cut off"),
        (FORM, part(b"", file="") + b"--x--", 422, "no image"),
        (FORM, part(b"") + b"--x--", 422, "a.jpg: empty file"),
        (FORM, part(ball()) + part(b"", file="b.jpg") + b"--x--", 422, "b.jpg: empty file"),
        (FORM, part(ball()) * 65 + b"--x--", 400, "64"),
        (FORM, part(b"a.jpg", name="photo").replace(b"; filename", b"; x") + b"--x--", 422, "photo is no file"),
        ({**JPEG, **GZIP}, ball(), 400, "gzip"),
        ({**JPEG, **GZIP}, gzip.compress(ball())[:-9], 400, "gzip"),
        ({**JPEG, **GZIP}, gzip.compress(ball())[:99] + bytes(99), 400, "gzip"),
        ({**JPEG, **GZIP}, gzip.compress(ball()[:2000]), 422, "truncated"),
        ({**JPEG, **GZIP}, b"", 422, "empty"),
        ({**JPEG, **GZIP}, gzip.compress(bytes(2 * BODY_LIMIT), 1), 413, "unpacked"),
        ({**JPEG, "Content-Encoding": "deflate"}, zlib.compress(ball()), 415, "'deflate': send gzip"),
        ({**JPEG, "Content-Encoding": "br"}, ball(), 415, "'br': send gzip"),
        ({**JPEG, "Content-Encoding": "zstd"}, ball(), 415, "'zstd': send gzip"),
        ({**JPEG, "Content-Encoding": "gzip, gzip"}, gzip.compress(gzip.compress(ball())), 415, "send gzip"),
        (JSON, b'{"inputs": ["AAAA"], "inputs": ["AAAA"]}', 400, "twice"),
        (JSON, b'{"inputs": [NaN]}', 400, "not JSON: NaN"),
        (JSON, b'{"inputs": [-Infinity]}', 400, "not JSON: -Infinity"),
        (JSON, b"", 400, "not JSON"),
        (JSON, b'["AAAA"]', 422, "inputs"),
        (JSON, b'{"inputs": [["AAAA"]]}', 422, "list of strings"),
        (JSON, b'{"inputs": ["data:text/plain,a%20text"]}', 415, "inputs[0]: not a JPEG"),
        (JSON, b"{", 400, "not JSON"),
        (JSON, b"\xff", 400, "not JSON"),
        (JSON, b"[" * 100_000, 400, "not JSON"),
        (JSON, b"[]", 422, "inputs"),
        (JSON, b"{}", 422, "inputs"),
        (JSON, b'{"inputs": [], "paths": []}', 422, "inputs"),
        (JSON, b'{"inputs": []}', 422, "no image"),
        (JSON, b'{"inputs": {"a": "b"}}', 422, "list of strings"),
        (JSON, b'{"inputs": [[1, 2], null]}', 422, "list of strings"),
        (JSON, b'{"inputs": ["%%%"]}', 422, "inputs[0]: not base64"),
        (JSON, b'{"inputs": ["dGV4dA=="]}', 415, "inputs[0]: not a JPEG"),
        (JSON, b'{"inputs": ["data:text/plain,text"]}', 422, "without base64"),
        (JSON, b'{"inputs": ["http://127.0.0.1/ball.jpg"]}', 422, "nothing is fetched"),
        (JSON, json.dumps({"paths": ["ball.jpg"] * (IMAGES_LIMIT + 1)}).encode(), 413, "at most"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(address, headers, body, status, words):
    found, error = reason(requests.post(f"{address}/invocations", data=body, headers=headers))
    assert found == status, error
    assert words in error


def test_one_bad_image_among_several_is_named(address):
    files = [("file", ("good.jpg", ball())), ("file", ("bad\r\n.jpg", b"text"))]
    status, error = reason(requests.post(f"{address}/invocations", files=files))
    assert status == 415
    assert "bad" in error
    assert reason(requests.post(f"{address}/invocations", files=[], data={"file": "text"}))[0] == 415


def test_other_addresses_and_methods(address):
    assert requests.get(f"{address}/health").json() == {"status": "ok"}
    assert reason(requests.get(f"{address}/invocations"))[0] == 405
    assert reason(requests.get(f"{address}/docs"))[0] == 404
    assert reason(requests.get(f"{address}//invocations"))[0] == 404
    assert reason(requests.put(f"{address}/invocations", data=ball()))[0] == 405
    assert reason(requests.options(f"{address}/invocation%73"))[0] == 405
    assert requests.head(address).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "", "@", "[127.0.0.1"):
        assert reason(requests.get(address, headers={"Host": host}))[0] == 400, "DNS rebinding"


def test_what_is_not_http_is_refused_as_json(address):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"\0\xff not HTTP\r\n\r\n")
        head, body = client.makefile("rb").read().split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert list(json.loads(body)) == ["error"]


def test_what_comes_while_many_are_answered_is_refused(model):
    many, wait = threading.Semaphore(0), threading.Event()
    with serving(application(load_classifier(model))) as address, ThreadPoolExecutor(64) as pool:

        def half():
            yield ball()[:999]
            many.release()
            wait.wait()
            yield ball()[999:]

        answers = [pool.submit(requests.post, f"{address}/invocations", half(), headers=JPEG) for _ in range(64)]
        try:
            for _ in answers:
                assert many.acquire(timeout=60)
            # The server has the head of each before the first part of its body, but perhaps not yet read it.
            wait_until(lambda: not requests.get(f"{address}/health").ok, seconds=60)
            assert reason(requests.get(f"{address}/health"))[0] == 503
        finally:
            wait.set()
        assert [classes(answer.result()) for answer in answers] == [["ball"]] * 64
        assert requests.get(f"{address}/health").ok


def test_no_other_sites_page_may_read_an_answer(address):
    other = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for response in (
        requests.get(address, headers=other),
        requests.options(f"{address}/invocations", headers=other),
        requests.post(f"{address}/invocations", data=ball(), headers=other | JPEG),
    ):
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]


def test_grad_cam_is_asked_for_by_true(address):
    status, error = reason(requests.post(f"{address}/invocations?explain=1", data=ball(), headers=JPEG))
    assert (status, "true or false" in error) == (422, True)
    for asked, words in (
        ("explain=true&explain=false", "true or false"),
        ("exlpain=true", "exlpain: there is no such"),
    ):
        status, error = reason(requests.post(f"{address}/invocations?{asked}", data=ball(), headers=JPEG))
        assert (status, words in error) == (422, True)


def test_grad_cam_comes_when_asked_for(address):
    (plain,) = requests.post(f"{address}/invocations", data=ball(), headers=JPEG).json()["predictions"]
    (explained,) = requests.post(f"{address}/invocations?explain=true", data=ball(), headers=JPEG).json()["predictions"]
    assert set(explained) - set(plain) == {"heat", "where", "seen"}
    assert explained["where"] == "mostly at the left"
    assert all(explained[name].startswith("data:image/png;base64,") for name in ("heat", "seen"))


def test_the_page_may_load_nothing_from_elsewhere(address):
    response = requests.get(address)
    policy = dict(part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert re.fullmatch("'sha256-[^ ]+'", policy["script-src"]), "only the page's own script"
    assert not re.search(r"(https?:)?//\w", re.sub(r"//.*", "", response.text))


def test_many_at_once_get_their_own_answers_from_one_trace(model, root):
    classifier = load_classifier(model)
    traces: list[Any] = []
    call = classifier.model.call
    classifier.model.call = lambda *args, **kwargs: traces.append(args) or call(*args, **kwargs)
    contents = [ball(), field(), ball("TIFF"), field("TIFF"), ball("JPEG", "CMYK")] * 8
    with serving(application(classifier)) as address, ThreadPoolExecutor(16) as pool:

        def ask(content):
            return classes(requests.post(f"{address}/invocations", data=content, headers=JPEG))[0]

        assert list(pool.map(ask, contents)) == ["ball", "field", "ball", "field", "ball"] * 8
    assert not traces, "the model was traced while it was loaded"
    classifier.model(np.zeros((1, SIZE, SIZE, 3)))
    assert traces, "this would have noticed"


def test_a_fault_of_the_servers_own_is_not_shown_to_the_client(model):
    broken = dataclasses.replace(load_classifier(model), probabilities=lambda pixels: 1 / 0)
    with serving(application(broken)) as address:
        status, error = reason(requests.post(f"{address}/invocations", data=ball(), headers=JPEG))
        assert (status, "division" in error) == (500, False)
        assert requests.get(f"{address}/health").ok


@pytest.mark.long
def test_a_client_that_hangs_up_disturbs_nobody(model):
    """Nor does it leave anything on the server's terminal."""
    post = b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
    with frostline("serve", "--model", str(model), "--port", "0") as process:
        port = int(re.search(r"127\.0\.0\.1:(\d+)", process.stderr.readline())[1])
        for sent in (
            b"\0\xff not HTTP\r\n\r\n",
            post + b"Content-Length: 1000\r\n\r\nhalf",
            post + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            post + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nno number\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(sent)
                time.sleep(0.3)  # so that the server reads it first
        answer = requests.post(f"http://127.0.0.1:{port}/invocations", data=ball(), headers=JPEG)
        assert classes(answer) == ["ball"]
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors.strip()) == (0, "", "stopped")


def frostline(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "frostline.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.long
def test_the_command_listens_on_this_machine_and_ends_with_ctrl_c(model):
    with frostline("serve", "--model", str(model), "--port", "0") as process:
        line = process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address, line
        assert classes(requests.post(f"{address[0]}/invocations", data=ball(), headers=JPEG)) == ["ball"]
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors.strip()) == (0, "", "stopped")


def test_an_address_or_model_that_cannot_be_used_costs_two_lines(tmp_path, model):
    from frostline.runtime.errors import FrostlineError
    from frostline.serving.server import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, number in (
            ("127.0.0.1", port),
            ("no.such.host.invalid", 0),
            ("127.0.0.1", 99999),
            ("a..b", 0),
            (70 * "a", 0),
        ):
            with pytest.raises(FrostlineError, match="cannot be used") as raised:
                serve(model, host, number, None)
            assert len(str(raised.value).splitlines()) == 2
    with pytest.raises(FrostlineError, match="is not a folder"):
        serve(model, "127.0.0.1", 0, tmp_path / "none")
    with pytest.raises(FrostlineError, match="not found"):
        serve(tmp_path / "none.keras", "127.0.0.1", 0, None)


LINK_LOCAL = [
    address.address for at in psutil.net_if_addrs().values() for address in at if address.address.startswith("fe80:")
]


@pytest.mark.skipif(not LINK_LOCAL, reason="no interface has an IPv6 address of its link")
def test_the_interface_of_an_address_of_its_link_is_kept(tmp_path, capfd):
    from frostline.runtime.errors import FrostlineError
    from frostline.serving.server import serve

    with pytest.raises(FrostlineError, match="not found"):
        serve(tmp_path / "none.keras", LINK_LOCAL[0], 0, None)
    assert capfd.readouterr().err.startswith(f"warning: whoever reaches {LINK_LOCAL[0]} may use")


def test_other_machines_are_let_in_only_with_a_warning(tmp_path, capfd):
    from frostline.runtime.errors import FrostlineError
    from frostline.serving.server import serve

    with pytest.raises(FrostlineError, match="not found"):
        serve(tmp_path / "none.keras", "0.0.0.0", 0, None)
    (warning,) = capfd.readouterr().err.splitlines()
    assert warning.startswith("warning: ")
