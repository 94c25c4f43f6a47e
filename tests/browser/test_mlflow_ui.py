"""MLflow's own UI on runs that Frostline logged: what README says of it, by the same clicks."""

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import Any

import pytest

from frostline.common.files import write_csv
from frostline.config.load import compose_conf
from frostline.config.paths import CURVES, EVALUATION, MODELS, REPORT
from frostline.tracking import runs as tracking
from results import CONF, judged, predictions, write_example_report
from servers import is_healthy, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.long]

COLUMNS = ("epoch", "train/loss", "train/accuracy", "validation/loss", "validation/accuracy")
EPOCHS = {
    "transfer": [(1, 0.9, 0.61, 0.8, 0.65), (2, 0.6, 0.7, 0.55, 0.72)],
    "finetune": [(1, 0.5, 0.75, 0.5, 0.76), (2, 0.4, 0.8, 0.45, 0.79)],
}
"""By phase, what stands in COLUMNS after each epoch."""

KNOWN = (
    r"status of 404 .*/mlflow/users/current",  # MLflow asks who is signed in; a server without users does not know
    "AG Grid: since v27",  # what MLflow's table will lose in a later version
    "ResizeObserver loop",  # the table takes a frame more to find its size
    "GPU stall due to ReadPixels",  # MLflow draws a chart with WebGL, and this machine has no GPU
)

"""What MLflow's pages say on the console, by no fault of the runs."""


@functools.cache
def result():
    """The evaluation that `results.write_example_report` makes a report of."""
    return judged(predictions(86))


def fill(digest="5" * 64):
    """Log the runs of one pipeline as its stages do; only the figures are drawn, and the models no models."""
    settings, verdict = compose_conf([], CONF), result().verdict
    pipeline = tracking.open_pipeline(settings, digest)
    for phase, rows in EPOCHS.items():
        epochs = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        write_csv(CURVES[phase], COLUMNS, epochs)
        MODELS[phase].parent.mkdir(exist_ok=True)
        MODELS[phase].write_text(phase)
        with tracking.phase_run(phase, pipeline) as run:
            run.log_data(settings.data.name, settings.data.depends_on, digest, context="training")
            for epoch in epochs:
                run.log_epoch(epoch)
            run.log_files(CURVES[phase])
            run.tag_model(MODELS[phase])
    write_example_report(EVALUATION)
    shutil.move(EVALUATION / REPORT.name, REPORT)
    with tracking.phase_run("evaluate", pipeline) as run:
        for phase, figures in result().figures.items():
            phases_run = tracking.find_or_restore(phase, pipeline, MODELS[phase], [], asked_by=run)
            run.log_metrics({f"test/{name}": value for name, value in figures.items()}, on=phases_run)
        run.log_files(REPORT, EVALUATION)
        test = {f"test/{name}": value for name, value in result().figures[verdict.chosen].items()}
        run.describe(f"**{verdict.title}.** {verdict.choice} {verdict.detail}", test)


@contextmanager
def mlflow_ui(folder):
    """What `make ui` starts in `folder`, with one process instead of a dozen, at a free port; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", "sqlite:///mlruns/mlflow.db"]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "mlflow-ui.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command + store, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )

    def is_up():
        assert process.poll() is None, log.read_text()
        return is_healthy(f"http://127.0.0.1:{port}")

    try:
        wait_until(is_up, seconds=120)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
        fill()
    with mlflow_ui(folder) as url:
        yield url


@pytest.fixture
def open_mlflow(address, open_page):
    """Open a path of MLflow's UI in a browser that has closed the panel of its assistant, a third of the window."""

    def open_(path="/"):
        kept = {"mlflow.assistant.panelOpen_v1": "false", "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true"}
        storage = [{"name": name, "value": value} for name, value in kept.items()]
        state = {"cookies": [], "origins": [{"origin": address, "localStorage": storage}]}
        page = open_page(address + path, known=KNOWN, storage_state=state)
        page.set_default_timeout(60_000)  # it is 10 MB of scripts
        return page

    return open_


@pytest.fixture
def runs(open_mlflow):
    """The page of the experiment's runs, reached by the clicks that README names; the parent is unfolded."""
    page = open_mlflow()
    page.get_by_text("Model training", exact=True).click()
    page.get_by_role("link", name="Experiments").first.click()
    page.get_by_role("link", name="frostline-sample").first.click()
    row(page, "sample").get_by_role("button").click()
    row(page, "transfer sample").wait_for()
    return page


def row(page, name):
    link = page.get_by_role("link", name=name, exact=True)
    return page.locator(".ag-pinned-left-cols-container [role=row]").filter(has=link)


PHASE_IS_SHOWN = """(link) => {
  const text = document.createTreeWalker(link, NodeFilter.SHOW_TEXT).nextNode(), phase = document.createRange();
  phase.setStart(text, 0);
  phase.setEnd(text, text.data.indexOf(" "));
  return phase.getBoundingClientRect().right <= link.closest("[role=gridcell]").getBoundingClientRect().right;
}"""


