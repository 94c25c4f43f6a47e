"""The report as people meet it: on a screen, a phone, paper; by mouse and by keyboard; without network and script."""

from pathlib import Path

import numpy as np
import pytest
from contrasts import CONTRASTS

from frostline.metrics.bootstrap import by_phase
from frostline.metrics.classification import confusion_matrix, figures
from results import predictions, predictions_of_many, write_example_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_example_report(folder)
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def address_of_many(tmp_path_factory):
    """With twelve classes."""
    folder = tmp_path_factory.mktemp("report")
    write_example_report(folder, tuple(f"class {number}" for number in range(12)), pair=predictions_of_many(200, 12))
    return (folder / "report.html").as_uri()


@pytest.mark.long
@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.long), 3])
@pytest.mark.parametrize(
    "long",
    [
        pytest.param("W" * 120, marks=pytest.mark.long, id="latin"),
        pytest.param("아주긴이름" * 20, id="korean"),
        pytest.param("قطة" * 60, marks=pytest.mark.long, id="arabic"),
    ],
)
def test_a_name_of_one_long_word_leaves_the_figures_in_view(tmp_path, open_page, count, long):
    classes = (long, f"{long}2", "cat")[:count]
    write_example_report(tmp_path, classes, pair=predictions(86) if count == 2 else predictions_of_many(86, 3))
    page = open_page((tmp_path / "report.html").as_uri(), 1100, 800)
    wider = "[...document.querySelectorAll('.card')].filter(each => each.scrollWidth > each.clientWidth).length"
    assert page.evaluate(wider) == 0


def shown(page, figure, phase):
    return str(page.locator(f"tr[data-figure={figure}] [data-phase={phase}]").inner_text())


def expected(threshold):
    """What the explorer must show, by phase and figure, from the package's own figures."""
    pair = predictions(86)
    found = {}
    columns = {**by_phase(pair), "validation": pair.candidate}  # the chosen one's of the same images
    for phase, probabilities in columns.items():
        (tn, fp), (fn, tp) = confusion_matrix(pair.labels, probabilities, threshold)
        values = figures(pair.labels, probabilities, threshold, bins=15)
        found[phase] = {
            "accuracy": f"{values['accuracy']:.3f}",
            "precision": f"{tp / (tp + fp):.3f}" if tp + fp else "undefined",
            "recall": f"{tp / (tp + fn):.3f}",
            "f1": f"{values['f1']:.3f}",
            **{name: str(count) for name, count in zip(("tn", "fp", "fn", "tp"), (tn, fp, fn, tp), strict=True)},
        }
    return found


def all_shown(page):
    names = ("accuracy", "precision", "recall", "f1", "tn", "fp", "fn", "tp")
    return {
        phase: {name: shown(page, name, phase) for name in names} for phase in ("transfer", "finetune", "validation")
    }


