"""A headless Chromium for the tests of pages, which fails a page that complains or asks for anything but itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser that is installed; skips the test where there is none, or nothing to drive it with."""
    driver = pytest.importorskip("playwright.sync_api", reason="needs the package playwright (pip install -e .[dev])")
    path = next((found for found in map(shutil.which, NAMES) if found), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is installed (apt-get install chromium)")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Any, file: Path, *, size: tuple[int, int] = (1440, 900), **context: Any) -> Iterator[Any]:
    """A page from disk in a window of its own, loaded; when it is left, it must have been quiet and alone."""
    made = browser.new_context(viewport={"width": size[0], "height": size[1]}, **context)
    page = made.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    yield page
    made.close()
    assert not complaints, complaints
    assert set(requests) == {file.as_uri()}, requests
