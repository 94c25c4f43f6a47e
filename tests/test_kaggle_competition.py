"""Kaggle's real client, in a process and a home of its own, against its API's part on loopback.

KAGGLE_API_ENVIRONMENT=LOCALHOST makes the client speak to http://localhost (kaggle 2.2 does not honour TEST).
The server is the proxy for that address, so that it needs no fixed port.
"""

import base64
import io
import json
import os
import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from frostline.runtime.errors import FrostlineError
from frostline.sources.kaggle import download_competition
from servers import Answer, KaggleServer, running, wait_until

pytestmark = pytest.mark.slow

NAME = "dogs-vs-cats-redux-kernels-edition"
TOKEN, KEY = "token-that-nobody-may-see", "key-that-nobody-may-see"
BEARER = f"Bearer {TOKEN}"
BASIC = f"Basic {base64.b64encode(f'someone:{KEY}'.encode()).decode()}"
MEBIBYTE = 1 << 20  # the client's chunk

COMMAND = """
import sys
from pathlib import Path
from frostline.runtime.errors import FrostlineError
from frostline.runtime.logs import show
from frostline.sources.kaggle import download_competition
show()
try:
    download_competition(sys.argv[1], Path("data/raw/archive.zip"))
except FrostlineError as error:
    sys.exit(f"error: {error}")
"""


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


ARCHIVE = zipped(**{"train.zip": random.Random(0).randbytes(3 * MEBIBYTE), "sample_submission.csv": b"id,label\n"})

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path):
    """Start the download in `tmp_path`, with no settings of Kaggle but those given."""
    (tmp_path / "home").mkdir()
    started = []

    def start(server, name=NAME, **settings):
        env = {
            **{key: value for key, value in os.environ.items() if not key.upper().startswith(("KAGGLE", "NO_PROXY"))},
            "HOME": str(tmp_path / "home"),
            "XDG_CONFIG_HOME": str(tmp_path / "home/.config"),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "http_proxy": f"http://127.0.0.1:{server.server_port}",
            **settings,
        }
        command = [sys.executable, "-c", COMMAND, name]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process, folder):
    """Return the exit code and what was printed; nothing may be on stdout, and no secret anywhere."""
    out, err = process.communicate(timeout=60)
    assert out == ""
    written = [
        path for path in folder.rglob("*") if path.is_file() and path.name not in ("kaggle.json", "access_token")
    ]
    for secret in (TOKEN, KEY, BASIC.removeprefix("Basic "), KaggleServer.signature):
        assert secret not in err
        assert not [path for path in written if secret.encode() in path.read_bytes()]
    return process.returncode, err


def assert_whole(folder):
    assert (folder / "data/raw/archive.zip").read_bytes() == ARCHIVE
    assert leftovers(folder) == []


def leftovers(folder):
    return [path.name for path in (folder / ".frostline/downloads").iterdir() if path.suffix != ".lock"]


def write_key(folder, mode=0o600):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "kaggle.json"
    file.write_text(json.dumps({"username": "someone", "key": KEY}))
    file.chmod(mode)


def test_downloads_with_a_token_and_keeps_it_from_the_storage(start, tmp_path):
    with running(KaggleServer(ARCHIVE, credentials=BEARER)) as server:
        # VERBOSE makes the bare client print every request with its headers
        code, err = finish(start(server, KAGGLE_API_TOKEN=TOKEN, VERBOSE="1"), tmp_path)
    assert (code, err) == (0, f"downloading {NAME} from Kaggle\n")
    assert_whole(tmp_path)
    assert [headers.get("Authorization") for headers in server.downloads] == [None]