def test_the_verdict_is_in_view_and_nothing_is_cut_off(
    address,
    open_page,
    keep_screenshot,
    screen,
):
    requests: list[str] = []
    page = open_page(address, screen.width, screen.height, color_scheme=screen.theme, offline=True)
    page.on("request", lambda request: requests.append(request.url))
    page.reload()
    for part in (".verdict", ".summary tbody tr:first-child"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= screen.height
    assert page.evaluate("document.documentElement.scrollWidth") == screen.width
    assert {url.split(":")[0] for url in requests} <= {"file", "data"}
    keep_screenshot(page, f"report-{screen}")


def test_the_slider_changes_the_numbers_from_the_keyboard(address, open_page):
    page = open_page(address)
    assert all_shown(page) == expected(0.5)
    slider = page.locator("#threshold-slider")
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "0.3"
    assert page.locator("output").inner_text() == "0.3"
    assert all_shown(page) == expected(0.3) != expected(0.5)
    page.keyboard.press("End")
    assert all_shown(page) == expected(1)
    assert shown(page, "precision", "transfer") == "undefined"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert all_shown(page) == expected(0.5)


@pytest.mark.parametrize("chart", ["roc", pytest.param("precision_recall", marks=pytest.mark.long)])
def test_a_press_on_a_curve_chooses_its_threshold(address, open_page, chart):
    page = open_page(address)
    page.locator(f"[data-chart={chart}]").scroll_into_view_if_needed()
    box = page.locator(f"#{chart}-unit path").bounding_box()
    page.mouse.click(box["x"] + 0.02 * box["width"], box["y"] + 0.02 * box["height"])  # the top left corner
    threshold = float(page.locator("output").inner_text())
    assert threshold > 0.5
    assert all_shown(page) == expected(threshold)
    dot = page.locator(f"[data-chart={chart}] circle.finetune").bounding_box()
    recall = float(shown(page, "recall", "finetune"))
    if chart == "roc":
        x, y = int(shown(page, "fp", "finetune")) / int(np.sum(predictions(86).labels == 0)), recall
    else:
        x, y = recall, float(shown(page, "precision", "finetune"))
    assert dot["x"] + dot["width"] / 2 == pytest.approx(box["x"] + x * box["width"], abs=1)
    assert dot["y"] + dot["height"] / 2 == pytest.approx(box["y"] + (1 - y) * box["height"], abs=1)


def test_grad_cam_is_shown_for_the_phase_that_is_chosen(address, open_page):
    page = open_page(address)
    visible = {phase: page.locator(f".heat.{phase}").first.is_visible for phase in ("transfer", "finetune")}
    page.locator("#heat-off").focus()
    for chosen in ("transfer", "finetune", None):
        page.keyboard.press("ArrowRight")
        assert {phase: found() for phase, found in visible.items()} == {phase: phase == chosen for phase in visible}


FOCUSED = "[(e => e.id || e.tagName)(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"


def test_what_the_keyboard_reaches_shows_its_focus(address, open_page):
    page = open_page(address)
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(FOCUSED)
        if name == "BODY":
            break
        assert outline != "none", name
        reached.append(name)
    assert {"A", "threshold-slider", "BUTTON", "heat-off", "SUMMARY"} <= set(reached)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(address, open_page, theme):
    page = open_page(address, color_scheme=theme)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [entry for entry in contrasts if entry[1] < entry[2]] == []


def test_on_paper_it_is_light_and_shows_what_is_folded(address, open_page, tmp_path):
    page = open_page(address, color_scheme="dark")
    settings = page.locator("details td").first
    assert not settings.is_visible()
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".contents").is_visible()
    assert settings.bounding_box()["height"] > 0
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert 0 < (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n") < 15


def test_without_script_it_still_says_all_but_the_explorer(address, open_page):
    page = open_page(address, java_script_enabled=False)
    assert page.locator(".verdict").is_visible()
    assert page.locator("[data-chart=roc] svg").is_visible()
    assert not page.locator("#threshold").is_visible()


def test_in_mlflows_frame_script_and_links_work(address, open_page, tmp_path):
    """MLflow's UI shows an HTML artifact from a blob: address in a frame that may run scripts and nothing else."""
    (tmp_path / "frame.html").write_text('<iframe sandbox="allow-scripts" width="900" height="700"></iframe>')
    page = open_page((tmp_path / "frame.html").as_uri())
    html = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    page.evaluate(
        "html => { document.querySelector('iframe').src = URL.createObjectURL(new Blob([html], {type: 'text/html'})) }",
        html,
    )
    frame = page.frame_locator("iframe")
    frame.locator("#threshold").wait_for()
    assert frame.locator("tr[data-figure=accuracy] td").all_inner_texts() == [
        expected(0.5)[phase]["accuracy"] for phase in ("validation", "transfer", "finetune")
    ]
    frame.locator(".contents a", has_text="Data").click()
    assert 0 <= frame.locator("#data").evaluate("heading => heading.getBoundingClientRect().top") < 100


# More than two classes


@pytest.mark.long
def test_many_classes_fit_the_page(
    address_of_many,
    open_page,
    keep_screenshot,
    screen,
):
    page = open_page(address_of_many, screen.width, screen.height, color_scheme=screen.theme)
    box = page.locator(".verdict").bounding_box()
    assert box["y"] + box["height"] <= screen.height
    assert page.evaluate("document.documentElement.scrollWidth") == screen.width
    assert [entry for entry in page.evaluate(CONTRASTS) if entry[1] < entry[2]] == []
    page.locator(".contents a", has_text="Classes").click()
    heading = page.locator("#classes").bounding_box()
    assert 0 <= heading["y"] < screen.height
    keep_screenshot(page, f"report-12-classes-{screen}")
