"""The dashboard in a real browser, on a live mesh of five processes: what people see there, do there, and are told.

One mesh and one browser serve all tests; each test opens pages of its own, and a page that complains (console, scripts,
Content-Security-Policy) fails its test. Waiting is Playwright's: for what is to be seen, with a generous deadline.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from helpers import PROCESS_S, ROOT

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")]

NAMES = ("alpha", "bravo", "charlie", "delta", "echo")
WIDE, TELEPHONE = (1280, 820), (360, 740)
SECTIONS = ("", "map", "nodes", "sync", "data", "messages", "logs", "report", "tokens", "config")
WAIT_MS = 60_000

expect.set_options(timeout=WAIT_MS)


# ---------------------------------------------------------------------- the mesh


@attrs.define
class Member:
    """One `bms up` and what it said when it was ready."""

    process: subprocess.Popen[bytes]
    ready: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.ready["http_url"])


class Fleet:
    """Five processes of one mesh, in a home of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members: dict[str, Member] = {}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BMS_")}
        self.environ = {**kept, "BMS_HOME": str(folder / "h"), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}

    def start(self, *names: str) -> None:
        """Start nodes, all at once; each keeps the address of its dashboard over restarts."""
        begun = {}
        for name in names:
            where = self.members[name].url.removeprefix("http://") if name in self.members else "127.0.0.1:0"
            command = [sys.executable, "-W", "error", "-m", "bms", "up", "--dev", "-o", "json", "--exit-with-stdin"]
            with (self.folder / f"{name}.log").open("ab") as log:
                begun[name] = subprocess.Popen(
                    [*command, "--mesh", "harbour", "--name", name, "--http", where],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self.environ, cwd=self.folder,
                )  # fmt: skip
        for name, process in begun.items():
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (self.folder / f"{name}.log").read_text()
            self.members[name] = Member(process, json.loads(line))

    def end(self, name: str, number: int) -> None:
        """Send a node a signal and wait for its end."""
        process = self.members[name].process
        process.send_signal(number)
        process.wait(PROCESS_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        """Nothing is left, whatever happened."""
        for name, member in self.members.items():
            if member.process.poll() is None:
                self.end(name, signal.SIGKILL)

    def bms(self, *arguments: str, node: str = "alpha", stdin: str = "") -> str:
        """Run a command at a node; what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "bms", *arguments, "--node", node],
            input=stdin.encode(), capture_output=True, check=False, timeout=PROCESS_S,
            env=self.environ, cwd=self.folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def token(self, *scopes: str, node: str = "alpha", name: str = "test") -> str:
        """A token of a node."""
        chosen = [word for scope in scopes or ("*",) for word in ("--scope", scope)]
        return self.bms("token", "issue", *chosen, "--name", name, node=node)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("d"))
    try:
        fleet.start(*NAMES)
        yield fleet
    finally:
        fleet.close()
    for name in NAMES:
        assert "Traceback" not in (fleet.folder / f"{name}.log").read_text()


# ---------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        arguments += ["--disable-component-update", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@attrs.define
class Visitor:
    """Opens pages, and keeps what they complain of."""

    browser: Browser
    fleet: Fleet
    complaints: list[str] = attrs.field(factory=list)
    forgiven: str = r"(?!)"
    """What a page may complain of in this test: answers that the test provokes show in the console."""

    def open(
        self, path: str = "#/", *, token: str | None = None, node: str = "alpha", scheme: Any = "light",
        size: tuple[int, int] = WIDE, motion: Any = "reduce",
    ) -> Page:  # fmt: skip
        """A page of a node's dashboard, signed in if a token is given and then live."""
        context = self.browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion=motion
        )
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: self.hear(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.hear(str(error)))
        if token is not None:
            page.add_init_script(f"sessionStorage.setItem('bms.token', '{token}')")
        page.goto(f"{self.fleet.members[node].url}/{path}")
        if token is not None:
            expect(page.locator(".pill.ok", has_text="Live")).to_be_visible()
        return page

    def hear(self, text: str) -> None:
        if not re.search(self.forgiven, text):
            self.complaints.append(text)


@pytest.fixture
def visitor(browser: Browser, fleet: Fleet) -> Iterator[Visitor]:
    visitor = Visitor(browser, fleet)
    yield visitor
    for context in browser.contexts:
        context.close()
    assert visitor.complaints == []


@pytest.fixture(scope="module")
def everything(fleet: Fleet) -> str:
    """A token that allows everything at alpha."""
    return fleet.token(name="everything")


