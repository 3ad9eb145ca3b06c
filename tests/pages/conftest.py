"""One browser for all page tests; they skip where there is none."""

from __future__ import annotations

import pytest

from pages.browser import Browser, find_chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("no Chromium to open pages in (install Debian's chromium, or set MEPIPE_CHROMIUM)")
    with Browser(tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """``opened(path, ...)``: a page that, when the test ends, has made no error and sent no request."""
    pages = []

    def open_page(path, **how):
        pages.append(browser.open(path, **how))
        return pages[-1]

    yield open_page
    for page in pages:
        page.look()
        page.close()
        assert page.problems == []
        assert page.requests == []
