"""The page that explains the HTTP interface, in a real browser: under the policy of its own server, for everybody."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

import bms

pytestmark = pytest.mark.e2e

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


def _look(url: str, token: str, picture: Path) -> dict[str, Any]:
    """What a browser shows, and what it complains of."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 1000, "height": 900})
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(f"{url}/docs")
            page.wait_for_selector("#get_node")
            found = {"routes": page.locator("details").count(), "answer": _try(page, token), "said": said}
            found["violations"] = [one["id"] for one in Axe().run(page).response["violations"]]
            page.screenshot(path=picture)
            page.set_viewport_size({"width": 360, "height": 700})
            found["overflow"] = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            return found
        finally:
            browser.close()


def _try(page: Page, token: str) -> str:
    """Send one request by the page's own form."""
    page.fill("#token", token)
    page.fill("#filter", "keys of a space")
    page.click("#list_keys summary")
    page.fill("#list_keys-prefix", "ö/")
    page.click("#list_keys button")
    output = page.locator("#list_keys pre[role=status]")
    output.filter(has_text="200").wait_for()
    return output.inner_text()


async def test_the_page_draws_every_route_sends_requests_and_breaks_no_rule(tmp_path: Path) -> None:
    async with bms.open_mesh(
        dev_mode=True, enable_persistence=False, enable_discovery=False, http_address="127.0.0.1:0"
    ) as mesh:
        await mesh.store_data("ö/key", b"value")
        await mesh.store_data("other", b"value")
        assert mesh.http_url is not None
        token = await mesh.issue_token(["data:read"])
        found = await trio.to_thread.run_sync(_look, mesh.http_url, token, tmp_path / "docs.png")
    from bms.api.routes import ROUTES

    assert found["routes"] == len(ROUTES) + 2  # the streams of events
    assert "ö/key" in found["answer"]
    assert "other" not in found["answer"]
    assert (found["said"], found["violations"]) == ([], [])
    assert found["overflow"] <= 0
