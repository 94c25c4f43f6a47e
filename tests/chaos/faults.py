"""The faults that chaos.py puts in the way of stages and sweeps; each recovers and says what came of it.

Signals, a disk that is full, a folder that is read-only; MLflow's store locked, its server killed before a stage and in
the middle of it; a second `dvc repro`; servers that break off, lie, or cannot prove by TLS who they are; a trial of a
sweep that fails.
"""

import hashlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import time
from contextlib import contextmanager
from functools import partial

from clone import STAGES
from frostline.config.paths import BACKBONE_WEIGHTS
from mlflow_server import MlflowServer
from permissions import obey_permissions
from recovery import Outcome, again, differing, recover
from servers import Answer, FileServer, running, wait_until

_FOLDERS = {
    "fetch-data": "data/raw",
    "fetch-weights": "models",
    "preprocess": "data",
    "transfer": "models",
    "finetune": "reports",
    "evaluate": "reports",
}
"""Where each stage's outputs lie."""

# Of the stage's own process


def send(project, stage, number):
    """Ctrl-C or SIGTERM to DVC and the stage."""
    process = project.start("-m", "dvc", *again(stage))
    time.sleep(0.6 * project.seconds[stage])
    hit = process.poll() is None
    os.killpg(process.pid, number)
    output = process.communicate()[0]
    outcome = recover(project, stage, Outcome(f"{number.name} to {stage}", hit))
    if "Traceback" in output:
        outcome.wrong = outcome.wrong or f"a traceback: {output[-500:]}"
    return outcome


def full_disk(project, stage):
    """No file may grow past 200 kB (as with a full disk, the write fails with an error)."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    shutil.rmtree(project.root / ".frostline" / "features", ignore_errors=True)
    status, output = project.run_stage(stage, preexec_fn=limit)
    outcome = recover(project, stage, Outcome(f"full disk in {stage}", status != 0))
    if "Traceback" in output:
        outcome.wrong = outcome.wrong or f"a traceback: {output[-500:]}"
    return outcome


def read_only(project, stage):
    """The folder of the stage's outputs may not be written."""
    folder = project.root / _FOLDERS[stage]
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    status, output = project.run_stage(stage, preexec_fn=obey_permissions)
    folder.chmod(mode)
    wrong = refusal(project, status, output, "Permission denied")
    return recover(project, stage, Outcome(f"read-only folder in {stage}", status != 0, wrong))


def refusal(project, status, output, word):
    """What is wrong with how a stage ended that cannot do its work: two lines at most say why, and nothing changed."""
    if status == 0:  # the fault did not strike
        return ""
    error = output.partition("error: ")[2]
    if word not in error or len(error.splitlines()) > 2 or "Traceback" in output:
        return f"did not say why: {output[-500:]}"
    if project.differing() or project.half_written():
        return f"{project.differing()} bytes were changed all the same; half-written: {project.half_written()}"
    return ""


# Of MLflow's stores


@contextmanager
def locked(store):
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


def locked_store(project, stage):
    """Another program holds MLflow's SQLite store for a while in the middle of a stage; the stage itself must do."""
    process = project.start("-m", "dvc", *again(stage))
    time.sleep(0.5 * project.seconds[stage])
    hit = process.poll() is None
    with locked(project.root / "mlruns" / "mlflow.db"):
        time.sleep(3)
    output = process.communicate()[0]
    outcome = recover(project, stage, Outcome(f"locked SQLite store in {stage}", hit))
    if process.returncode:
        outcome.wrong = f"did not wait: {output[-500:]}"
    return outcome


def no_server(project, stage):
    """MLflow's server was killed before the stage: it must not start, and does once the server is back."""
    with MlflowServer(project.root.parent / "mlflow") as server:
        server.kill()
        status, output = project.run_stage(stage, environment=server.environment)
        wrong = refusal(project, status, output, "cannot be used") or _run_with(server, project, stage)
    return recover(project, stage, Outcome(f"no MLflow server for {stage}", status != 0, wrong))


