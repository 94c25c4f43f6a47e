"""The project as git tracks it (what is staged counts), whatever a user has made or edited in this clone.

Code is what lies in the clone: `src` is imported from there.
"""

import atexit
import functools
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("src", "dvc.yaml", "Makefile", "pyproject.toml")


def _git(*arguments, sent=b""):
    return subprocess.run(["git", *arguments], cwd=ROOT, input=sent, capture_output=True, check=True).stdout


def tracked_names(*patterns):
    """The files that match `patterns`, or lie in folders that do, from the project's root."""
    return [name for name in _git("ls-files", "-z", "--", *patterns).decode().split("\0") if name]


def tracked_text(name):
    return _git("show", f":{name}").decode()


def write_tracked(folder, *patterns):
    """Write these files into `folder`, each at its place below the root; return `folder`."""
    names = "\0".join(tracked_names(*patterns)).encode()
    _git("checkout-index", "--force", "-z", "--stdin", f"--prefix={folder.resolve()}/", sent=names)
    return folder


@functools.cache
def tracked_conf():
    """A copy of conf/, for this process: the checkout's own has a user's settings, too (`frostline set`)."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return write_tracked(Path(folder.name), "conf") / "conf"


def unstaged():
    """What tests do not see: files with changes that are not staged, but for code."""
    names = _git("diff", "--name-only", "-z", "--", "conf", "params.yaml").decode().split("\0")
    return [name for name in names if name]
