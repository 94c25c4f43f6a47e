"""A real browser: Debian's Chromium, driven by Playwright; without one of them these tests are skipped."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
"""Kept after the tests, for people to look at."""

OpenPage = Callable[..., Any]


@dataclass(frozen=True)
class Screen:
    width: int
    height: int
    theme: str

    def __str__(self):
        return f"{self.width}x{self.height}-{self.theme}"


@pytest.fixture(
    params=[
        Screen(1280, 800, "light"),
        pytest.param(Screen(1280, 800, "dark"), marks=pytest.mark.long),
        pytest.param(Screen(390, 844, "light"), marks=pytest.mark.long),
        Screen(390, 844, "dark"),
    ],
    ids=str,
)
def screen(request):
    """A desk's and a phone's, light and dark, in turn."""
    return cast(Screen, request.param)


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e .[dev]")
    if CHROMIUM is None:
        pytest.skip("Chromium is missing: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Open an address in a fresh window of `width` x `height`; the test fails if any page complains on its console.

    `known`: patterns of complaints that do not count.
    """
    contexts, complaints = [], []

    def open_(address, width=1280, height=800, known=(), **options):
        def complain(text):
            if not any(re.search(pattern, text) for pattern in known):
                complaints.append(text)

        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complain(f"{message.type}: {message.text} ({message.location['url']})"))
        page.on("pageerror", lambda error: complain(str(error)))
        page.on("requestfailed", lambda request: complain(f"failed: {request.url}"))
        page.goto(address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def keep_screenshot():
    def keep(page, name):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")

    return keep