def go(page: Page, path: str) -> None:
    """To a section, as a click on its link does."""
    page.evaluate("path => { location.hash = path; }", f"#/{path}")


def row(page: Page, text: str) -> Locator:
    """The row of a table that begins with a text."""
    return page.locator("tbody tr").filter(has=page.get_by_role("rowheader", name=text))


def problems(page: Page) -> list[str]:
    """What axe-core finds wrong with a page."""
    return [
        f"{found['id']}: {node['html'][:200]}"
        for found in Axe().run(page).response["violations"]
        for node in found["nodes"]
    ]


# ---------------------------------------------------------------------- signing in


def test_a_token_signs_in_a_wrong_one_does_not_and_signing_out_forgets_it(visitor: Visitor, everything: str) -> None:
    visitor.forgiven = "401"
    page = visitor.open()
    expect(page.get_by_label("Token")).to_be_focused()
    assert problems(page) == []
    page.get_by_label("Token").fill("bms_0123456789abcdef_" + "A" * 43)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="not good here")).to_be_visible()
    assert problems(page) == []
    page.get_by_label("Token").fill(everything)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.reload()
    expect(page.locator(".pill.ok")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    page.reload()
    expect(page.get_by_label("Token")).to_have_value("")


def test_a_one_time_link_signs_in_once_and_leaves_the_address(visitor: Visitor, fleet: Fleet) -> None:
    visitor.forgiven = "403"
    link = fleet.bms("dashboard", "--print")
    page = visitor.open("#" + link.partition("#")[2])
    expect(page.locator(".pill.ok")).to_be_visible()
    assert "login" not in page.evaluate("location.href")
    assert page.evaluate("history.length") <= 2
    again = visitor.open("#" + link.partition("#")[2])
    expect(again.get_by_role("alert").filter(has_text="does not sign in")).to_be_visible()


def test_a_page_whose_token_is_revoked_is_signed_out_at_once(visitor: Visitor, fleet: Fleet, everything: str) -> None:
    visitor.forgiven = "401|WebSocket"
    guest = visitor.open(token=fleet.token("*:read", name="guest"))
    page = visitor.open("#/tokens", token=everything)
    row(page, "guest").get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row(page, "guest")).to_have_count(0)
    expect(guest.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_token_for_reading_is_not_offered_to_take_messages(visitor: Visitor, fleet: Fleet) -> None:
    page = visitor.open("#/messages", token=fleet.token("*:read"))
    expect(page.get_by_text("Taking what waits needs messages:take.")).to_be_visible()
    expect(page.get_by_label("Take messages on topics")).to_have_count(0)
    assert problems(page) == []


def test_what_a_token_does_not_allow_is_said_and_not_offered(visitor: Visitor, fleet: Fleet) -> None:
    page = visitor.open(token=fleet.token("status:read", "nodes:read", "data:read"))
    expect(page.get_by_role("link", name="Messages (not allowed to this token)")).to_be_visible()
    for path, scope in (("messages", "messages:read"), ("logs", "logs:read"), ("tokens", "tokens:read")):
        go(page, path)
        expect(page.get_by_text(f"it lacks {scope}")).to_be_visible()
        assert problems(page) == []
    go(page, "data")
    expect(page.get_by_label("Prefix of the keys")).to_be_visible()
    expect(page.get_by_role("button", name="New key")).to_have_count(0)
    go(page, "nodes")
    expect(row(page, "bravo")).to_be_visible()
    expect(page.get_by_text("Connect to a node")).to_have_count(0)


# ---------------------------------------------------------------------- all sections


@pytest.mark.parametrize(
    ("scheme", "size"), [("light", WIDE), ("dark", WIDE), ("light", TELEPHONE)], ids=["light", "dark", "telephone"]
)
def test_all_sections_are_drawn_accessible_and_within_the_width(
    visitor: Visitor, fleet: Fleet, everything: str, scheme: str, size: tuple[int, int]
) -> None:
    fleet.bms("put", "shown/text", "a value", node="bravo")
    page = visitor.open(token=everything, scheme=scheme, size=size)
    expect(page.get_by_text("of 5 alive")).to_be_visible()
    expect(page.locator(".plot-line").nth(3)).to_be_attached()
    other = fleet.members["charlie"].ready["node_id"]
    shown = {
        "map": page.locator(".map-node"),
        "nodes": row(page, "echo"),
        "sync": row(page, "echo"),
        "data": row(page, "shown/text"),
        "logs": page.locator(".log-line"),
        "report": page.locator("pre", has_text="health"),
        "tokens": row(page, "everything"),
        "config": page.get_by_text("node_timeout"),
    }
    for path in (*SECTIONS, f"nodes/{other}", f"nodes/{fleet.members['alpha'].ready['node_id']}"):
        go(page, path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".side a[aria-current=page]")).to_have_count(1)
        if path in shown:
            expect(shown[path].first).to_be_visible()
        if path == "data":
            page.get_by_role("button", name="shown/text").click()
            expect(page.locator("pre.value")).to_have_text("a value")
        assert (path, problems(page)) == (path, [])
        assert (path, page.evaluate("document.documentElement.scrollWidth - innerWidth")) == (path, 0)


