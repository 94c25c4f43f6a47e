import dataclasses

import numpy as np
import pytest

from frostline.explain.grad_cam import checked_grad_cam
from frostline.metrics.bootstrap import Pair
from frostline.models.backbone import build_backbone
from frostline.models.head import add_head
from frostline.report.galleries import label_issues_gallery, prediction_galleries
from results import chosen

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(weights):
    base = build_backbone(75, weights)
    return {
        phase: add_head(base, "mixed2", dense_units=4, dropout=0.2, seed=seed)
        for seed, phase in enumerate(("transfer", "finetune"))
    }


@pytest.mark.long
def test_each_kind_of_prediction_with_what_it_rests_on(prepared, models):
    labels, names = prepared.labels("test"), prepared.names("test")
    right = np.eye(2)[labels] * 0.8 + 0.1
    pair = Pair(labels, right.copy(), right.copy())
    pair.baseline[0] = 1 - right[0]  # set right by fine-tuning
    pair.candidate[1] = 1 - right[1]  # got wrong by it: its only mistake
    pair.candidate[2] = np.eye(2)[labels[2]] * 0.1 + 0.45  # its smallest margin
    found = prediction_galleries(prepared, models, pair, chosen(), most=3)
    assert {name: gallery.total for name, gallery in found.items()} == {
        "top_losses": 1,
        "smallest_margins": len(labels) - 1,
        "set_right": 1,
        "got_wrong": 1,
    }
    assert len(found["smallest_margins"].shown) == 3
    for name, row in (("top_losses", 1), ("smallest_margins", 2), ("set_right", 0), ("got_wrong", 1)):
        image = found[name].shown[0]
        assert image.name == names[row]
        assert image.facts[0] == f"is {prepared.classes[labels[row]]}"
        np.testing.assert_array_equal(image.pixels, prepared.images("test")[row])
    set_right = found["set_right"].shown[0]
    second = prepared.classes[1]
    assert set_right.facts[1].replace("\u00a0", " ") == (
        f"P({second}) {pair.baseline[0, 1]:.3f} → {pair.candidate[0, 1]:.3f}"
    )
    predicted = {"transfer": 1 - labels[0], "finetune": labels[0]}
    for phase, heat in set_right.heat.items():
        assert heat.explained == prepared.classes[predicted[phase]]
        alone = checked_grad_cam(models[phase], set_right.pixels[None], np.array([predicted[phase]]))[0]
        np.testing.assert_allclose(heat.map, alone, atol=1e-3)


@pytest.mark.long
def test_what_the_model_in_use_says_stands_below_where_it_is_calibrated(prepared, models):
    labels = prepared.labels("test")
    wrong = np.eye(2)[labels] * 0.6 + 0.2
    wrong[3] = wrong[3, ::-1]
    pair, choice = Pair(labels, wrong[:, ::-1], wrong), chosen("finetune", temperature=2.0)
    found = prediction_galleries(prepared, models, pair, choice, most=3)["top_losses"].shown
    assert len(found) == 1, "those of the model in use, not of the other"
    second = prepared.classes[1]
    assert found[0].facts[2] == f"in use: P({second}) {choice.in_use(pair)[3, 1]:.3f}"
    as_it_is = prediction_galleries(prepared, models, pair, chosen(), most=3)["top_losses"].shown
    assert len(as_it_is[0].facts) == 2


@pytest.mark.long
def test_label_issues_of_several_splits_keep_their_names(prepared, models):
    probabilities = {}
    for split in ("validation", "test"):
        probabilities[split] = np.eye(2)[prepared.labels(split)] * 0.8 + 0.1
    probabilities["test"][3] = probabilities["test"][3, ::-1]
    found = label_issues_gallery(prepared, models, probabilities, most=8)
    label = prepared.labels("test")[3]
    assert found.total == len(found.shown) == 1
    assert found.shown[0].name == prepared.names("test")[3]
    assert found.shown[0].facts[0] == f"labelled {prepared.classes[label]} (test)"
    assert {heat.explained for heat in found.shown[0].heat.values()} == {prepared.classes[1 - label]}

    probabilities["test"][3] = probabilities["test"][3, ::-1]
    assert label_issues_gallery(prepared, models, probabilities, most=8).shown == []


@pytest.mark.long
def test_numbers_beside_a_name_from_right_to_left_keep_their_order(prepared, models):
    arabic = dataclasses.replace(prepared, classes=("قطة", "كلب"))
    label = prepared.labels("test")[3]
    wrong = np.eye(2)[prepared.labels("test")] * 0.8 + 0.1
    wrong[3] = wrong[3, ::-1]
    found = label_issues_gallery(arabic, models, {"test": wrong}, most=8).shown[0]
    assert found.facts == [
        f"labelled \u2068{arabic.classes[label]}\u2069 (test)",
        f"P(\u2068{arabic.classes[1 - label]}\u2069) 0.900",
    ]
    pair = Pair(prepared.labels("test"), wrong, wrong)
    found = prediction_galleries(arabic, models, pair, chosen(), most=3)["top_losses"].shown[0]
    assert found.facts[0] == f"is \u2068{arabic.classes[label]}\u2069"
    assert found.facts[1].startswith("P(\u2068كلب\u2069) 0.")
