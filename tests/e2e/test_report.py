"""The report in a real browser: nothing is loaded or run, it can be read on a telephone and in the dark, and heard."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
import trio
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, sync_playwright

import bms
from helpers import cluster, until

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")]

URL = "http://report.test/"
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
HOSTILE_NAME = "<img src=x onerror=alert(1)>" + "m" * 60


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def report() -> str:
    async def run() -> str:
        async with cluster(1, metrics_interval=0.2) as (one,), trio.open_nursery() as nursery:
            two = bms.init(dev_mode=True, node_name=HOSTILE_NAME)
            await two.start(nursery)
            await until(lambda: one.is_connected(two.node_id))
            one.log_error(ValueError("<script>alert(1)</script>" + "x" * 400), topic="y" * 200)
            with trio.fail_after(60):
                while len(one.history()) < 4:
                    await one.send_message(two.node_id, b"x", "t")
                    await one.store_data("k", b"v")
            text: str = one.generate_report()
            await two.shutdown()
        return text

    return trio.run(run)


def shown(browser: Browser, text: str, *, width: int = 1200, scheme: str = "light", policy: str = POLICY) -> Page:
    """The page as a server gives it; it notes what the browser asks for beside it, and complains of."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(body=text, headers={"Content-Type": "text/html", "Content-Security-Policy": policy})

    page.route("**/*", answer)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(URL)
    assert [url for url in asked if not url.endswith("/favicon.ico")] == [URL]
    assert complaints == []
    return page


def test_it_shows_under_the_strictest_policy_and_asks_for_nothing(browser: Browser, report: str) -> None:
    page = shown(browser, report)
    assert page.locator("polyline").count() >= 6
    assert page.locator("polyline").first.evaluate("line => getComputedStyle(line).stroke") == "rgb(21, 88, 176)"
    assert page.locator(".badge").inner_text() in ("ok", "degraded")
    assert page.get_by_text("<script>alert(1)</script>").count() >= 1
    assert page.get_by_text("<img src=x onerror=alert(1)>").count() >= 1
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone_and_has_nothing_that_axe_finds(browser: Browser, report: str, scheme: str) -> None:
    page = shown(browser, report, width=360, scheme=scheme)
    page.locator("summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "it scrolls sideways"
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.context.close()