def test_the_colours_follow_the_system_until_somebody_chooses(visitor: Visitor, everything: str) -> None:
    page = visitor.open(token=everything, scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.get_by_role("button", name="Colours: as the system").click()
    light = page.evaluate(background)
    assert light != dark
    page.reload()
    expect(page.get_by_role("button", name="Colours: light")).to_be_visible()
    assert page.evaluate(background) == light
    page.emulate_media(color_scheme="light")
    page.get_by_role("button", name="Colours: light").click()
    assert page.evaluate(background) == dark


def test_everything_can_be_reached_by_keyboard(visitor: Visitor, everything: str) -> None:
    page = visitor.open("#/map", token=everything)
    expect(page.locator(".map-node")).to_have_count(5)
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()
    page.keyboard.press("Tab")  # the first node of the map
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert re.match(r"(alpha, this node|bravo|charlie|delta|echo): alive, 4 links", focused), focused
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name=focused.split(":")[0].split(",")[0])).to_be_visible()
    go(page, "tokens")
    revoke = row(page, "everything").get_by_role("button", name="Revoke")
    revoke.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(revoke).to_be_focused()


def test_a_telephone_opens_and_shuts_the_sections(visitor: Visitor, everything: str) -> None:
    page = visitor.open(token=everything, size=TELEPHONE)
    menu = page.get_by_role("button", name="Sections")
    expect(page.get_by_role("link", name="Messages", exact=True)).to_be_hidden()
    menu.click()
    expect(menu).to_have_attribute("aria-expanded", "true")
    assert problems(page) == []
    page.get_by_role("link", name="Messages", exact=True).click()
    expect(page.get_by_role("heading", name="Messages", level=1)).to_be_visible()
    expect(menu).to_have_attribute("aria-expanded", "false")


# ---------------------------------------------------------------------- how it went

_CURSORS = """() => [...document.querySelectorAll(".plot-when")].map((text) => text.textContent)"""


def seconds_of_day(page: Page, text: str | None = None) -> int:
    """A time of day as the page writes it, or that of now, in seconds."""
    clock = text or str(page.evaluate("import('/static/js/format.js').then((m) => m.clock(Date.now() / 1000))"))
    hours, minutes, seconds = map(int, clock.split(":"))
    return hours * 3600 + minutes * 60 + seconds


def test_the_plots_show_at_once_what_went_on_before_the_page_was_opened(visitor: Visitor, everything: str) -> None:
    page = visitor.open(token=everything)
    opened = seconds_of_day(page)
    page.get_by_role("button", name="10 min").click()
    expect(page.get_by_role("button", name="10 min")).to_have_attribute("aria-pressed", "true")
    plot = page.get_by_role("img", name=re.compile("^Throughput: received"))
    # The pointer at the beginning of one plot: the earliest sample there is, at the same moment in all four.
    plot.hover(position={"x": 60, "y": 40})
    expect(page.locator(".plot-when")).to_have_count(4)
    page.wait_for_function(f"({_CURSORS})().every((text, at, all) => text === all[0])")
    earliest = seconds_of_day(page, page.evaluate(_CURSORS)[0])
    assert 4 < (opened - earliest) % 86_400 < 3600
    assert problems(page) == []
    page.get_by_role("button", name="12 h").click()
    expect(plot.get_by_text("−9 h")).to_be_attached()
    expect(plot.locator(".plot-line").first).to_have_attribute("d", re.compile("L"))
    go(page, "map")
    go(page, "")
    expect(page.get_by_role("button", name="12 h")).to_have_attribute("aria-pressed", "true")


def test_ages_are_told_by_the_nodes_clock_and_health_is_seen_from_every_page(visitor: Visitor, everything: str) -> None:
    page = visitor.open("#/nodes", token=everything)
    page.add_init_script("const real = Date.now.bind(Date); Date.now = () => real() + 3_600_000;")
    checks = [{"name": "disk", "status": "degraded", "reason": "nearly full"}]
    page.route("**/api/v1/health", lambda route: route.fulfill(json={"status": "degraded", "checks": checks}))
    page.reload()
    expect(row(page, "bravo")).to_contain_text(re.compile(r"now|\d s ago"))
    expect(row(page, "bravo")).not_to_contain_text("h ago")
    expect(page.get_by_role("link", name="Overview").filter(has_text="degraded")).to_be_visible()
    assert problems(page) == []


