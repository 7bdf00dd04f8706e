"""What axe-core finds wrong with a page for people who use a keyboard or a screen reader."""

from importlib import resources

import pytest
from selenium.webdriver import Chrome

_RUN = """
  const done = arguments[0];
  const about = (one) => one.nodes.map((node) => node.html.slice(0, 120)).join(" | ");
  axe.run(document, { resultTypes: ["violations"] }).then((found) =>
    done(found.violations.map((one) => `${one.id}: ${one.help}: ${about(one)}`)));
"""


def violations(driver: Chrome) -> list[str]:
    """Return each violation with the elements that it is about."""
    # The package brings axe.min.js; what it does with another browser driver is not needed.
    package = pytest.importorskip("axe_playwright_python")
    source = resources.files(package).joinpath("axe.min.js").read_text("utf-8")
    driver.execute_script(source)
    return list(driver.execute_async_script(_RUN))
