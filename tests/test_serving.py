"""What MLflow serves: its own loader and its own server, on what `log_model` logs."""

import ast
import base64
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from mlflow.pyfunc import scoring_server
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from frostline.config.load import compose_conf
from frostline.data.images import decode_image
from frostline.runtime.code_digest import PACKAGE, code_of
from frostline.serving.pyfunc import InvalidInputError, as_pixels
from frostline.tracking import runs
from frostline.tracking.logged_model import log_model
from served import SIZE, ball, field, serving, write_model
from tracked import write_tracked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A model, logged to a store and taken from there."""
    folder = write_tracked(tmp_path_factory.mktemp("logged"), "conf", "params.yaml")
    write_model(folder / "model.keras")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        pipeline = runs.open_pipeline(compose_conf(), "data digest")
        with runs.phase_run("finetune", pipeline) as run:
            log_model(run, folder / "model.keras", decode_image(ball(), SIZE))
        (model,) = mlflow.MlflowClient().search_logged_models([pipeline.experiment_id], f"source_run_id = '{run.id}'")
        shutil.copytree(mlflow.artifacts.download_artifacts(model.model_uri), folder / "served")
    return folder / "served"


def test_it_carries_its_card(logged):
    card = (logged / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "field, ball" in card
    assert "None are known" in card, "nothing has judged it"


def test_its_requirements_bring_every_package_that_it_imports(logged):
    """Where nothing else is installed, as in the environment that MLflow makes of them."""
    named = [Requirement(line).name for line in (logged / "requirements.txt").read_text().splitlines()]
    brought, waiting = set(), named
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in brought:
            brought.add(name)
            wanted = map(Requirement, requires(name) or ())
            waiting += [one.name for one in wanted if not one.marker or one.marker.evaluate({"extra": ""})]
    imported = set()
    files = code_of("frostline.serving.pyfunc", neutral=("__init__",))  # which imports all, when asked for it
    for file in (file for file in files if file.endswith(".py")):
        for node in ast.parse((PACKAGE / file).read_text(encoding="utf-8")).body:  # what is imported at once
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    foreign = imported - sys.stdlib_module_names - {"frostline"}
    packages = packages_distributions()
    assert {"psutil", "filelock", "PIL", "mlflow"} <= foreign
    assert {name for name in foreign if not {canonicalize_name(each) for each in packages[name]} & brought} == set()


@pytest.fixture(scope="module")
def loaded(logged):
    return mlflow.pyfunc.load_model(str(logged))


@pytest.fixture(scope="module")
def address(loaded):
    """MLflow's own server application, in this process: starting its command takes a quarter of a minute."""
    before = dict(os.environ)
    with serving(scoring_server.init(loaded)) as url:
        yield f"{url}/invocations"
    os.environ.clear()
    os.environ.update(before)


def text(content):
    return base64.b64encode(content).decode()


def pixels(*contents):
    return np.stack([decode_image(content, SIZE) for content in contents])


BOTH = ["ball", "field"]
COLUMN = pd.DataFrame({"image": [ball(), field()]})


@pytest.mark.parametrize(
    "images",
    [
        pixels(ball(), field()),
        pixels(ball(), field()).astype(np.int64),
        np.array([text(ball()), text(field())]),
        np.array([text(ball()), f"data:image/jpeg;base64,{text(field())}"], object),
        COLUMN,
        COLUMN.map(text),
    ],
    ids=["pixels", "pixels as int64", "base64", "data URL", "bytes in a table", "base64 in a table"],
)
def test_images_are_classified_however_they_come(loaded, images):
    answers = loaded.predict(images)
    assert list(answers.columns) == ["class", "probability", "probabilities"]
    assert list(answers["class"]) == BOTH
    for _, answer in answers.iterrows():
        assert answer["probability"] == answer["probabilities"][answer["class"]] > 0.7