# ---------------------------------------------------------------------- nodes come and go


def test_a_killed_node_and_its_return_are_seen_and_its_own_page_says_since_when(
    visitor: Visitor, fleet: Fleet, everything: str
) -> None:
    visitor.forgiven = "ERR_|WebSocket|Failed to load resource"  # of the page whose node is gone
    overview, nodes, map_ = (visitor.open(f"#/{path}", token=everything) for path in ("", "nodes", "map"))
    orphan = visitor.open("#/nodes", token=fleet.token(node="echo"), node="echo")
    expect(row(orphan, "alpha")).to_be_visible()
    expect(map_.locator(".map-node.is-alive")).to_have_count(5)
    overview.evaluate(_HEAR)

    fleet.end("echo", signal.SIGKILL)
    try:
        _see_it_gone(overview, nodes, map_, orphan)
    finally:
        fleet.start("echo")
    expect(map_.locator(".map-node.is-alive")).to_have_count(5)
    expect(row(nodes, "echo")).to_contain_text("alive")
    expect(overview.get_by_role("link", name="echo joined").first).to_be_visible()
    go(orphan, "nodes")
    # A pointer would wait for a button that is gone if the page had connected by itself in that moment.
    orphan.get_by_role("button", name="Try now", include_hidden=True).dispatch_event("click")
    expect(orphan.locator(".pill.ok", has_text="Live")).to_be_visible()
    expect(orphan.locator(".banner")).to_be_hidden()


_HEAR = """() => {
  const region = document.getElementById("polite");
  window.heard = [];
  new MutationObserver(() => window.heard.push(region.textContent)).observe(region, { childList: true });
}"""
"""Remember what a screen reader would be told."""


def _see_it_gone(overview: Page, nodes: Page, map_: Page, orphan: Page) -> None:
    expect(orphan.locator(".banner")).to_contain_text(re.compile(r"Not connected since \d\d:\d\d:\d\d.*is from \d\d:"))
    expect(orphan.locator(".pill", has_text="Disconnected")).to_be_visible()
    expect(row(orphan, "alpha")).to_be_visible()  # what was known stays, marked as old
    expect(row(orphan, "alpha")).to_contain_text(re.compile(r"\d s ago|min ago"))  # and grows older
    assert problems(orphan) == []
    go(orphan, "")
    expect(orphan.locator(".plot").first.get_by_text(re.compile(r"^\d\d:\d\d:\d\d$"))).to_be_attached()
    expect(orphan.locator(".plot").get_by_text("now", exact=True)).to_have_count(0)
    expect(map_.get_by_label(re.compile("echo: failed"))).to_be_visible()
    expect(row(nodes, "echo")).to_contain_text("failed")
    expect(overview.get_by_role("link", name="echo failed").first).to_be_visible()
    expect(overview.locator(".tile", has_text="of 5 alive")).to_contain_text("1 failed")
    overview.wait_for_function("window.heard.includes('Node echo failed')")
    assert problems(map_) == []


def test_a_node_that_stops_says_so_and_the_page_goes_on_when_it_is_back(visitor: Visitor, fleet: Fleet) -> None:
    visitor.forgiven = "ERR_|WebSocket|Failed to load resource"
    page = visitor.open(token=fleet.token(node="charlie"), node="charlie")
    fleet.end("charlie", signal.SIGTERM)
    try:
        expect(page.locator(".banner")).to_contain_text(re.compile("the node stops.*Next attempt in [2-9] s"))
    finally:
        fleet.start("charlie")
    expect(page.locator(".pill.ok", has_text="Live")).to_be_visible()
    expect(page.locator(".banner")).to_be_hidden()


def test_a_node_that_hangs_is_not_called_live(visitor: Visitor, fleet: Fleet) -> None:
    visitor.forgiven = "ERR_|WebSocket|Failed to load resource"
    page = visitor.open(token=fleet.token(node="delta"), node="delta")
    process = fleet.members["delta"].process
    process.send_signal(signal.SIGSTOP)
    try:
        expect(page.locator(".banner")).to_contain_text("nothing was heard for 8 s")
    finally:
        process.send_signal(signal.SIGCONT)
    expect(page.locator(".pill.ok", has_text="Live")).to_be_visible()


