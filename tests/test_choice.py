"""What stage evaluate chooses: by the validation images alone."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from frostline.config.load import compose_conf
from frostline.evaluation.evaluate import Trained, choose
from frostline.metrics.bootstrap import Pair
from frostline.metrics.calibration import fit_temperature
from results import CONF, noisy

pytestmark = pytest.mark.slow

CURVES = {
    "transfer": [{"epoch": 1, "validation/loss": 0.5}, {"epoch": 2, "validation/loss": 0.3}],
    "finetune": [{"epoch": 1, "validation/loss": 0.2}, {"epoch": 2, "validation/loss": 0.4}],
}
LABELS, TRANSFER = noisy(200, 6)
VALIDATION = Pair(LABELS, TRANSFER, noisy(200, 3)[1])
SHARES = np.array([0.5, 0.5])


def chosen(curves, *overrides):
    trained = Trained({}, curves, SimpleNamespace(classes=["cat", "dog"]), compose_conf([*overrides], CONF))
    return choose(trained, VALIDATION, SHARES)


def test_the_phase_is_that_whose_kept_weights_have_the_lower_validation_loss():
    assert chosen(CURVES).phase == "transfer", "of the last epochs"
    assert chosen(CURVES, "finetune.patience=1").phase == "finetune", "the first epoch's weights are kept"
    assert chosen(dict.fromkeys(CURVES, CURVES["transfer"])).phase == "transfer", "the simpler one"


def test_each_phase_gets_the_temperature_of_the_validation_images():
    choice = chosen(CURVES)
    assert choice.temperatures == {
        "transfer": fit_temperature(LABELS, VALIDATION.baseline),
        "finetune": fit_temperature(LABELS, VALIDATION.candidate),
    }
    assert choice.temperature == choice.temperatures["transfer"] > 1.2, "noise made it too sure"
    assert choice.threshold == 0.5


def test_none_leaves_probabilities_as_they_are():
    choice = chosen(CURVES, "evaluate.calibrate=none", "evaluate.threshold=0.3")
    assert (choice.temperature, choice.threshold) == (1, 0.3)
    assert np.array_equal(choice.in_use(VALIDATION), VALIDATION.baseline)
    assert np.array_equal(choice.predicted(VALIDATION)["transfer"], VALIDATION.baseline[:, 1] > 0.3)


def test_the_threshold_is_of_calibrated_probabilities():
    choice = dataclasses.replace(chosen(CURVES), temperatures={"transfer": 2.0, "finetune": 1.0}, threshold=0.4)
    logit = np.log(0.4 / 0.6) * 2
    assert np.array_equal(choice.predicted(VALIDATION)["transfer"], TRANSFER[:, 1] > 1 / (1 + np.exp(-logit)))
    assert np.array_equal(choice.predicted(VALIDATION)["finetune"], VALIDATION.candidate[:, 1] > 0.4)
