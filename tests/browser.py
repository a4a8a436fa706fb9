"""A headless Chromium for tests of pages; they are skipped, with what to do, where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

REASON = "no browser here: apt-get install chromium chromium-driver, and pip install -e '.[browser]'"


@contextmanager
def headless_browser() -> Iterator[Any]:
    """Selenium's driver of Debian's Chromium, 1280 x 900."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip(REASON)
    webdriver = pytest.importorskip("selenium.webdriver", reason=REASON)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # The sandbox needs rights that root in a container does not give.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield found
    finally:
        found.quit()


def violations(driver: Any) -> list[str]:
    """What the page's security policy refused, and errors of its script."""
    log = [entry["message"] for entry in driver.get_log("browser")]
    return [line for line in log if "Content Security Policy" in line or "Uncaught" in line]


def requested(driver: Any) -> list[str]:
    """Addresses that the page has asked for."""
    names: list[str] = driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    return names
