"""Runs in a real SQLite store."""

import ast
import errno
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from frostline.config.load import compose_conf
from frostline.runtime.errors import FrostlineError
from frostline.tracking import runs as tracking
from frostline.tracking import unfinished
from frostline.tracking.store import make_tables
from frostline.training.resolved import Found
from mlflow_server import MlflowServer
from servers import wait_until

pytestmark = pytest.mark.slow

EPOCHS = [{"epoch": n, "train/loss": 1 / n, "validation/loss": 2 / n} for n in (1, 2)]


@pytest.fixture
def settings(project, monkeypatch):
    # MLflow keeps one store per address and process, so each test needs an address of its own.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlruns/mlflow.db")
    return compose_conf()


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"a model")
    return path


def runs(pipeline):
    found = mlflow.MlflowClient().search_runs([pipeline.experiment_id], order_by=["attributes.start_time ASC"])
    return {run.info.run_name: run for run in found} if len({r.info.run_name for r in found}) == len(found) else found


def all_runs(pipeline):
    return list(mlflow.MlflowClient().search_runs([pipeline.experiment_id]))


@pytest.mark.long
def test_a_new_store_has_the_tables_that_mlflow_makes_whoever_is_first(settings, project):
    def tables(path):
        with sqlite3.connect(path) as connection:
            found = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
        # MLflow's migrations write a table's constraints in any order
        return [(kind, name, sorted((sql or "").replace(",", "").split("\n"))) for kind, name, sql in found]

    for _ in range(2):  # as if two processes had found the file empty
        make_tables(project / "ours.db")
    SqlAlchemyStore(f"sqlite:///{project}/mlflows.db", str(project))
    assert tables(project / "ours.db") == tables(project / "mlflows.db")
    SqlAlchemyStore(f"sqlite:///{project}/ours.db", str(project))  # which refuses what is not its newest


def test_a_pipelines_phases_lie_below_one_parent_with_the_same_metric_names(settings, model):
    pipeline = tracking.open_pipeline(settings, "data digest")
    for phase in ("transfer", "finetune"):
        with tracking.phase_run(phase, pipeline) as run:
            run.log_data("sample", "drawn", "0" * 64, context="training")
            for epoch in EPOCHS:
                run.log_epoch(epoch)
            run.tag_model(model)
            run.log_files(model)
    found = runs(pipeline)
    assert set(found) == {"sample", "transfer sample", "finetune sample"}
    parent = found["sample"]
    for phase in ("transfer", "finetune"):
        run = found[f"{phase} sample"]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.metrics == {"train/loss": 0.5, "validation/loss": 1.0}
        assert run.data.params["transfer.learning_rate"] == "0.001"
        assert run.data.params["model.cut_layer"] == "mixed7"
        assert run.data.tags["frostline.phase"] == phase
        assert run.data.tags["frostline.experiment"] == "sample"
        (logged,) = run.inputs.dataset_inputs
        dataset = logged.dataset
        assert (dataset.name, dataset.digest) == ("sample", "0" * 32)
        assert (dataset.source_type, dataset.source) == ("code", '{"tags": {"source": "drawn"}}')
        assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
        assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]
    assert Path("mlruns/mlflow.db").is_file()
    assert list(Path("mlruns/artifacts").rglob("model.keras"))


def test_what_auto_was_found_to_be_is_a_parameter_and_its_curve_a_metric(settings):
    settings.transfer.learning_rate = "auto"
    pipeline = tracking.open_pipeline(settings, "data digest")
    curve = [{"rate": 1e-6, "loss": 0.7}, {"rate": 1e-3, "loss": 0.5}]
    with tracking.phase_run("transfer", pipeline) as run:
        run.log_found("transfer", Found(0.00093, 8, curve))
        run.log_found("finetune", Found())
    check_found(run.id)


@pytest.mark.long
def test_a_restored_run_tells_what_auto_was_found_to_be_too(settings, model):
    settings.transfer.learning_rate = "auto"
    pipeline = tracking.open_pipeline(settings, "data digest")
    found = {"transfer": Found(0.00093, 8, [{"rate": 1e-6, "loss": 0.7}, {"rate": 1e-3, "loss": 0.5}])}
    check_found(tracking.find_or_restore("transfer", pipeline, model, EPOCHS, found)())
    tracking.restore_phase("a trial", pipeline, EPOCHS, found | {"finetune": Found()})
    (trial,) = (run for run in all_runs(pipeline) if run.data.tags["frostline.phase"] == "a trial")
    check_found(trial.info.run_id)


