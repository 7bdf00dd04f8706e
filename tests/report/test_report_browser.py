"""The report in a real browser: what a person does with it, by mouse and by keyboard."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from axe import violations
from report_browser import (
    SHIFTS,
    browser,
    click,
    ids,
    phone,
    prefer,
    press,
    scroll_to,
    text,
    told,
    wait_for,
)
from report_runs import TASK, confidences, reviews, write_run
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import alert_is_present
from selenium.webdriver.support.ui import Select
from test_report import HOSTILE

from icm_client.data import JsonValue, read_rows
from icm_client.data.job import Job
from icm_client.record.archive import Run
from icm_client.report.report import write_report
from icm_client.runs.labels_file import read_pins, read_start


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def chromium(place: Path) -> Iterator[Chrome]:
    with browser(place) as driver:
        yield driver


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    return write_run(place / "runs", reviews(120), gold="label")


@pytest.fixture
def page(chromium: Chrome, run: Run, place: Path) -> Iterator[Chrome]:
    """The report, opened anew with nothing kept; at the end no error and no request is allowed."""
    yield from opened(chromium, run, place)


def opened(driver: Chrome, run: Run, place: Path) -> Iterator[Chrome]:
    path = place / f"{run.name}.html"
    write_report(run, path)
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    prefer(driver, "light")
    driver.get("about:blank")
    driver.get(path.as_uri())
    driver.execute_script("localStorage.clear()")
    told(driver, "browser")
    told(driver, "performance")
    driver.refresh()
    yield driver
    assert told(driver, "browser") == []
    assert requests(driver) <= {path.as_uri()}


def requests(driver: Chrome) -> set[str]:
    messages = (json.loads(entry["message"])["message"] for entry in told(driver, "performance"))
    urls = (
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    )
    return {url for url in urls if not url.startswith(("data:", "blob:"))}


def sort_state(driver: Chrome) -> dict[str, str]:
    headers = driver.find_elements(By.CSS_SELECTOR, "th[aria-sort]")
    found = {
        str(one.find_element(By.TAG_NAME, "button").get_attribute("data-sort")): str(
            one.get_attribute("aria-sort")
        )
        for one in headers
    }
    return {name: state for name, state in found.items() if state != "none"}


def least_certain(n: int) -> list[str]:
    return [f"r{i}" for i in sorted(range(n), key=confidences(n).__getitem__)]


def download(driver: Chrome, place: Path, button: str, name: str) -> Path:
    path = place / "downloads" / name
    path.unlink(missing_ok=True)
    click(driver, button)
    # Chromium reserves the name with an empty file, and writes beside it.
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.exists(), "nothing was downloaded"
    return path


def test_columns_sort_and_say_how(page: Chrome) -> None:
    order = least_certain(120)
    assert sort_state(page) == {"confidence": "ascending"}
    seen = ids(page)
    assert len(seen) > 5
    assert seen == order[: len(seen)]
    click(page, "button[data-sort=confidence]")
    assert sort_state(page) == {"confidence": "descending"}
    assert ids(page) == order[::-1][: len(seen)]
    click(page, "button[data-sort=order]")
    assert sort_state(page) == {"order": "ascending"}
    assert ids(page) == [f"r{i}" for i in range(len(seen))]
    click(page, "button[data-sort=label]")
    assert ids(page)[:3] == ["r0", "r2", "r4"]


def test_all_rows_come_into_sight_and_few_are_in_the_page(page: Chrome) -> None:
    order, seen = least_certain(120), []
    for share in np.linspace(0, 1, 40):
        scroll_to(page, share)
        shown = ids(page)
        assert shown == order[(first := order.index(shown[0])) : first + len(shown)]
        seen += [one for one in shown if one not in seen]
        assert len(page.find_elements(By.CSS_SELECTOR, "#rows tbody tr")) < 60
    assert seen == order
    table = page.find_element(By.ID, "rows")
    assert table.get_attribute("aria-rowcount") == "121"
    last = page.find_elements(By.CSS_SELECTOR, "#rows tbody tr")[-1]
    assert last.get_attribute("aria-rowindex") == "121"


def test_the_keyboard_goes_through_rows_beyond_those_in_sight(page: Chrome) -> None:
    page.execute_script("document.querySelector('#rows tbody .open').focus()")
    press(page, *[Keys.ARROW_DOWN] * 70)
    order = least_certain(120)
    assert page.switch_to.active_element.text == order[70]
    assert order[70] in ids(page)
    scroll_to(page, 0)
    assert page.switch_to.active_element.text == order[70], "the keyboard's place is kept"
    press(page, Keys.ARROW_UP)
    assert page.switch_to.active_element.text == order[69]
    page.execute_script("document.getElementById('rows-box').focus()")
    press(page, Keys.END)
    wait_for(page, lambda driver: order[119] in ids(driver))


def test_filters_and_search(page: Chrome) -> None:
    Select(page.find_element(By.ID, "by-label")).select_by_visible_text("negative")
    assert text(page, "#found") == "60 of 120 rows"
    Select(page.find_element(By.ID, "by-confidence")).select_by_visible_text("under 75%")
    under = [i for i, share in enumerate(confidences(120)) if share < 0.75 and i % 2]
    assert text(page, "#found") == f"{len(under)} of 120 rows"
    shown = ids(page)
    scroll_to(page, 1)
    assert {*shown, *ids(page)} <= {f"r{i}" for i in under}
    Select(page.find_element(By.ID, "by-label")).select_by_visible_text("all")
    Select(page.find_element(By.ID, "by-confidence")).select_by_visible_text("any")
    Select(page.find_element(By.ID, "by-check")).select_by_visible_text("unlike gold")
    assert text(page, "#found") == "24 of 120 rows"
    Select(page.find_element(By.ID, "by-check")).select_by_visible_text("all rows")
    search = page.find_element(By.ID, "search")
    search.send_keys("WORDS of row 11")
    assert text(page, "#found") == "11 of 120 rows"
    shown = ids(page)
    scroll_to(page, 1)
    assert sorted({*shown, *ids(page)}) == ["r11", *(f"r{i}" for i in range(110, 120))]
    search.send_keys("x")
    assert "No row is like that" in text(page, "#rows tbody")


def test_labels_are_corrected_by_mouse_kept_and_downloaded(
    page: Chrome, run: Run, place: Path
) -> None:
    order = least_certain(120)
    assert not page.find_element(By.ID, "download-checked").is_enabled()
    other = "positive" if int(order[0][1:]) % 2 else "negative"
    number = TASK.labels.index(other) + 1
    click(page, f"#deck-labels button:nth-child({number})")
    assert text(page, "#checked-count") == "1 row checked, 1 of them corrected."
    assert page.find_element(By.ID, "download-checked").is_enabled()  # one row can be pinned
    row = page.find_element(By.CSS_SELECTOR, f'tr[data-row="{order[0][1:]}"]')
    assert "corrected" in str(row.get_attribute("class"))
    choice = page.find_elements(By.CSS_SELECTOR, "#rows tbody select")[2]
    same = "negative" if int(order[2][1:]) % 2 else "positive"
    Select(choice).select_by_visible_text(same)
    assert text(page, "#checked-count") == "2 rows checked, 1 of them corrected."
    page.refresh()
    assert text(page, "#checked-count") == "2 rows checked, 1 of them corrected."
    path = download(page, place, "#download-checked", f"{run.name}.checked.jsonl")
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    by_place = sorted([(order[0], other), (order[2], same)], key=lambda one: int(one[0][1:]))
    assert [(line["id"], line["label"]) for line in lines] == by_place
    assert all(line.keys() == {"id", "label"} for line in lines)
    # and a search starts from it, or keeps it
    rows = [{"id": row["id"], "text": row["text"]} for row in reviews(120)]
    job = Job.prepare(rows, TASK)
    start = read_start(path, job)
    assert not isinstance(start, str)
    assert (start >= 0).sum() == 2
    assert job.labels[start[int(order[0][1:])]] == other
    pinned = read_pins(path, job)
    assert pinned is not None
    assert pinned.tolist() == start.tolist()
    whole = download(page, place, "#download-all", f"{run.name}.corrected.jsonl")
    found = {row.id: row.fields["label"] for row in read_rows(whole).rows}
    assert len(found) == 120
    assert found[order[0]] == other
    assert found["r1" if order[0] != "r1" else "r3"] == "negative"
    click(page, "#forget")
    wait_for(page, alert_is_present()).accept()
    assert text(page, "#checked-count") == "Nothing checked yet."


def test_rows_are_checked_by_keyboard_alone(page: Chrome) -> None:
    press(page, Keys.TAB)
    assert page.switch_to.active_element.get_attribute("class") == "skip"
    press(page, Keys.ENTER)
    for _ in range(3):
        press(page, Keys.TAB)
        if page.switch_to.active_element.get_attribute("id") == "deck-text":
            break
    focused = page.switch_to.active_element
    assert focused.get_attribute("id") == "deck-text"
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.execute_script(outline) == "solid", "focus must be seen"
    order = least_certain(120)
    assert f"row {order[0]}" in text(page, "#deck-place")
    press(page, "1", Keys.ARROW_RIGHT)
    assert f"row {order[1]}" in text(page, "#deck-place")
    press(page, Keys.ENTER, Keys.ARROW_RIGHT, "2")
    assert text(page, "#checked-count").startswith("3 rows checked")
    pressed = page.find_elements(By.CSS_SELECTOR, "#deck-labels [aria-pressed=true]")
    assert [one.text.split()[1] for one in pressed] == ["negative"]
    press(page, Keys.BACKSPACE)
    assert text(page, "#checked-count").startswith("2 rows checked")
    press(page, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert f"row {order[0]}" in text(page, "#deck-place")


def test_the_table_works_by_keyboard_alone(page: Chrome) -> None:
    page.execute_script("document.getElementById('search').focus()")
    press(page, "row 11", Keys.TAB, Keys.ARROW_DOWN, Keys.TAB, Keys.TAB)
    assert text(page, "#found") == "5 of 120 rows"
    while page.switch_to.active_element.get_attribute("data-sort") != "confidence":
        press(page, Keys.TAB)
    press(page, Keys.ENTER)
    assert sort_state(page) == {"confidence": "descending"}
    while page.switch_to.active_element.get_attribute("class") != "open":
        press(page, Keys.TAB)
    row = page.switch_to.active_element.text
    press(page, Keys.TAB, Keys.ARROW_DOWN)
    assert text(page, "#checked-count").startswith("1 row checked")
    page.switch_to.active_element.send_keys(Keys.SHIFT, Keys.TAB)
    press(page, Keys.ENTER)
    assert page.switch_to.active_element.get_attribute("id") == "deck-text"
    assert f"row {row}" in text(page, "#deck-place")


def test_dark_and_light(page: Chrome) -> None:
    paper = "return getComputedStyle(document.documentElement).backgroundColor"
    light = page.execute_script(paper)
    prefer(page, "dark")
    dark = page.execute_script(paper)
    assert light == "rgb(251, 250, 248)"
    assert dark == "rgb(22, 24, 27)"
    click(page, "#theme")
    assert text(page, "#theme") == "Colours: light"
    assert page.execute_script(paper) == light
    click(page, "#theme")
    page.refresh()
    assert text(page, "#theme") == "Colours: dark"
    prefer(page, "light")
    assert page.execute_script(paper) == dark


CONTRAST = """
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const luminance = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => {
      v /= 255;
      return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
    return getComputedStyle(document.documentElement).backgroundColor;
  };
  const poor = [];
  for (const e of document.querySelectorAll("p, dt, dd, h1, h2, h3, td, th, a, small, li, code")) {
    if (!e.innerText?.trim() || e.closest(":disabled")) continue;
    const [a, b] = [luminance(getComputedStyle(e).color), luminance(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${e.tagName} ${e.className} ${ratio.toFixed(2)} ${e.innerText}`);
  }
  return poor;
"""
"""Texts whose contrast is under 4.5 to 1 (WCAG 2.2, 1.4.3)."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("verdict", ["trust", "check", "do not trust"])
def test_every_text_can_be_read(chromium: Chrome, place: Path, scheme: str, verdict: str) -> None:
    run = write_run(place / "runs", reviews(12), seed=9, gold="label", result={"verdict": verdict})
    for page in opened(chromium, run, place):
        prefer(page, scheme)
        assert page.execute_script(CONTRAST) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Chrome, scheme: str) -> None:
    prefer(page, scheme)
    assert violations(page) == []


def test_nothing_moves_while_the_page_opens_or_is_used(page: Chrome) -> None:
    assert page.execute_async_script(SHIFTS) < 0.1
    page.execute_script("document.getElementById('deck-text').focus()")
    press(page, "1", Keys.ARROW_RIGHT, "2", Keys.ARROW_RIGHT, Keys.ENTER, Keys.ARROW_RIGHT)
    click(page, "button[data-sort=order]")
    click(page, "#theme")
    assert page.execute_async_script(SHIFTS) < 0.1


def test_a_phone_needs_no_scrolling_sideways(page: Chrome) -> None:
    phone(page)
    page.refresh()
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.execute_script(wide) <= 0
    small = page.execute_script(
        "return [...document.querySelectorAll('#deck button')].filter("
        "(b) => b.getBoundingClientRect().height < 40).length"
    )
    assert small == 0, "buttons are for fingers"
    assert page.execute_async_script(SHIFTS) < 0.1


def test_hostile_rows_are_shown_and_do_nothing(chromium: Chrome, place: Path) -> None:
    rows = [{"id": f"<i>{i}</i>", "text": text} for i, text in enumerate(HOSTILE)]
    run = write_run(place / "runs", rows, seed=1)
    for page in opened(chromium, run, place):
        title = page.title
        click(page, "button[data-sort=order]")
        assert ids(page) == [f"<i>{i}</i>" for i in range(len(HOSTILE))]
        shown = page.find_elements(By.CSS_SELECTOR, "#rows .excerpt")
        assert shown[0].text == HOSTILE[0]
        assert shown[2].text == HOSTILE[2]
        assert shown[3].text.startswith("\\x01\\x07\\x1b[31m red")
        for number in range(len(HOSTILE)):
            page.find_elements(By.CSS_SELECTOR, "#rows .open")[number].click()
            assert f"row <i>{number}</i>" in text(page, "#deck-place")
        assert page.title == title
        assert page.find_elements(By.CSS_SELECTOR, "img, #rows i, #deck i") == []
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.execute_script(wide) <= 0
        page.find_elements(By.CSS_SELECTOR, "#rows .open")[6].click()
        assert "80,000 more characters in labels.jsonl" in text(page, "#deck-text")
        assert page.execute_async_script(SHIFTS) < 0.1


def test_ten_thousand_rows_sort_and_search_at_once(chromium: Chrome, place: Path) -> None:
    rows: list[dict[str, JsonValue]] = [
        {"id": i, "text": f"row {i} " + "some words " * 20} for i in range(10_000)
    ]
    run = write_run(place / "runs", rows, seed=2)
    for page in opened(chromium, run, place):
        assert text(page, "#found") == "10,000 rows"
        assert len(page.find_elements(By.CSS_SELECTOR, "#rows tbody tr")) < 60
        took = page.execute_script(
            """
            const began = performance.now();
            document.querySelector("button[data-sort=margin]").click();
            const search = document.getElementById("search");
            search.value = "row 77";
            search.dispatchEvent(new Event("input"));
            return performance.now() - began;
            """
        )
        assert text(page, "#found") == "111 of 10,000 rows"
        assert took < 1500  # milliseconds; tens, on a machine that is not busy
        assert page.execute_async_script(SHIFTS) < 0.1


def test_a_browser_that_keeps_nothing_still_works(page: Chrome) -> None:
    page.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument",
        {"source": "Object.defineProperty(window, 'localStorage', {get() { throw new Error(); }})"},
    )
    page.refresh()
    click(page, "#deck-labels button")
    assert text(page, "#checked-count").startswith("1 row checked")
    click(page, "#theme")
    assert text(page, "#theme") == "Colours: light"