def test_the_phases_stand_below_their_parent_by_names_that_tell_them_apart(runs, keep_screenshot):
    names = runs.locator(".ag-pinned-left-cols-container [role=row] a")
    phases = [f"{phase} sample" for phase in ("evaluate", "finetune", "transfer")]
    assert names.all_inner_texts() == ["sample", *phases]
    parent, *below = [link.bounding_box()["x"] for link in names.all()]
    assert min(below) > parent
    assert all(names.nth(number).evaluate(PHASE_IS_SHOWN) for number in (1, 2, 3)), "MLflow cuts the end of long names"
    keep_screenshot(runs, "mlflow-runs")


METRICS = """() => {
  const sections = [...document.querySelectorAll("[class*=collapse-item]")];
  const metrics = sections.find((section) => section.firstChild.innerText.trim() === "Metrics");
  const rows = {};
  for (const cell of metrics.querySelectorAll(".ReactVirtualized__Grid__innerScrollContainer > *")) {
    const { x, y } = cell.getBoundingClientRect();
    (rows[Math.round(y)] ??= []).push([x, cell.innerText.trim()]);
  }
  return Object.values(rows).map((row) => row.sort((a, b) => a[0] - b[0]).map(([, text]) => text));
}"""
"""The texts that stand side by side below "Metrics": the name, and a value for each run."""


def test_both_phases_are_compared_metric_by_metric_and_curve_by_curve(runs, keep_screenshot):
    for phase in EPOCHS:
        row(runs, f"{phase} sample").locator(".ag-selection-checkbox input").check()
    runs.get_by_role("button", name="Compare", exact=True).click()
    runs.get_by_role("link", name="train/loss").wait_for()
    for folded in ("Visualizations", "Parameters"):
        runs.locator("[class*=collapse-header]", has_text=folded).click()
    for folded in ("Parallel Coordinates Plot", "finetune.learning_rate"):
        runs.get_by_text(folded).first.wait_for(state="hidden")
    names = runs.get_by_role("row", name="Run Name:").get_by_role("cell").all_inner_texts()
    assert [name.strip() for name in names] == [f"{phase} sample" for phase in EPOCHS]
    expected: dict[str, list[Any]] = {}
    for phase, rows in EPOCHS.items():
        trained = dict(zip(COLUMNS[1:], rows[-1][1:], strict=True))
        tested = {f"test/{name}": value for name, value in result().figures[phase].items()}
        for name, value in (trained | tested).items():
            expected.setdefault(name, []).append(pytest.approx(value, abs=0.0006))  # MLflow shows three places
    assert {name: [float(value) for value in values] for name, *values in runs.evaluate(METRICS)} == expected
    keep_screenshot(runs, "mlflow-compare")

    curves = runs.get_by_role("link", name="train/loss")

    def opened():
        """MLflow draws its tables anew while the sections above fold, and a click in between is lost."""
        if "/compare-runs" in runs.url:
            curves.click(timeout=5_000)
        runs.wait_for_timeout(500)
        return "/compare-runs" not in runs.url

    wait_until(opened, seconds=60)
    legend = [runs.get_by_text(f"{phase} sample (train/loss)") for phase in EPOCHS]
    for entry in legend:
        entry.first.wait_for()
    lines = runs.locator(".js-plotly-plot .scatterlayer .trace:has(.js-line)")
    lines.nth(1).wait_for()
    heights = {line.locator(".js-line").bounding_box()["y"] for line in lines.all()}
    assert len(heights) == len(EPOCHS), "one falls from 0.9, the other one from 0.5"
    keep_screenshot(runs, "mlflow-curves")


def test_the_description_of_the_parent_is_the_verdict_and_the_report_an_artifact(runs, keep_screenshot):
    row(runs, "sample").get_by_role("link").click()
    title = runs.locator("strong", has_text=result().verdict.title)  # bold, so it is read as Markdown
    title.wait_for()
    assert result().verdict.detail in title.locator("..").inner_text()
    evaluated = runs.get_by_role("link", name="evaluate sample")
    evaluated.wait_for()
    keep_screenshot(runs, "mlflow-parent")

    evaluated.click()
    runs.get_by_role("tab", name="Artifacts").click()
    runs.get_by_text(REPORT.name).first.click()
    runs.frame_locator("iframe").locator(".verdict", has_text=result().verdict.title).wait_for()
    keep_screenshot(runs, "mlflow-report")


def test_a_link_can_open_the_mode_for_model_training(open_mlflow):
    page = open_mlflow("/#/experiments/1?workflowType=machine_learning")  # else a new browser shows GenAI's traces
    row(page, "sample").wait_for()


def test_a_link_shows_the_data_set_and_the_test_figures_as_columns(open_mlflow, keep_screenshot):
    page = open_mlflow("/#/experiments/1/runs?viewStateShareKey=figures&workflowType=machine_learning")
    row(page, "sample").wait_for()
    for column in ("Dataset", "test/log_loss", "test/accuracy"):
        page.get_by_role("columnheader", name=column).first.wait_for()
    page.locator(".ag-center-cols-container").get_by_text("sample").first.wait_for()
    keep_screenshot(page, "mlflow-figures")
