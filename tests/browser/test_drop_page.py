"""The page of `frostline serve`: by mouse, by keyboard, on a phone, in the dark, without a script."""

import base64

import pytest
from contrasts import CONTRASTS

from frostline.serving.classifier import load_classifier
from frostline.serving.server import BODY_LIMIT, application
from served import ball, field, serving, write_model

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    write_model(path)
    with serving(application(load_classifier(path))) as url:
        yield url


def choose(page, content, name, kind="image/jpeg"):
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": kind, "buffer": content})


def answer(page):
    page.locator(".result").wait_for()
    return str(page.locator(".class strong").inner_text())


HAND_OVER = """([kinds, content, filling]) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes, new Uint8Array(filling)], "ball.jpg", { type: "image/jpeg" }));
  return kinds.map((kind) => {
    const options = { bubbles: true, cancelable: true, clipboardData: data, dataTransfer: data };
    const event = kind === "paste" ? new ClipboardEvent(kind, options) : new DragEvent(kind, options);
    document.querySelector("main").dispatchEvent(event);
    return event.defaultPrevented;
  });
}"""


def hand_over(page, *kinds, filling=0):
    """Let the page have an image, with so many more bytes, by these events; True for each that the page took."""
    return list(page.evaluate(HAND_OVER, [kinds, base64.b64encode(ball()).decode(), filling]))


def test_a_dropped_image_is_shown_with_its_class_and_what_speaks_for_it(
    address,
    open_page,
    keep_screenshot,
    screen,
):
    phone = screen.width < 500
    page = open_page(address, screen.width, screen.height, color_scheme=screen.theme, has_touch=phone, is_mobile=phone)
    assert page.locator(".touch").is_visible() == phone
    assert not page.locator(".result").is_visible()
    assert all(hand_over(page, "dragover", "drop")), "the browser would leave the page for the image"
    assert answer(page) == "ball"
    assert page.locator("dt").all_inner_texts() == ["ball", "field"]
    shares = [float(text.rstrip("%")) for text in page.locator("dd:not(.bar)").all_inner_texts()]
    assert sum(shares) == pytest.approx(100)
    assert f"{shares[0]}%" == page.locator(".class span").inner_text()
    image, heat = page.locator(".shown"), page.locator(".heat")
    assert image.evaluate("image => image.naturalWidth") == 480
    assert not heat.is_visible()
    page.locator(".toggle").click()
    assert heat.evaluate("image => image.naturalWidth") > 0
    assert heat.bounding_box() == image.bounding_box()
    assert "mostly at the left" in page.locator(".where").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") == screen.width
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 8
    assert [entry for entry in contrasts if entry[1] < entry[2]] == []
    keep_screenshot(page, f"drop-{screen}")
    page.locator(".toggle").click()
    assert not heat.is_visible()


def test_all_of_it_works_by_keyboard(address, open_page):
    page = open_page(address)
    file = {"name": "field.jpg", "mimeType": "image/jpeg", "buffer": field()}
    page.on("filechooser", lambda chooser: chooser.set_files(file))
    page.keyboard.press("Tab")
    assert page.locator(".drop").evaluate("drop => getComputedStyle(drop).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert answer(page) == "field"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator(".heat").is_visible()


def test_a_image_can_be_pasted_and_the_next_one_takes_its_place(address, open_page):
    page = open_page(address)
    hand_over(page, "paste")
    assert answer(page) == "ball"
    choose(page, field(), "field.jpg")
    page.locator(".class strong", has_text="field").wait_for()


def test_what_the_browser_cannot_show_the_server_shows(address, open_page):
    page = open_page(address)
    choose(page, ball("TIFF"), "ball.tif", "image/tiff")
    assert answer(page) == "ball"
    page.wait_for_function("document.querySelector('.shown').naturalWidth === 32")


@pytest.mark.parametrize(
    ("fit", "shares"), [("squash", (1, 1)), pytest.param("crop", (1, 1 / 20), marks=pytest.mark.long), ("pad", (20, 1))]
)
def test_what_speaks_for_it_lies_on_the_part_that_the_model_saw(tmp_path, open_page, fit, shares):
    """Of a high picture, by the width and height of the image that is shown; what lies outside of it is not seen."""
    write_model(tmp_path / "model.keras", fit=fit)
    with serving(application(load_classifier(tmp_path / "model.keras"))) as url:
        page = open_page(url)
        for content, name, kind, (across, down) in (
            (ball("PNG", width=20, height=400), "slip.png", "image/png", shares),
            (ball("TIFF", width=200, height=400), "tall.tif", "image/tiff", (1, 1)),  # seen as the model sees it
        ):
            choose(page, content, name, kind)
            page.locator(f".shown[alt^='{name}']").wait_for()
            page.wait_for_function("document.querySelector('.shown').naturalWidth > 0")
            if name == "slip.png":
                page.locator(".toggle").click()
            page.locator(".heat").wait_for()
            if kind == "image/tiff":
                page.wait_for_function("document.querySelector('.shown').naturalWidth === 32")
            image, heat = page.locator(".shown").bounding_box(), page.locator(".heat").bounding_box()
            for extent, start, times in (("width", "x", across), ("height", "y", down)):
                assert heat[extent] == pytest.approx(times * image[extent], abs=1)
                middle = image[start] + image[extent] / 2
                assert heat[start] + heat[extent] / 2 == pytest.approx(middle, abs=1)


def test_a_refusal_is_told_in_words(browser, address):
    page = browser.new_page()  # Chromium itself complains of the status on the console
    page.goto(address)
    choose(page, b"text", "notes.txt", "text/plain")
    page.locator(".error", has_text="notes.txt: not a JPEG").wait_for()
    assert not page.locator(".result").is_visible()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    hand_over(page, "drop", filling=BODY_LIMIT)
    page.locator(".error", has_text="more than 32 MiB").wait_for()
    assert not any("invocations" in url for url in requests), "it need not travel to be refused"
    choose(page, ball(), "ball.jpg")
    assert answer(page) == "ball"
    assert not page.locator("main > .error").is_visible()
    page.close()


def test_without_script_it_says_what_to_do(address, open_page):
    page = open_page(address, java_script_enabled=False)
    assert "curl" in page.locator("noscript").inner_text()
