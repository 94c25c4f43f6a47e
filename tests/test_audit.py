"""The audit of the lock, by the real pip-audit against an advisory service on loopback."""

import importlib.util
import json
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from servers import Answer, QuietHandler, running

pytestmark = pytest.mark.slow

pytest.importorskip("pip_audit")

ROOT = Path(__file__).parents[1]
LOCK = "".join(f"{name}==1.0 \\\n    --hash=sha256:{'0' * 64}\n" for name in ("good", "bad"))
ADVISORY = {
    "id": "TEST-2020-1",
    "summary": "Anyone can do anything.",
    "affected": [
        {
            "package": {"name": "bad", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class Advisories(ThreadingHTTPServer):
    """Knows one advisory, of one package; answers with `status`."""

    def __init__(self, status=200, known="bad"):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.known = status, known

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1/query"


class _Handler(QuietHandler):
    server: Advisories

    def do_POST(self):
        package = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        body = json.dumps({"vulns": [ADVISORY]} if package == self.server.known else {}).encode()
        self.send(self.server.status, {"Content-Length": str(len(body))}, body, Answer())


@pytest.fixture
def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.audit


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "requirements.lock"
    path.write_text(LOCK)
    return path


def test_a_known_vulnerability_fails(audit, lock, capsys):
    with running(Advisories()) as server:
        assert audit(lock, server.url) == 1
    assert capsys.readouterr().out.splitlines() == [
        "audit: bad 1.0: TEST-2020-1, fixed in 1.1",
        "audit: 2 packages, 1 known vulnerabilities",
    ]


def test_no_known_vulnerability_passes(audit, lock, capsys):
    with running(Advisories(known="another")) as server:
        assert audit(lock, server.url) == 0
    assert capsys.readouterr().out == "audit: 2 packages, 0 known vulnerabilities\n"


@pytest.mark.parametrize("reachable", [True, False])
def test_without_the_service_it_says_that_nothing_was_audited(audit, lock, reachable, capsys):
    server = Advisories(status=503)
    if reachable:
        with running(server):
            assert audit(lock, server.url) == 0
    else:
        server.server_close()
        assert audit(lock, server.url) == 0
    assert "audit: NOT DONE: the advisory service 127.0.0.1 cannot be reached (" in capsys.readouterr().out


@pytest.mark.long
def test_a_broken_lock_fails(audit, lock, capsys):
    lock.write_text("good==1.0\n")  # no hash
    with running(Advisories()) as server:
        assert audit(lock, server.url) == 1
    assert "pip-audit failed" in capsys.readouterr().out