def test_what_happened_while_a_page_was_away_is_made_up_for(visitor: Visitor, fleet: Fleet, everything: str) -> None:
    visitor.forgiven = "ERR_|WebSocket|Failed to load resource"
    page = visitor.open("#/messages", token=everything)
    page.context.set_offline(True)
    page.evaluate("window.dispatchEvent(new Event('offline'))")
    fleet.bms("broadcast", "first, unseen", "--topic", "away", node="bravo")
    fleet.bms("send", "alpha", "second, unseen", "--topic", "away", node="bravo")
    page.context.set_offline(False)
    for text in ("first, unseen", "second, unseen"):
        expect(page.locator(".message", has_text=text)).to_have_count(1)


# ---------------------------------------------------------------------- data, messages


def test_keys_are_listed_shown_changed_and_deleted_and_others_changes_are_seen(
    visitor: Visitor, fleet: Fleet, everything: str
) -> None:
    visitor.forgiven = "412"
    page = visitor.open("#/data/doc%2F", token=everything)
    expect(page.get_by_text("There is no key with this prefix.")).to_be_visible()
    fleet.bms("put", "doc/b", "from bravo", node="bravo")
    fleet.bms("put", "other", "elsewhere", node="bravo")
    expect(row(page, "doc/b")).to_contain_text("bravo")
    expect(row(page, "other")).to_have_count(0)

    page.get_by_role("button", name="New key").click()
    page.get_by_label("Key", exact=True).fill("doc/a")
    page.get_by_role("textbox", name="Value", exact=True).fill("made here")
    page.get_by_role("button", name="Write").click()
    expect(page.locator("pre.value")).to_have_text("made here")
    expect(page.locator("tbody tr").first).to_contain_text("doc/a")
    assert fleet.bms("get", "doc/a", node="alpha") == "made here"
    page.get_by_role("button", name="Bytes").click()
    expect(page.locator("pre.value")).to_contain_text("6d 61 64 65 20 68 65 72  65")

    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Value of doc/a").fill("changed here")
    fleet.bms("put", "doc/a", "changed by another")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert").filter(has_text="Somebody else changed it")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("pre.value")).to_have_text("changed by another")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Value of doc/a").fill("changed here")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("pre.value")).to_have_text("changed here")
    fleet.bms("put", "doc/a", "changed again")
    expect(page.get_by_text("It was changed meanwhile.")).to_be_visible()
    page.get_by_role("button", name="Show it").click()
    expect(page.locator("pre.value")).to_have_text("changed again")

    page.get_by_role("button", name="Delete").click()
    assert problems(page) == []
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(row(page, "doc/a")).to_have_count(0)
    fleet.bms("rm", "doc/b", node="bravo")
    expect(page.get_by_text("There is no key with this prefix.")).to_be_visible()