def check_found(run_id):
    found = mlflow.get_run(run_id).data
    assert found.params["transfer.learning_rate"] == "auto", "the setting as it was given"
    assert found.params["found.transfer.learning_rate"] == "0.00093"
    assert found.params["found.transfer.batch_size"] == "8"
    assert not [name for name in found.params if name.startswith("found.finetune")]
    for name, values in {"rate": [1e-6, 1e-3], "loss": [0.7, 0.5]}.items():
        history = mlflow.MlflowClient().get_metric_history(run_id, f"transfer/range_test_{name}")
        assert [(point.step, point.value) for point in history] == [(1, values[0]), (2, values[1])]


def test_a_pipeline_and_a_sweep_show_their_data_set_too(settings):
    pipeline = tracking.open_pipeline(settings, "0" * 64)
    with tracking.phase_run("transfer", pipeline) as run:
        pass
    parent = mlflow.get_run(mlflow.get_run(run.id).data.tags["mlflow.parentRunId"])
    assert [(each.dataset.name, each.dataset.digest) for each in parent.inputs.dataset_inputs] == [("sample", "0" * 32)]


@pytest.mark.long
def test_the_names_of_trials_have_short_numbers_and_are_found_by_the_long_ones(settings):
    pipeline = tracking.open_pipeline(settings, "data digest", group="a sweep")
    name = "finetune.learning_rate=9.999999747378752e-06 model.dropout=0.25 weights.path=./1.23456789.h5 seed=12345678"
    tracking.restore_phase(name, pipeline, EPOCHS)
    tracking.restore_phase(name, pipeline, EPOCHS)
    (trial,) = (run for run in all_runs(pipeline) if run.data.tags["frostline.phase"] == name)
    short = "finetune.learning_rate=1e-05 model.dropout=0.25 weights.path=./1.23456789.h5 seed=12345678 sample"
    assert trial.info.run_name == short


@pytest.mark.long
def test_the_commit_is_a_tag(settings):
    subprocess.run(["git", "init", "-q", "."], check=True)
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"], check=True
    )
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    pipeline = tracking.open_pipeline(settings, "data")
    with tracking.phase_run("transfer", pipeline) as run:
        pass
    assert mlflow.get_run(run.id).data.tags["frostline.git_commit"] == head


@pytest.mark.long
def test_a_second_run_of_the_same_settings_is_a_new_pipeline(settings):
    pipeline = tracking.open_pipeline(settings, "data")
    parents = []
    for phase in ("transfer", "finetune", "transfer", "finetune"):
        with tracking.phase_run(phase, pipeline) as run:
            parents.append(mlflow.get_run(run.id).data.tags["mlflow.parentRunId"])
    assert parents[0] == parents[1]
    assert parents[2] == parents[3]
    assert parents[0] != parents[2]


def test_a_trial_that_is_tried_again_stays_in_its_sweep(settings):
    """As a search does with one that was given up, which has no result."""
    pipeline = tracking.open_pipeline(settings, "data", group="sweep")
    parents = []
    for _ in range(2):
        with tracking.phase_run("model.dropout=0.2", pipeline, of_sweep=True) as run:
            parents.append(mlflow.get_run(run.id).data.tags["mlflow.parentRunId"])
    assert parents[0] == parents[1]


def test_a_name_may_have_quotes_and_be_long(settings):
    """As class weights in a sweep; databases other than SQLite take 250 characters of a name."""
    pipeline = tracking.open_pipeline(settings, "data", group="sweep")
    name = "transfer.class_weight='{cat: 1, dog: 20}' " + "x" * 300
    for _ in range(2):
        tracking.restore_phase(name, pipeline, EPOCHS)
    (found,) = [run for run in all_runs(pipeline) if run.data.tags["frostline.phase"] == name]
    assert len(found.info.run_name) == 250


@pytest.mark.long
def test_other_settings_or_data_are_another_pipeline(settings, project):
    one = tracking.open_pipeline(settings, "data")
    assert one.key == tracking.open_pipeline(settings, "data").key
    assert one.key != tracking.open_pipeline(settings, "other data").key
    assert one.key != tracking.open_pipeline(compose_conf(["transfer.epochs=3"]), "data").key
    assert tracking.open_pipeline(settings, "data", group="sweep").key != one.key


def test_a_failed_run_is_failed_and_an_interrupted_one_killed(settings):
    pipeline = tracking.open_pipeline(settings, "data")
    ids = []
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), tracking.phase_run("transfer", pipeline) as run:
            ids.append(run.id)
            raise error
    assert [mlflow.get_run(run_id).info.status for run_id in ids] == ["FAILED", "KILLED"]