def lost_server(project, stage, back):
    """MLflow's server is killed in the middle of the stage (`back`: and started again at once); the stage must do."""
    with MlflowServer(project.root.parent / "mlflow") as server:
        process = project.start_stage(stage, environment=server.environment)
        wait_until(lambda: process.poll() is not None or server.has_begun(stage), seconds=300)
        time.sleep(0.5)  # the answer that the run is made is still on its way
        hit = process.poll() is None
        server.kill()
        if back:
            server.start()
        output = process.communicate()[0]
        told = "Not logged: " in output or (back and server.statuses(stage)[:1] == ["FINISHED"])
        wrong = f"neither logged nor said to be lacking: {output[-500:]}" if hit and not told else ""
        if process.returncode or "Traceback" in output or project.differing() or project.half_written():
            wrong = f"did not end well: {output[-500:]}"
        wrong = wrong or _run_with(server, project, stage)
    name = f"MLflow server {'killed and back' if back else 'killed'} in {stage}"
    return recover(project, stage, Outcome(name, hit, wrong))


def _run_with(server, project, stage):
    """Run the stage again with `server`, started if it is gone; what is wrong then."""
    if not server.is_up():
        server.start()
    status, output = project.run_stage(stage, environment=server.environment)
    if status or "Traceback" in output or "warning: MLflow" in output:
        return f"did not do with the server back: {output[-500:]}"
    left = server.statuses().count("RUNNING")
    return f"runs left RUNNING on the server: {left}" if left else ""


# Of other processes