def test_whatever_the_mesh_says_is_text_and_every_key_can_be_opened(
    visitor: Visitor, fleet: Fleet, everything: str
) -> None:
    markup = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    keys = [f"odd/{markup}", "odd/../up", "odd//%2F?#&+ ü\t", "odd/'\"`${x}", "odd/" + "long" * 100]
    for key in keys:
        fleet.bms("put", key, markup)
    fleet.bms("broadcast", markup, "--topic", markup)
    page = visitor.open("#/data/odd%2F", token=everything)
    for key in keys:
        shown = page.locator("button.key").filter(has_text=re.compile(f"^{re.escape(key)}$"))
        shown.click()
        expect(page.locator("pre.value")).to_have_text(markup)
        page.get_by_role("button", name="Close").click()
    go(page, "messages")
    expect(page.locator(".message", has_text=markup)).to_be_visible()
    assert page.locator("#app script, .message img, .scroll img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0


def test_messages_are_sent_and_seen_by_topic(visitor: Visitor, fleet: Fleet, everything: str) -> None:
    alpha, bravo = visitor.open("#/messages", token=everything), fleet.token(node="bravo")
    other = visitor.open("#/messages", token=bravo, node="bravo")
    alpha.get_by_role("combobox", name="To").select_option(label="bravo")
    alpha.get_by_role("textbox", name="Topic", exact=True).fill("orders")
    alpha.get_by_label("Body").fill("only for bravo")
    alpha.get_by_role("button", name="Send", exact=True).click()
    expect(alpha.get_by_text("bravo has it.")).to_be_visible()
    message = other.locator(".message", has_text="only for bravo")
    expect(message.get_by_role("link", name="alpha")).to_be_visible()
    expect(message.get_by_text("waits")).to_be_visible()  # nobody has subscribed to its topic
    other.get_by_label("Take messages on topics").fill("orders")
    other.get_by_role("button", name="Take").click()
    expect(message.get_by_text("waits")).to_have_count(0)
    expect(message).to_have_count(1)

    other.get_by_role("textbox", name="Topic", exact=True).fill("news")
    other.get_by_label("Body").fill("for everybody")
    other.get_by_role("button", name="Send", exact=True).click()
    expect(other.get_by_text("On its way to 4 other nodes")).to_be_visible()
    expect(alpha.locator(".message", has_text="for everybody")).to_be_visible()
    alpha.locator(".topics button", has_text="news").click()
    expect(alpha.locator(".message", has_text="for everybody")).to_be_visible()
    other.locator(".topics button", has_text="orders").click()
    expect(other.locator(".message", has_text="for everybody")).to_have_count(0)
    expect(other.get_by_role("region", name="Messages, newest first").locator(".message")).not_to_have_count(0)
    assert problems(other) == []


# ---------------------------------------------------------------------- this node


def test_reconciling_measuring_and_the_report_say_what_came_of_it(visitor: Visitor, everything: str) -> None:
    page = visitor.open("#/sync", token=everything)
    expect(page.locator("tbody tr")).to_have_count(4)
    expect(page.get_by_text("4 of 4 peers hold the same")).to_be_visible()  # by the node's own rounds
    expect(page.locator("tbody tr", has_text="both hold the same")).to_have_count(4)
    page.get_by_role("button", name="Reconcile with all now").click()
    expect(page.get_by_role("button", name="Reconcile with all now")).to_be_enabled()
    expect(page.get_by_text("4 of 4 peers hold the same")).to_be_visible()
    expect(page.locator("tbody tr", has_text=re.compile(r"now|\b\d s ago"))).to_have_count(4)
    assert problems(page) == []
    go(page, "report")
    page.get_by_role("button", name="Measure now").click()
    expect(row(page, "bravo")).to_be_visible()
    with page.expect_download() as caught:
        page.get_by_role("button", name="One page with plots").click()
    name, text = caught.value.suggested_filename, caught.value.path().read_text()
    assert re.fullmatch(r"bms-alpha-[\dT-]+\.html", name)
    assert "<svg" in text
    assert "<script" not in text


def test_settings_that_may_change_change_and_the_log_tells(visitor: Visitor, fleet: Fleet, everything: str) -> None:
    visitor.forgiven = "422"
    page = visitor.open("#/config", token=everything)
    page.get_by_label("Find settings").fill("sync_interval")
    page.get_by_role("button", name="Change sync_interval").click()
    page.get_by_role("dialog").get_by_role("textbox").fill("21.5")
    assert problems(page) == []
    page.get_by_role("button", name="Put in force").click()
    expect(page.get_by_text("Changed: sync_interval")).to_be_visible()
    expect(page.locator(".setting-value")).to_contain_text("21.5")
    page.get_by_role("button", name="Change sync_interval").click()
    page.get_by_role("dialog").get_by_role("textbox").fill("-1")
    page.keyboard.press("Enter")
    expect(page.locator(".notice.bad", has_text="sync_interval")).to_be_visible()
    page.get_by_label("Find settings").fill("node_name")
    expect(page.locator(".settings li", has_text="What people call this node")).to_contain_text("fixed")

    go(page, "logs")
    page.get_by_label("Find in the log").fill("bravo")
    expect(page.locator(".log-line", has_text="joined").first).to_be_visible()
    page.get_by_label("Least level").select_option("error")
    expect(page.get_by_text("Nothing was logged that fits.")).to_be_visible()
    page.get_by_label("Least level").select_option("debug")
    page.get_by_label("Find in the log").fill("")
    before = page.locator(".log-line").count()
    page.get_by_role("button", name="Pause").click()
    fleet.bms("drain", node="charlie")
    fleet.members["charlie"].process.wait(PROCESS_S)
    fleet.end("charlie", signal.SIGTERM)
    expect(page.locator(".log-line")).to_have_count(before)
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(".log-line", has_text="charlie").first).to_be_visible()
    fleet.start("charlie")


def test_a_token_is_issued_shown_once_and_good(visitor: Visitor, everything: str) -> None:
    page = visitor.open("#/tokens", token=everything)
    page.get_by_label("Name", exact=True).fill("from the page")
    page.get_by_role("button", name="Choose all reading").click()
    life = page.get_by_label("Good for")  # no longer than the token that it is asked for with
    expect(life.get_by_role("option")).to_have_text(["an hour", "a day", re.compile("as long as yours: 29 d")])
    page.get_by_role("button", name="Issue", exact=True).click()
    token = page.get_by_label("The new token").input_value()
    expect(row(page, "from the page")).to_contain_text("tokens:read")
    expect(row(page, "from the page")).not_to_contain_text("data:write")
    guest = visitor.open("#/tokens", token=token)
    expect(row(guest, "from the page")).to_contain_text("yours")
    expect(guest.get_by_role("button", name="Revoke")).to_have_count(0)
    go(page, "nodes")
    go(page, "tokens")
    expect(page.get_by_label("The new token")).to_have_count(0)


