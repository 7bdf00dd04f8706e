"""A headless Chromium for the tests of pages; a test is skipped where there is none."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


@contextmanager
def browser(folder: Path, *, width: int = 1200, height: int = 900) -> Iterator[webdriver.Chrome]:
    """Open Chromium with a profile and a download folder of its own, in `folder`."""
    binary = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium and chromedriver here (apt install chromium chromium-driver)")
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        *FLAGS,
        f"--window-size={width},{height}",
        f"--user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


def told(driver: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """Return what the browser has logged since the last call: "browser" or "performance"."""
    entries: list[dict[str, Any]] = driver.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def phone(driver: webdriver.Chrome) -> None:
    """Look at the page as on a phone, 390 CSS pixels wide."""
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(driver: webdriver.Chrome, scheme: str) -> None:
    """Have the system ask for light or dark colours, and for no motion."""
    wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


SHIFTS = """
  const done = arguments[0];
  let sum = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) sum += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
  requestAnimationFrame(() => setTimeout(() => done(sum), 300));
"""
"""Adds up what moved, whether or not a person had just typed."""


IN_SIGHT = """
  const head = document.querySelector("#rows thead").getBoundingClientRect().bottom;
  const end = document.getElementById("rows-box").getBoundingClientRect().bottom;
  return [...document.querySelectorAll("#rows tbody tr[data-row]")]
    .map((row) => [row.getBoundingClientRect(), row.querySelector(".open").textContent])
    .filter(([place]) => place.top >= head - 1 && place.bottom <= end + 1)
    .sort(([a], [b]) => a.top - b.top)
    .map(([, id]) => id);
"""


def ids(driver: Chrome) -> list[str]:
    """Return the ids of the rows that can be seen whole, from the top."""
    return list(driver.execute_script(IN_SIGHT))


def scroll_to(driver: Chrome, share: float) -> None:
    """Scroll the table to this share of its height, and wait for the frame that shows it."""
    driver.execute_async_script(
        "const box = document.getElementById('rows-box');"
        "box.scrollTop = arguments[0] * (box.scrollHeight - box.clientHeight);"
        "requestAnimationFrame(() => requestAnimationFrame(arguments[1]));",
        share,
    )


def click(driver: Chrome, selector: str) -> None:
    """Click the element, in the middle of the window."""
    element = driver.find_element(By.CSS_SELECTOR, selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def text(driver: Chrome, selector: str) -> str:
    """Return the text of the element that is shown."""
    return driver.find_element(By.CSS_SELECTOR, selector).text


def press(driver: Chrome, *keys: str) -> None:
    """Press keys, one after the other, wherever the keyboard is."""
    for key in keys:
        driver.switch_to.active_element.send_keys(key)


def wait_for(driver: Chrome, what: Callable[[Chrome], Any]) -> Any:
    """Wait until `what` finds something, and return it."""
    return WebDriverWait(driver, 60).until(what)