_KILLED = """
import os, signal
from frostline.config.load import compose_conf
from frostline.tracking import runs as tracking
with tracking.phase_run("transfer", tracking.open_pipeline(compose_conf(), "data")) as run:
    run.log_epoch({"epoch": 1, "train/loss": 1.0})
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
def test_what_a_killed_process_left_running_is_closed_and_not_taken_for_a_result(settings):
    assert subprocess.run([sys.executable, "-c", _KILLED]).returncode == -signal.SIGKILL
    pipeline = tracking.open_pipeline(settings, "data")
    assert Counter(run.info.status for run in all_runs(pipeline)) == {"KILLED": 2}
    with tracking.phase_run("transfer", pipeline):
        running = Counter(run.info.status for run in all_runs(pipeline))
        tracking.open_pipeline(settings, "data")
        assert Counter(run.info.status for run in all_runs(pipeline)) == running, "the living are left alone"
    runs = [(run.data.tags["frostline.phase"], run.info.status) for run in all_runs(pipeline)]
    assert sorted(runs) == [("pipeline", "FINISHED"), ("transfer", "FINISHED"), ("transfer", "KILLED")]
    assert not list(Path(".frostline/runs").iterdir())


def test_marks_that_a_power_loss_left_empty_or_half_are_deleted(settings):
    folder = Path(".frostline/runs")
    folder.mkdir(parents=True)
    whole = '{"store": "http://127.0.0.1:9", "experiment": "0"}'
    texts = ["", "\0\0\0", "\xff", whole[:20], "[]", "null", '{"store": 1}', '{"store": "sqlite:///mlruns/mlflow.db"}']
    for number, text in enumerate([*texts, whole]):
        (folder / f"{number}.json").write_text(text, encoding="latin-1")
    tracking.open_pipeline(settings, "data")
    assert [path.read_text() for path in folder.iterdir()] == [whole], "of another store, which is left alone"


def test_marks_are_locked_as_nfs_asks_for(settings, monkeypatch):
    """It locks only what is open for writing."""
    real = unfinished.lock_descriptor

    def on_nfs(descriptor, **options):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return real(descriptor, **options)

    monkeypatch.setattr(unfinished, "lock_descriptor", on_nfs)
    folder = Path(".frostline/runs")
    folder.mkdir(parents=True)
    (folder / "1.json").write_text("half")
    tracking.open_pipeline(settings, "data")
    assert list(folder.iterdir()) == []


@pytest.mark.long
def test_a_phase_is_found_by_its_model_or_logged_as_restored(settings, model, tmp_path):
    pipeline = tracking.open_pipeline(settings, "data")
    with tracking.phase_run("transfer", pipeline) as made:
        made.tag_model(model)
    assert tracking.find_or_restore("transfer", pipeline, model, EPOCHS)() == made.id

    restored = tracking.find_or_restore("finetune", pipeline, model, EPOCHS)()
    run = mlflow.get_run(restored)
    assert run.data.tags["frostline.restored"] == "true"
    assert run.data.tags["mlflow.parentRunId"] == mlflow.get_run(made.id).data.tags["mlflow.parentRunId"]
    assert run.data.metrics["validation/loss"] == 1.0
    assert run.info.status == "FINISHED"
    assert tracking.find_or_restore("finetune", pipeline, model, EPOCHS)() == restored

    model.write_bytes(b"another model")
    assert tracking.find_or_restore("transfer", pipeline, model, EPOCHS)() != made.id


@pytest.mark.long
def test_a_test_set_counts_the_settings_that_it_has_judged(settings):
    other = replace(settings, seed=settings.seed + 1)
    for number, (config, data) in enumerate([(settings, "a"), (other, "a"), (other, "a"), (settings, "b")]):
        pipeline = tracking.open_pipeline(config, data)
        assert tracking.times_judged(pipeline) == [1, 2, 2, 1][number]
        with tracking.phase_run("evaluate", pipeline):
            pass
    with pytest.raises(ZeroDivisionError), tracking.phase_run("evaluate", tracking.open_pipeline(settings, "c")):
        _ = 1 / 0
    assert tracking.times_judged(tracking.open_pipeline(other, "c")) == 1, "one that failed has judged nothing"


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = MlflowServer(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with server:
        yield server


def logged_epochs(run_id):
    return [point.step for point in mlflow.MlflowClient().get_metric_history(run_id, "train/loss")]


@pytest.mark.long
def test_a_lost_server_gets_all_once_it_is_back_and_a_run_that_it_lacks_is_restored(
    project, server, model, capfd, monkeypatch
):
    pipeline = tracking.open_pipeline(compose_conf(), "data")
    with tracking.phase_run("transfer", pipeline) as first:
        first.log_epoch(EPOCHS[0])
        server.kill()
        first.log_epoch(EPOCHS[1])
        first.log_files(model)
        server.start()
        first.tag_model(model)
    assert mlflow.get_run(first.id).info.status == "FINISHED"
    assert logged_epochs(first.id) == [1, 2]
    assert [file.path for file in mlflow.MlflowClient().list_artifacts(first.id)] == ["model.keras"]
    assert tracking.find_or_restore("transfer", pipeline, model, EPOCHS)() == first.id
    assert "warning" not in capfd.readouterr().err

    with ExitStack() as stack:
        with tracking.phase_run("finetune", pipeline) as second:
            second.log_epoch(EPOCHS[0])
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
            stack.enter_context(server.hanging())
            second.log_epoch(EPOCHS[1])
            second.tag_model(model)
        warning = capfd.readouterr().err
        assert len(warning.splitlines()) == 2
        assert f"{server.uri} is away" in warning
        assert "epoch 2, digest of the model, the run's end" in warning
        with pytest.raises(FrostlineError, match="cannot be used"):
            tracking.open_pipeline(compose_conf(), "data")

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    pipeline = tracking.open_pipeline(compose_conf(), "data")
    assert mlflow.get_run(second.id).info.status == "KILLED"
    restored = tracking.find_or_restore("finetune", pipeline, model, EPOCHS)()
    assert restored not in (first.id, second.id)
    assert logged_epochs(restored) == [1, 2]
    statuses = Counter((run.data.tags["frostline.phase"], run.info.status) for run in all_runs(pipeline))
    assert statuses == {
        ("pipeline", "FINISHED"): 1,
        ("transfer", "FINISHED"): 1,
        ("finetune", "KILLED"): 1,
        ("finetune", "FINISHED"): 1,
    }


@pytest.fixture
def impatient():
    """MLflow waits 20 s for a locked SQLite store; so long, tests do not."""

    def shorten(connection, cursor, statement, parameters, context, executemany):
        return statement.replace("busy_timeout = 20000", "busy_timeout = 200"), parameters

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", shorten, retval=True)
    yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", shorten)


@contextmanager
def lock_held(path):
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield connection
    finally:
        connection.close()


def test_a_store_that_stays_locked_ends_a_run_before_training(settings, monkeypatch):
    tracking.open_pipeline(settings, "data")
    monkeypatch.setattr("frostline.tracking.store.SQLITE_WAIT", 0.2)
    with lock_held("mlruns/mlflow.db"), pytest.raises(FrostlineError, match="database is locked") as raised:
        tracking.open_pipeline(settings, "data")
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.long
def test_a_store_that_is_locked_during_a_phase_costs_nothing_but_a_warning(settings, impatient, capfd):
    pipeline = tracking.open_pipeline(settings, "data")
    with tracking.phase_run("transfer", pipeline) as run:
        with lock_held("mlruns/mlflow.db"):
            run.log_epoch(EPOCHS[0])
        run.log_epoch(EPOCHS[1])
    assert logged_epochs(run.id) == [1, 2]
    assert capfd.readouterr().err == ""

    with tracking.phase_run("finetune", pipeline) as run:
        lock = lock_held("mlruns/mlflow.db")
        lock.__enter__()
        run.log_epoch(EPOCHS[0])
    warning = capfd.readouterr().err
    lock.__exit__(None, None, None)
    assert len(warning.splitlines()) == 2
    assert "database is locked" in warning
    tracking.open_pipeline(settings, "data")
    assert Counter(run.info.status for run in all_runs(pipeline)) == {"FINISHED": 2, "KILLED": 1}


@pytest.mark.long
def test_a_store_that_is_locked_for_a_while_is_waited_for(settings, capfd):
    pipeline = tracking.open_pipeline(settings, "data")
    with tracking.phase_run("transfer", pipeline) as run, lock_held("mlruns/mlflow.db") as connection:
        threading.Timer(0.5, connection.rollback).start()
        run.log_epoch(EPOCHS[0])
    assert logged_epochs(run.id) == [1]
    assert capfd.readouterr().err == ""


def test_what_the_store_refuses_is_said_and_holds_up_nothing(settings, capfd, tmp_path):
    pipeline = tracking.open_pipeline(settings, "data")
    with tracking.phase_run("transfer", pipeline) as run:
        run.log_files(tmp_path / "gone.csv")
        run.log_epoch(EPOCHS[0])
    assert logged_epochs(run.id) == [1]
    assert mlflow.get_run(run.id).info.status == "FINISHED"
    warning = capfd.readouterr().err
    assert "gone.csv" in warning
    assert len(warning.splitlines()) == 2


@pytest.mark.long
def test_no_credential_reaches_the_store(settings, monkeypatch, tmp_path):
    secrets = ["s3cret-user", "s3cret-password", "s3cret-token", "s3cret-kaggle"]
    monkeypatch.setenv("KAGGLE_USERNAME", "s3cret-user")
    monkeypatch.setenv("KAGGLE_KEY", "s3cret-kaggle")
    settings = compose_conf(
        [
            "data=filtered",
            "data.url='https://s3cret-user:s3cret-password@example.com/a.zip?token=s3cret-token'",
            "tracking.experiment=one",
        ]
    )
    pipeline = tracking.open_pipeline(settings, "data")
    with tracking.phase_run("transfer", pipeline) as run:
        run.log_data(settings.data.source, settings.data.depends_on, "0" * 64, context="training")
        run.describe("text", {"test/accuracy": 0.5})
    assert mlflow.get_run(run.id).data.params["data.url"] == "https://example.com/a.zip"
    for path in Path("mlruns").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], path


def test_an_unreachable_server_is_one_clear_error_without_its_password(settings, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:s3cret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(FrostlineError) as raised:
        tracking.open_pipeline(settings, "data")
    message = str(raised.value)
    assert "http://127.0.0.1:9 cannot be used" in message
    assert "MLFLOW_TRACKING_URI" in message
    assert "s3cret" not in message
    assert len(message.splitlines()) == 2


@pytest.mark.long
def test_the_environments_store_wins(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere/runs.db")
    with tracking.phase_run("transfer", tracking.open_pipeline(settings, "data")):
        pass
    assert (tmp_path / "elsewhere" / "runs.db").is_file()
    assert not Path("mlruns").exists()


_LOGGED = """
from frostline.config.load import compose_conf
from frostline.tracking import runs as tracking
with tracking.phase_run("transfer", tracking.open_pipeline(compose_conf(), "data")) as run:
    run.log_epoch({"epoch": 1, "train/loss": 1.0})