def two_at_once(project, stage):
    """Two `dvc repro` in one folder: one may say that the other runs; neither may spoil anything."""
    both = [project.start("-m", "dvc", *again(stage)) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    outcome = recover(project, stage, Outcome(f"two dvc repro of {stage}", hit=True))
    if all(process.returncode for process in both) or any("Traceback" in output for output in outputs):
        outcome.wrong = outcome.wrong or f"neither ended well: {outputs}"
    return outcome


# Of servers of weights


def bad_server(project, name, answers):
    """The weights come from a server with a fault; the download must recover by itself or when run again."""
    target = project.root / BACKBONE_WEIGHTS
    with running(FileServer(target.read_bytes(), *answers)) as server:
        target.unlink()
        for _ in range(2):
            status, output = project.run_stage("fetch-weights", *weights_from(server.url, server.body))
            if status == 0:
                break
    outcome = Outcome(f"server: {name}", len(server.requests) > 1, differing=project.differing())
    if status or "Traceback" in output:
        outcome.wrong = output[-500:]
    return outcome


def weights_from(url, body):
    """Overrides with which fetch-weights gets `body` from `url`."""
    md5 = hashlib.md5(body).hexdigest()
    overrides = ["weights.source=imagenet", "~weights.seed", f"+weights.url={url}", "+weights.sha256=null"]
    return [*overrides, f"+weights.size={len(body)}", f"+weights.md5={md5}"]


def bad_tls(project, name, host="127.0.0.1", encrypted=True, trusted=False):
    """The weights' server cannot prove who it is: nothing is taken from it, and then all from one that can."""
    target, certificate = project.root / BACKBONE_WEIGHTS, project.root.parent / "certificate.pem"
    trust = {"REQUESTS_CA_BUNDLE": str(certificate)}
    bad, good = (FileServer(target.read_bytes()) for _ in range(2))
    if encrypted:
        bad.speak_tls(certificate)
    with running(bad):
        overrides = weights_from(f"https://{host}:{bad.server_port}/file.bin", bad.body)
        status, output = project.run_stage("fetch-weights", *overrides, environment=trust if trusted else {})
    wrong = refusal(project, status, output, "certificate is not trusted" if encrypted else "SSLError")
    target.unlink()
    good.speak_tls(certificate)
    with running(good):
        overrides = weights_from(good.url.replace("http:", "https:"), good.body)
        failed, said = project.run_stage("fetch-weights", *overrides, environment=trust)
    if bad.requests:
        wrong = wrong or "the server was asked all the same"
    if failed or "Traceback" in said:
        wrong = wrong or f"did not do with a good server: {said[-500:]}"
    return Outcome(f"TLS: {name}", status != 0, wrong, project.differing())


# Of a sweep


def failing_trial(project):
    """One trial of a sweep cannot leave its result: the others go on, and the same command then runs it alone."""
    _, reference = _sweep(project)
    stored = project.root / ".frostline" / "trials"
    first = min((path for path in stored.glob("*.json") if path.suffixes == [".json"]), key=_written)
    shutil.rmtree(stored)
    first.mkdir(parents=True)  # a folder stands where its result should be
    output, folder = _sweep(project)
    failed, *others = _trials(folder)
    before = {path: _written(path) for path in stored.glob("*.json") if path != first}
    first.rmdir()
    output_again, recovered = _sweep(project)
    after = {path: _written(path) for path in stored.glob("*.json")}
    outcome = recover(project, "finetune", Outcome("failing sweep trial", "error" in failed))
    files = ("trials.csv", "settings.csv", "best.yaml", "parallel_coordinates.png")
    outcome.differing += sum(differing(recovered / name, reference / name) for name in files)
    if "failed: IsADirectoryError" not in output or not all("finetune" in trial for trial in others):
        outcome.wrong = outcome.wrong or f"the others did not go on: {output[-500:]}"
    if first not in after or not before.items() <= after.items():
        outcome.wrong = outcome.wrong or f"more or less than the failed trial was run again: {output_again[-500:]}"
    if "Traceback" in output + output_again:
        outcome.wrong = outcome.wrong or f"a traceback: {output[-500:]} {output_again[-500:]}"
    return outcome


def _sweep(project):
    """Run three trials; the output, and the folder of what was found."""
    overrides = ["model.cut_layer=mixed1", "transfer.epochs=1", "finetune.learning_rate=1e-5,1e-4,1e-3"]
    output = project.start("-m", "frostline.sweep", "-m", *overrides).communicate()[0]
    return output, max((project.root / "multirun").glob("*/"))


def _trials(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/trial.json"))]


def _written(path):
    return path.stat().st_mtime_ns


# All of them


def faults():
    for stage in STAGES:
        yield partial(send, stage=stage, number=signal.SIGINT)
        yield partial(send, stage=stage, number=signal.SIGTERM)
        yield partial(full_disk, stage=stage)
        yield partial(read_only, stage=stage)
    for stage in ("transfer", "finetune", "evaluate"):
        yield partial(locked_store, stage=stage)
        yield partial(no_server, stage=stage)
        for back in (False, True):
            yield partial(lost_server, stage=stage, back=back)
    for stage in ("preprocess", "transfer"):
        yield partial(two_at_once, stage=stage)
    yield partial(failing_trial)
    size = 80_000_000
    for quarter in range(4):
        yield partial(bad_server, name=f"dropped at {quarter}/4", answers=[Answer(stop_after=size * quarter // 4)])
    for status in (500, 503, 429):
        yield partial(bad_server, name=f"status {status} twice", answers=[Answer(status=status)] * 2)
    dropped = Answer(stop_after=size // 2)
    yield partial(bad_server, name="slow trickle", answers=[Answer(status=503), Answer(pieces=400)])
    yield partial(bad_server, name="wrong length", answers=[Answer(headers={"Content-Length": "12345"})])
    yield partial(bad_server, name="no ranges", answers=[dropped, Answer(ranges=False)])
    yield partial(
        bad_server, name="ranges that lie", answers=[dropped, Answer(headers={"Content-Range": "bytes 5-9/10"})]
    )
    loop = Answer(status=302, headers={"Location": "/file.bin"})
    yield partial(bad_server, name="redirect loop", answers=[loop] * 6)
    yield partial(
        bad_server, name="redirect to file://", answers=[Answer(status=302, headers={"Location": "file:///etc/passwd"})]
    )
    yield partial(bad_tls, name="a certificate that nobody trusts")
    yield partial(bad_tls, name="a certificate for another host", host="localhost", trusted=True)
    yield partial(bad_tls, name="none", encrypted=False)