def test_files_keep_the_zeros_that_they_end_in(loaded):
    """A BMP whose upper rows, which come last, are black."""
    picture = Image.open(io.BytesIO(ball()))
    picture.paste(0, (0, 0, 480, 60))
    file = io.BytesIO()
    picture.save(file, "BMP")
    content = file.getvalue()
    assert content.endswith(bytes(100))
    (expected,) = as_pixels(np.array([content], object), SIZE, "squash")
    np.testing.assert_array_equal(expected, decode_image(content, SIZE))
    for given in (content, [content], (content,), pd.DataFrame({"image": [content]})):
        np.testing.assert_array_equal(as_pixels(given, SIZE, "squash"), expected[None])
    with pytest.raises(InvalidInputError, match=r"has lost the zeros that files end in: give np\.array"):
        as_pixels(np.array([content]), SIZE, "squash")
    assert list(loaded.predict(np.array([content], object))["class"]) == ["ball"]


def test_the_example_is_one_to_send(loaded):
    assert list(loaded.predict(loaded.input_example)["class"]) == ["ball"]


def test_no_images_no_answers(loaded):
    assert len(loaded.predict(pixels(ball())[:0])) == 0


@pytest.mark.parametrize(
    "request_",
    [
        {"inputs": [text(ball()), text(field())]},
        {"instances": [text(ball()), text(field())]},
        {"inputs": pixels(ball(), field()).tolist()},
        {"instances": pixels(ball(), field()).tolist()},
        {"dataframe_records": [{"image": text(ball())}, {"image": text(field())}]},
        {"dataframe_split": {"columns": ["image"], "data": [[text(ball())], [text(field())]]}},
    ],
    ids=["inputs", "instances", "pixels", "pixels as instances", "records", "split"],
)
def test_mlflows_server_takes_all_its_forms(address, request_):
    response = requests.post(address, json=request_)
    assert [answer["class"] for answer in response.json()["predictions"]] == BOTH


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (["dGV4dA=="], "image 0: not a JPEG"),
        ([text(ball()), text(ball()[:2000])], "image 1: truncated"),
        (["%%%"], "image 0: not base64"),
        (["http://127.0.0.1/ball.jpg"], "image 0: an address: nothing is fetched"),
        ([text(ball()), None], "image 1: neither"),
        ([None], "expected"),
        ([1, 2], "expected"),
        ([[text(ball())], []], "expected"),
        (pixels(ball())[:, 1:].tolist(), "shape (1, 31, 32, 3)"),
        ((pixels(ball()) / 255).tolist(), "values"),
        ((pixels(ball()).astype(int) + 200).tolist(), "values"),
        ((pixels(ball()).astype(int) - 200).tolist(), "values"),
        (np.full((1, SIZE, SIZE, 3), "a").tolist(), "image 0"),
        (np.full((1, SIZE, SIZE, 3), None).tolist(), "values"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(address, inputs, words):
    response = requests.post(address, json={"inputs": inputs})
    assert response.status_code == 400
    assert response.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    message = response.json()["message"]
    assert words in message
    assert len(message) < 200, "it does not repeat what was sent"
    assert "stack_trace" not in response.json()


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [("application/json", b"{", 400), ("application/json", b"[]", 400), ("image/jpeg", ball(), 415)],
)
def test_mlflow_itself_refuses_the_rest(address, kind, body, status):
    assert requests.post(address, data=body, headers={"Content-Type": kind}).status_code == status


@pytest.mark.long
def test_the_command_of_mlflow_serves_it_in_a_process_of_its_own(logged):
    """From the code that was logged with the model, not from here."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["models", "serve", "-m", str(logged), "-p", str(port), "--env-manager", "local"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        while process.poll() is None:
            try:
                requests.get(f"{url}/health", timeout=5).raise_for_status()
                break
            except requests.RequestException:
                time.sleep(0.2)
        response = requests.post(f"{url}/invocations", json={"inputs": [text(ball())]})
        assert [answer["class"] for answer in response.json()["predictions"]] == ["ball"]
    finally:
        os.killpg(process.pid, 9)
        output = process.communicate()[0].decode()
    assert not re.search("Traceback", output), output
