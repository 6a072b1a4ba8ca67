"""A real browser without a window, and what a test does with it."""

import contextlib
import json
import shutil

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")


@contextlib.contextmanager
def driven(profile):
    """Give a browser that keeps its profile in a folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def visit(driver, url):
    """Open a page and wait until its scripts have run: `get` may return before they have.

    A blank page between, as an address that differs in its fragment alone would not load again.
    """
    driver.get("about:blank")
    driver.get(url)
    state = "return [document.readyState, document.URL.split('#')[0]]"
    there = ["complete", url.split("#")[0]]
    WebDriverWait(driver, 60).until(lambda d: d.execute_script(state) == there)


def go_to(driver, fragment):
    """Follow a link within the page and return when the page has answered the event."""
    driver.execute_async_script(
        "const [to, done] = arguments;"
        "addEventListener('hashchange', () => done(), {once: true}); location.hash = to",
        fragment,
    )


def requests(driver):
    events = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