@pytest.mark.parametrize(
    ("credentials", "settings"),
    [(BEARER, {"KAGGLE_API_TOKEN": TOKEN}), (BASIC, {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": KEY})],
)
def test_a_token_is_enough_where_the_home_cannot_be_written(start, tmp_path, credentials, settings):
    nowhere = "/dev/null/nobody"  # nor even by root
    with running(KaggleServer(ARCHIVE, credentials=credentials)) as server:
        process = start(server, HOME=nowhere, XDG_CONFIG_HOME=f"{nowhere}/.config", **settings)
        assert finish(process, tmp_path) == (0, f"downloading {NAME} from Kaggle\n")
    assert_whole(tmp_path)


def test_without_home_and_token_it_says_how_to_sign_in(start, tmp_path):
    with running(KaggleServer(ARCHIVE, credentials=BEARER)) as server:
        code, err = finish(start(server, HOME="/dev/null/nobody", XDG_CONFIG_HOME="/dev/null/nobody"), tmp_path)
    assert code == 1
    assert "none were found" in err


@pytest.mark.parametrize(
    "place",
    ["home", *(pytest.param(place, marks=pytest.mark.long) for place in ("config", "environment", "token file"))],
)
def test_finds_credentials(start, tmp_path, place):
    settings = {}
    match place:
        case "home":
            write_key(tmp_path / "home/.kaggle")
        case "config":
            write_key(tmp_path / "elsewhere")
            settings = {"KAGGLE_CONFIG_DIR": str(tmp_path / "elsewhere")}
        case "environment":
            settings = {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": KEY}
        case "token file":
            (tmp_path / "home/.kaggle").mkdir()
            (tmp_path / "home/.kaggle/access_token").write_text(f"{TOKEN}\n")
            (tmp_path / "home/.kaggle/access_token").chmod(0o600)
    with running(KaggleServer(ARCHIVE, credentials=BEARER if place == "token file" else BASIC)) as server:
        assert finish(start(server, **settings), tmp_path) == (0, f"downloading {NAME} from Kaggle\n")
    assert_whole(tmp_path)


@pytest.mark.parametrize(
    ("place", "mode"),
    [
        ("kaggle.json", 0o640),
        pytest.param("kaggle.json", 0o604, marks=pytest.mark.long),
        pytest.param("KAGGLE_CONFIG_DIR", 0o644, marks=pytest.mark.long),
        pytest.param("access_token", 0o644, marks=pytest.mark.long),
        pytest.param("KAGGLE_API_TOKEN", 0o644, marks=pytest.mark.long),
    ],
)
def test_warns_of_credentials_that_others_can_read(start, tmp_path, place, mode):
    file, settings = tmp_path / f"home/.kaggle/{place}", {}
    if place == "KAGGLE_CONFIG_DIR":
        file, settings = tmp_path / "elsewhere/kaggle.json", {place: str(tmp_path / "elsewhere")}
    if place == "KAGGLE_API_TOKEN":
        file, settings = tmp_path / "access_token", {place: str(tmp_path / "access_token")}
    if file.name == "kaggle.json":
        write_key(file.parent, mode)
    else:
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{TOKEN}\n")
        file.chmod(mode)
    with running(KaggleServer(ARCHIVE, credentials=BASIC if file.name == "kaggle.json" else BEARER)) as server:
        code, err = finish(start(server, **settings), tmp_path)
    warning = f"warning: other users can read {file}; run `chmod 600 {file}`.\n"
    assert (code, err) == (0, f"downloading {NAME} from Kaggle\n{warning}")


def test_a_token_that_is_too_long_is_not_named(start, tmp_path):
    """The client takes it for a file's name, and the system's error for too long a one would show it."""
    with running(KaggleServer(ARCHIVE, credentials=BASIC)) as server:
        code, err = finish(start(server, KAGGLE_API_TOKEN=TOKEN * 20), tmp_path)
    assert code == 1
    assert "KAGGLE_API_TOKEN is too long" in err


def test_without_credentials_says_how_to_get_them(start, tmp_path):
    with running(KaggleServer(ARCHIVE, credentials=BEARER)) as server:
        code, err = finish(start(server), tmp_path)
    assert code == 1
    for part in (
        "Settings > API > Generate New Token",
        "KAGGLE_API_TOKEN",
        "~/.kaggle/access_token",
        "~/.kaggle/kaggle.json",
        f"https://www.kaggle.com/competitions/{NAME}/rules",
    ):
        assert part in err
    assert err.count("\n") == 3  # what is done, and two lines of error
    assert server.downloads == []


@pytest.mark.parametrize(
    ("settings", "status", "message"),
    [
        ({"KAGGLE_API_TOKEN": "expired"}, 200, "refused the token of KAGGLE_API_TOKEN"),
        ({"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": "wrong"}, 200, "refused the credentials (401)"),
        (
            {"KAGGLE_API_TOKEN": TOKEN},
            403,
            "(403): its rules must be accepted first.\nDo so at https://www.kaggle.com/",
        ),
        pytest.param({"KAGGLE_API_TOKEN": TOKEN}, 404, f"no competition '{NAME}'", marks=pytest.mark.long),
        pytest.param({"KAGGLE_API_TOKEN": TOKEN}, 503, "answered 503", marks=pytest.mark.long),
    ],
)
def test_says_why_kaggle_refuses(start, tmp_path, settings, status, message):
    with running(KaggleServer(ARCHIVE, credentials=BEARER, status=status)) as server:
        code, err = finish(start(server, **settings), tmp_path)
    assert code == 1
    assert message in err
    assert not (tmp_path / "data").exists()


def test_without_a_connection(start, tmp_path):
    with running(KaggleServer(ARCHIVE, credentials=BASIC)) as server:
        pass
    code, err = finish(start(server, KAGGLE_USERNAME="someone", KAGGLE_KEY=KEY), tmp_path)
    assert code == 1
    assert "Kaggle cannot be reached (ProxyError)" in err


def test_goes_on_after_a_dropped_connection(start, tmp_path):
    with running(KaggleServer(ARCHIVE, Answer(stop_after=MEBIBYTE + 9), credentials=BEARER)) as server:
        code, err = finish(start(server, KAGGLE_API_TOKEN=TOKEN), tmp_path)
    assert (code, err) == (0, f"downloading {NAME} from Kaggle\n")
    assert_whole(tmp_path)
    assert server.ranges == [None, f"bytes={MEBIBYTE}-"]


def test_resumes_what_a_killed_process_left_and_does_not_disturb_it_before(start, tmp_path):
    partial = tmp_path / f".frostline/downloads/{NAME}.zip"
    with running(KaggleServer(ARCHIVE, Answer(hang_after=2 * MEBIBYTE + 9), credentials=BEARER)) as server:
        process = start(server, KAGGLE_API_TOKEN=TOKEN)
        wait_until(lambda: partial.exists() and partial.stat().st_size >= 2 * MEBIBYTE)
        code, err = finish(start(server, KAGGLE_API_TOKEN=TOKEN), tmp_path)
        assert (code, err.count("\n")) == (1, 2)
        assert f"{NAME} is being downloaded by another process" in err
        process.send_signal(signal.SIGKILL)
        assert finish(process, tmp_path)[0] == -signal.SIGKILL
        assert not (tmp_path / "data").exists()
        assert finish(start(server, KAGGLE_API_TOKEN=TOKEN), tmp_path)[0] == 0
    assert_whole(tmp_path)
    assert server.ranges == [None, None, f"bytes={2 * MEBIBYTE}-"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>Log in</html>", "is no whole zip file"),
        (ARCHIVE[:-1000], "is no whole zip file"),
        (ARCHIVE[:5000] + b"damage" + ARCHIVE[5006:], "is no whole zip file (train.zip)"),
    ],
)
def test_an_archive_that_is_not_what_is_needed(start, tmp_path, content, message):
    with running(KaggleServer(content, credentials=BEARER)) as server:
        code, err = finish(start(server, KAGGLE_API_TOKEN=TOKEN), tmp_path)
    assert code == 1
    assert message in err
    assert not (tmp_path / "data").exists()
    assert leftovers(tmp_path) == []


def test_too_little_disk_space_is_said_before_the_first_byte_is_kept(start, tmp_path):
    answer = Answer(headers={"Content-Length": str(10**15)}, stop_after=MEBIBYTE)
    with running(KaggleServer(ARCHIVE, answer, credentials=BEARER)) as server:
        code, err = finish(start(server, KAGGLE_API_TOKEN=TOKEN), tmp_path)
    assert code == 1
    assert "1.0 PB are still to be downloaded, the disk has" in err
    assert (len(server.downloads), leftovers(tmp_path)) == (1, [])


@pytest.mark.long
def test_an_archive_of_another_kind_is_kept_and_not_fetched_again(start, tmp_path):
    content = zipped(**{"labels.csv": b"1", "train/0a.jpg": random.Random(0).randbytes(MEBIBYTE)})
    with running(KaggleServer(content, credentials=BEARER)) as server:
        written = set()
        for _ in range(2):
            code, err = finish(start(server, KAGGLE_API_TOKEN=TOKEN), tmp_path)
            assert code == 1
            assert "has no train.zip, but labels.csv, train/0a.jpg" in err
            assert f"kept as .frostline/downloads/{NAME}.zip: unpack it, and use data=folder" in err
            kept = tmp_path / f".frostline/downloads/{NAME}.zip"
            assert kept.read_bytes() == content
            written.add(kept.stat().st_mtime_ns)
    assert len(written) == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["", "../escape", "https://www.kaggle.com/competitions/titanic"])
def test_a_name_that_is_none(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FrostlineError, match="which is no competition's name"):
        download_competition(name, Path("archive.zip"))
