"""Download a Kaggle competition's archive with Kaggle's own client; where it cannot, say what is missing."""

import errno
import io
import logging
import os
import re
import shutil
import stat
import sys
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import requests

from frostline.common.files import replacing
from frostline.config import paths
from frostline.runtime.errors import FrostlineError
from frostline.sources.download import alone, check_disk

_log = logging.getLogger(__name__)

_HOW_TO_SIGN_IN = (
    "On kaggle.com: Settings > API > Generate New Token. Put it into KAGGLE_API_TOKEN or the file "
    "~/.kaggle/access_token (a legacy key: ~/.kaggle/kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY)"
)


def download_competition(competition: str, path: Path) -> None:
    """Download all files of `competition` as one zip archive to `path`, which appears only once it is whole.

    The client finds the credentials: KAGGLE_API_TOKEN, ~/.kaggle/access_token, kaggle.json in
    KAGGLE_CONFIG_DIR or ~/.kaggle, KAGGLE_USERNAME and KAGGLE_KEY, or what `kaggle auth login` left. An
    interrupted download goes on where it stopped, in this run or in the next.

    Raises FrostlineError for credentials that are missing or refused, rules that were not accepted, an unknown
    competition, too little disk space, a connection that fails, an archive that is damaged or has no train.zip, and
    while another process downloads the same. Warns of files with credentials that other users can read.
    """
    if not re.fullmatch(r"[A-Za-z0-9-]+", competition):
        raise FrostlineError(
            f"data.competition is {competition!r}, which is no competition's name:\n"
            "the last part of its address, e.g. dogs-vs-cats-redux-kernels-edition."
        )
    archive = paths.DOWNLOADS / f"{competition}.zip"  # the client chooses this name
    with alone(archive, competition):
        _log.info("downloading %s from Kaggle", competition)
        _fetch(competition, archive)
        _check_archive(archive)
        with replacing(path) as temporary:
            shutil.move(archive, temporary)  # a rename, unless the two lie on different file systems


def place_of_credentials(environment: Mapping[str, str], home: Path) -> str | None:
    """Where Kaggle's client finds credentials: the name of a variable or a file, never what is in it; None: nowhere.

    Whether they are valid only Kaggle knows.
    """
    if environment.get("KAGGLE_API_TOKEN"):
        return "KAGGLE_API_TOKEN"
    if environment.get("KAGGLE_USERNAME") and environment.get("KAGGLE_KEY"):
        return "KAGGLE_USERNAME and KAGGLE_KEY"
    folder = home / ".kaggle"
    other = Path(environment.get("XDG_CONFIG_HOME") or home / ".config", "kaggle")
    legacy = Path(environment.get("KAGGLE_CONFIG_DIR") or (folder if folder.exists() else other))
    names = ("access_token", "access_token.txt", "credentials.json")
    files = (*(folder / name for name in names), legacy / "kaggle.json")
    return next((str(file) for file in files if file.is_file()), None)


def _fetch(competition: str, archive: Path) -> None:
    printed = io.StringIO()  # the client prints advice, and in errors addresses that hold a signature
    try:
        with redirect_stdout(printed):
            api = _authenticated_client(competition)
            _check_disk_before_downloads(api)
            bar = sys.stderr.isatty()
            api.competition_download_files(competition, path=str(archive.parent), quiet=not bar)
    except requests.RequestException as error:
        raise _refusal(competition, error) from None  # its message and cause hold the signed address
    except ValueError as error:  # the client's word for a download of the wrong length
        raise FrostlineError(f"Kaggle's client failed: {error}.\nRun the same command again.") from None
    finally:
        for line in dict.fromkeys(printed.getvalue().splitlines()):
            if line.startswith("Warning:") and "readable by other" not in line:  # the client is outdated
                _log.warning(line.removeprefix("Warning:").strip())