def test_tags_of_this_node_are_set_and_others_see_them(visitor: Visitor, fleet: Fleet, everything: str) -> None:
    own = fleet.members["alpha"].ready["node_id"]
    page = visitor.open(f"#/nodes/{own}", token=everything)
    other = visitor.open("#/nodes", token=fleet.token(node="bravo"), node="bravo")
    page.get_by_label("Tag", exact=True).fill("zone")
    page.get_by_role("textbox", name="Value", exact=True).fill("north")
    page.get_by_role("button", name="Set").click()
    expect(page.get_by_role("button", name="Remove the tag zone")).to_be_visible()
    expect(row(other, "alpha")).to_contain_text("north")
    other.get_by_label("Find nodes").fill("north")
    expect(other.locator("tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Remove the tag zone").click()
    expect(page.get_by_text("This node has no tags.")).to_be_visible()


# ---------------------------------------------------------------------- the modules by themselves

_LARGE = """async () => {
  const places = ["model", "pages/nodes", "pages/map"].map((name) => import(`/static/js/${name}.js`));
  const [{ Model }, { nodesPage }, { mapPage }] = await Promise.all(places);
  const id = (n) => n.toString(16).padStart(64, "0");
  const model = new Model();
  model.me = { scopes: ["nodes:read"], node_id: id(0) };
  const nodes = Array.from({ length: 5000 }, (_, n) => ({
    node_id: id(n), name: `n${n}`, address: `10.0.0.${n % 250}:7800`, state: n % 1000 === 999 ? "failed" : "alive",
    tags: {}, incarnation: 1, rtt_s: (n % 97) / 1000, last_seen: 0,
  }));
  const links = nodes.slice(1, 400).map((node) => ({
    node_id: node.node_id, by: id(0), rtt_s: node.rtt_s, loss: 0, age_s: 1, dialed: true,
  }));
  const box = document.getElementById("app");
  box.replaceChildren();
  const begun = performance.now();
  const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const ends = [nodesPage, mapPage].map((open) => {
    const at = document.createElement("div");
    box.append(at);
    return open(at, { model, feed: { wantMesh() {} }, rest: "" });
  });
  model.takeTopology({ nodes: [], links, suspicions: [] });
  for (let turn = 0; turn < 5; turn += 1) {
    model.takeNodes(nodes);
    await frame();
  }
  for (const end of ends) end();
  const count = (selector) => box.querySelectorAll(selector).length;
  return {
    ms: performance.now() - begun, rows: count("tbody tr"), drawn: count(".map-node"),
    failed: count(".map-node.is-failed"), text: box.textContent,
  };
}"""


def test_five_thousand_nodes_do_not_freeze_a_page(visitor: Visitor) -> None:
    found = visitor.open().evaluate(_LARGE)
    assert found["drawn"] == 150
    assert found["failed"] == 5  # the worst come first
    assert found["rows"] == 100  # a page of nodes, a page of links
    assert "150 of 5,000 nodes" in found["text"]
    assert found["ms"] < 10_000


_CROWD = """async (count) => {
  const places = ["model", "pages/map"].map((name) => import(`/static/js/${name}.js`));
  const [{ Model }, { mapPage }] = await Promise.all(places);
  const id = (n) => (n * 2654435761 % 4294967296).toString(16).padStart(8, "0").padEnd(64, "0");
  const model = new Model();
  model.me = { scopes: ["nodes:read"], node_id: id(0) };
  const nodes = Array.from({ length: count }, (_, n) => ({
    node_id: id(n), name: n % 3 ? `node-${n}` : `frankfurt-rack7-${n}`, address: "10.0.0.1:7800",
    state: n % 17 === 16 ? "failed" : "alive", tags: {}, incarnation: 1, rtt_s: n / 1000, last_seen: 0,
  }));
  const links = nodes.slice(1).flatMap((node, n) => [1, 2].map((k) => ({
    node_id: id((n * 7 + k * 13) % (n + 1)), by: node.node_id, rtt_s: (n * 31 + k) % 89 / 2000, loss: 0, age_s: 1,
  })));
  const box = document.getElementById("app"), at = document.createElement("div");
  box.replaceChildren(at);
  const end = mapPage(at, { model, feed: { wantMesh() {} }, rest: "" });
  model.takeTopology({ nodes: [], links, suspicions: [] });
  model.takeNodes(nodes);
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const all = [...box.querySelectorAll(".map text, .map .shape")];
  const drawn = all.map((one) => [one.textContent, one.getBoundingClientRect()]);
  const shared = (a, b, low, high) => Math.min(a[high], b[high]) - Math.max(a[low], b[low]);
  const isOver = (a, b) => shared(a, b, "left", "right") > 1 && shared(a, b, "top", "bottom") > 2;
  const pairs = drawn.flatMap(([text, a], n) => drawn.slice(n + 1).map(([other, b]) => [text, other, isOver(a, b)]));
  end();
  const counted = (selector) => box.querySelectorAll(selector).length;
  return {
    over: pairs.filter(([text, other, is]) => is && (text || other)),
    names: counted(".map-name"), words: counted(".map-word"), told: counted(".map-node title"),
  };
}"""


@pytest.mark.parametrize(("count", "size", "least"), [(5, TELEPHONE, 5), (12, WIDE, 12), (60, WIDE, 20)])
def test_labels_of_the_map_lie_on_nothing_else(visitor: Visitor, count: int, size: tuple[int, int], least: int) -> None:
    found = visitor.open(size=size).evaluate(_CROWD, count)
    assert found["over"] == []
    assert found["names"] >= least  # those that have no room show their name when they are pointed at
    assert found["words"] == 1 + count // 17  # this node, and all that are not well
    assert found["told"] == count


_LAST = [96, 97, 98]
_NAMED_LATER = """((model) => {
  model.note(1, "node", () => `by ${model.nameOf("ab")}`);
  model.nodes.set("ab", { name: "late" });
  return model.activity.last.text;
})(new m.Model())"""
_FORMATS: list[tuple[str, str, object]] = [
    ("format", "m.bytes(0)", "0 B"),
    ("format", "m.bytes(1023.9)", "1.00 KiB"),
    ("format", "m.bytes(1536)", "1.50 KiB"),
    ("format", "m.bytes(null)", "–"),
    ("format", "m.seconds(0.00042)", "420 µs"),
    ("format", "m.seconds(1.234)", "1.2 s"),
    ("format", "m.age(93784)", "1 d 2 h"),
    ("format", "m.plural(1, 'node')", "1 node"),
    ("format", "m.textOf(new Uint8Array([0xff]))", None),
    ("format", "m.textOf(new Uint8Array([0x61, 0x0a]))", "a\n"),
    ("format", "[...m.fromBase64('_-8=')]", [255, 239]),
    ("format", "m.fromBase64('!')", None),
    (
        "samples",
        "m.merged([{ time: 5, span: 5 }, { time: 10, span: 5 }], [{ time: 9 }]).map((one) => one.time)",
        [5, 9],
    ),
    ("plot", "m.axis(0)", [1, 1]),
    ("plot", "m.axis(2900, 1024)", [1024, 3]),
    ("plot", "m.axis(0.0042)", [0.002, 3]),
    ("model", "m.scopeCovers('data:*', 'data:write')", True),
    ("model", _NAMED_LATER, "by late"),
    ("model", "m.scopeCovers('*:read', 'data:write')", False),
    ("api", "m.keyPath('default', 'a/../b c')", "/data/default/a%2F..%2Fb%20c"),
    ("api", "m.keyPath('default', new Uint8Array([0xff, 0]))", "/data/default/%ff%00"),
    ("pages/config", "m.parsed('7800', null, '0 to 65,535')", 7800),
    ("pages/config", "m.parsed('', null)", None),
    ("pages/config", "m.parsed('a, b', [])", ["a", "b"]),
    ("pages/config", "m.parsed('1', 'text')", "1"),
    (
        "ring",
        "(({ r }) => { for (let n = 0; n < 99; n += 1) r.push(n); return r.all(); })({ r: new m.Ring(3) })",
        _LAST,
    ),
]


def test_figures_ranges_and_paths_are_written_as_they_should_be(visitor: Visitor) -> None:
    page = visitor.open()
    look: Callable[[str, str], object] = lambda module, source: page.evaluate(  # noqa: E731 - read beside its use
        f"async () => {{ const m = await import('/static/js/{module}.js'); return {source}; }}"
    )
    assert [(source, look(module, source)) for module, source, _ in _FORMATS] == [
        (source, wanted) for _, source, wanted in _FORMATS
    ]