"""


@pytest.mark.long
def test_a_run_or_model_of_the_users_environment_has_no_say(settings):
    hostile = {
        "MLFLOW_ACTIVE_MODEL_ID": "m-123",
        "_MLFLOW_ACTIVE_MODEL_ID": "m-124",
        "MLFLOW_RUN_ID": "0" * 32,
        "MLFLOW_RUN_CONTEXT": '{"frostline.phase": "theirs"}',
        "MLFLOW_EXPERIMENT_ID": "77",
        "MLFLOW_EXPERIMENT_NAME": "theirs",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    }
    process = subprocess.run(
        [sys.executable, "-c", _LOGGED], env=os.environ | hostile, capture_output=True, text=True, check=True
    )
    assert process.stderr == ""
    run = runs(tracking.open_pipeline(settings, "data"))["transfer sample"]
    assert run.data.tags["frostline.phase"] == "transfer"
    assert logged_epochs(run.info.run_id) == [1]
    assert {experiment.name for experiment in mlflow.search_experiments()} <= {"frostline-sample", "Default"}


@pytest.mark.long
def test_a_long_run_has_system_metrics(settings, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    pipeline = tracking.open_pipeline(settings, "data digest")

    def has_some(run_id):
        return any(name.startswith("system/cpu") for name in mlflow.get_run(run_id).data.metrics)

    with tracking.phase_run("transfer", pipeline) as run:
        parent = mlflow.get_run(run.id).data.tags["mlflow.parentRunId"]
        wait_until(lambda: has_some(parent))
    assert not has_some(run.id), "where phases are compared, MLflow would show them first"
    assert mlflow.get_run(run.id).info.status == "FINISHED"


def test_only_the_module_that_turns_its_telemetry_off_imports_mlflow_first():
    """MLflow starts its telemetry when it is imported: whoever imports it at its top may be the first."""

    def imports_mlflow(path):
        top = ast.parse(path.read_text(encoding="utf-8")).body
        names = [node.module for node in top if isinstance(node, ast.ImportFrom)]
        names += [alias.name for node in top if isinstance(node, ast.Import) for alias in node.names]
        return any(name.split(".")[0] == "mlflow" for name in names)

    folder = Path(tracking.__file__).parent
    assert [path.name for path in folder.glob("*.py") if imports_mlflow(path)] == ["quiet_mlflow.py"]
