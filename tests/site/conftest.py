"""The built site, served locally, in headless Chromium. A missing site or browser skips these tests, loudly."""

import functools
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from built_site import SITE, pages
from playwright.sync_api import Browser, Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PATIENCE = 120_000  # milliseconds: two slow cores may be busy with notebooks
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "page_name" in metafunc.fixturenames:
        metafunc.parametrize("page_name", pages() or ["(no site)"])


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    if not pages():
        pytest.skip(f"there is no site in {SITE}: `make book` builds it")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: the site is not checked; install Chromium (looked for {', '.join(BROWSERS)})")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


CUT_OFF = "net::ERR_ABORTED"


class Watched:
    """A browser page that notes what went wrong: console errors, failed requests, requests to another host."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.problems: list[str] = []
        page.on("console", lambda message: self.note(message.type == "error", f"console: {message.text}"))
        page.on("pageerror", lambda error: self.note(True, f"script: {error}"))
        # A request that the next page's opening cut off (the icon's, say) is no defect; a missing file is a 404 below.
        page.on("requestfailed", lambda request: self.note(request.failure != CUT_OFF, f"failed: {request.url}"))
        page.on("response", lambda answer: self.note(answer.status >= 400, f"{answer.status}: {answer.url}"))
        page.route("**/*", self.only_here)

    def note(self, wrong: bool, text: str) -> None:
        if wrong:
            self.problems.append(text)

    def only_here(self, route) -> None:
        """Lets through what the site serves itself; anything else is noted and not sent."""
        if route.request.url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.problems.append(f"another host: {route.request.url}")
            route.abort()

    def open(self, name: str) -> Page:
        self.page.goto(f"{self.address}/{name}", wait_until="load")
        self.page.evaluate("document.fonts.ready")
        return self.page


@pytest.fixture
def watched(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A page 1280 wide and light, unless the test's parameters `width` and `scheme` say otherwise."""
    given = getattr(request.node, "callspec", None)
    options = given.params if given else {}
    width, scheme = options.get("width", 1280), options.get("scheme", "light")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    yield Watched(context.new_page(), address)
    context.close()