def _authenticated_client(competition: str) -> Any:
    for name in ("VERBOSE", "VERBOSE_OUTPUT"):  # would make the client print requests with their credentials
        os.environ.pop(name, None)
    try:
        import kaggle  # on import it creates its settings folder and authenticates, passing over failure
    except OSError:  # in a HOME that cannot be written; credentials may come by the environment
        os.environ["KAGGLE_CONFIG_DIR"] = str(paths.DOWNLOADS)
        import kaggle

    _warn_of_readable_credentials(Path(kaggle.api.config))
    try:
        kaggle.api.authenticate()
    except SystemExit:
        from kagglesdk import get_access_token_from_env

        token, source = get_access_token_from_env()
        if token:
            raise FrostlineError(
                f"Kaggle refused the token of {source}: it is wrong or has expired.\n{_HOW_TO_SIGN_IN}."
            ) from None
        raise FrostlineError(
            f"Kaggle wants credentials, and none were found. {_HOW_TO_SIGN_IN},\n"
            f"and accept the competition's rules at {_rules(competition)}"
        ) from None
    return kaggle.api


def _warn_of_readable_credentials(legacy_key: Path) -> None:
    """Warn, in a line each, of the client's files with credentials that other users can read."""
    home = Path("~/.kaggle").expanduser()
    files = [legacy_key, *(home / name for name in ("access_token", "access_token.txt", "credentials.json"))]
    if "KAGGLE_API_TOKEN" in os.environ:  # a token, or the name of a file with one
        files.append(Path(os.environ["KAGGLE_API_TOKEN"]))
    for file in files:
        try:
            mode = file.stat().st_mode if file.is_file() else 0
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # the client would fail on it too, with an error that names the token
                raise FrostlineError(f"KAGGLE_API_TOKEN is too long for a token.\n{_HOW_TO_SIGN_IN}.") from None
            continue  # a HOME that may not be read: the client says what it lacks
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            _log.warning("other users can read %s; run `chmod 600 %s`.", file, file)


def _check_disk_before_downloads(api: Any) -> None:
    """Wrap the client's method that gets the server's answer, and with it the size, before it writes."""
    download_file = api.download_file

    def checked(response: requests.Response, outfile: str, *args: Any, **kwargs: Any) -> None:
        archive = Path(outfile)
        arrived = archive.stat().st_size if archive.exists() else 0
        check_disk(archive.parent, int(response.headers.get("Content-Length", 0)) - arrived)
        download_file(response, outfile, *args, **kwargs)

    api.download_file = checked


def _refusal(competition: str, error: requests.RequestException) -> FrostlineError:
    if error.response is None:
        return FrostlineError(
            f"Kaggle cannot be reached ({type(error).__name__}).\n"
            "Check the connection and run the same command again: what has arrived is kept."
        )
    status = error.response.status_code
    if status == 401:
        return FrostlineError(f"Kaggle refused the credentials (401). {_HOW_TO_SIGN_IN}.")
    if status == 403:
        return FrostlineError(
            f"Kaggle refused access to {competition} (403): its rules must be accepted first.\n"
            f"Do so at {_rules(competition)} and run the same command again."
        )
    if status == 404:
        return FrostlineError(
            f"Kaggle has no competition {competition!r} (404).\n"
            "Take data.competition from its address, kaggle.com/competitions/<name>."
        )
    return FrostlineError(f"Kaggle answered {status} for {competition}.\nRun the same command again later.")


def _rules(competition: str) -> str:
    return f"https://www.kaggle.com/competitions/{competition}/rules"


def _check_archive(archive: Path) -> None:
    """Raise unless `archive` is a zip file with intact members, train.zip among them; delete a damaged one."""
    try:
        with zipfile.ZipFile(archive) as file:
            damaged = file.testzip()
            names = file.namelist()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, FileNotFoundError):
        damaged, names = archive.name, []
    if damaged:
        archive.unlink(missing_ok=True)  # or the client would take it for done
        raise FrostlineError(
            f"The archive that Kaggle sent is no whole zip file ({damaged}).\n"
            "It was deleted; run the same command again."
        )
    if "train.zip" not in names:
        raise FrostlineError(
            f"This competition's archive has no train.zip, but {', '.join(names[:5]) or 'nothing'}: data=kaggle reads "
            f"those like Dogs vs. Cats only.\nIt is kept as {archive}: unpack it, and use data=folder "
            "data.path=FOLDER with one folder per class."
        )
