"""The live view in a real browser: what is seen while runs go on, and what a person does there."""

import time
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread
import orjson
import planted_reviews
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
from report_runs import TASK, opened_run, reviews, write_run
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select
from view_server import Served, served

from icm_client import rows_from
from icm_client.data.job import Job
from icm_client.record.archive import Run, read_folder
from icm_client.record.checks import Checks
from icm_client.record.comparison import label_records
from icm_client.runs.ask import choose_rows
from icm_client.testing import PlantedServer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("view")


@pytest.fixture(scope="module")
def chromium(place: Path) -> Iterator[Chrome]:
    with browser(place) as driver:
        yield driver


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def server(base: Path) -> Iterator[Served]:
    with served(base) as found:
        yield found


@pytest.fixture
def page(chromium: Chrome, server: Served) -> Iterator[Chrome]:
    """The list of runs; at the end no error is allowed."""
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    prefer(chromium, "light")
    chromium.get(f"{server.origin}/?token={server.token}")
    chromium.execute_script("localStorage.clear()")
    told(chromium, "browser")
    yield chromium
    assert told(chromium, "browser") == []
    chromium.get("about:blank")


def open_run(driver: Chrome, server: Served, run: Run, part: str = "") -> None:
    driver.get(f"{server.origin}/runs/{run.name}{part}")
    wait_for(driver, lambda one: one.find_elements(By.CSS_SELECTOR, "#rows tbody tr[data-row]"))


def said(run: Run) -> dict[str | int, str | None]:
    return {one.id: one.label for one in Checks(run.path).read()}


def names(driver: Chrome) -> list[str]:
    return [one.text for one in driver.find_elements(By.CSS_SELECTOR, "#runs .c-run a")]


def choose(driver: Chrome, name: str, words: str) -> None:
    Select(driver.find_element(By.ID, name)).select_by_visible_text(words)


def test_a_run_started_elsewhere_appears_and_moves(page: Chrome, base: Path) -> None:
    assert "There is no run here yet" in text(page, "#no-runs")
    job = Job.prepare(rows_from(reviews(40), gold="label"), TASK)
    with opened_run(base, job) as folder:
        began = time.monotonic()
        folder.journal.append("search", preset="fast")
        wait_for(page, lambda driver: names(driver) == [folder.name])
        assert time.monotonic() - began < 5  # seconds; under one, on a machine that is not busy
        assert text(page, "#runs .state") == "running"
        sweep = {
            "restart": 0,
            "moved": 10,
            "coherence": 0.3,
            "counts": dict.fromkeys(TASK.labels, 20),
        }
        folder.journal.append("sweep", sweep=0, utility=0.2, **sweep)
        wait_for(page, lambda driver: "sweep 1" in text(driver, "#runs .c-state"))
        assert text(page, "#runs .c-utility").split("\n") == ["+0.20", "25.0% flips"]
        assert "positive 50%" in text(page, "#runs .c-balance")
        folder.journal.append("sweep", sweep=1, utility=0.4, **sweep)
        wait_for(page, lambda driver: "+0.40" in text(driver, "#runs .c-utility"))
        click(page, "#runs .c-run a")
        wait_for(page, lambda driver: "start 1, sweep 2" in text(driver, "#progress-title"))
        figures = page.find_elements(By.CSS_SELECTOR, "#part-figures .chart")
        assert figures
        folder.journal.append("sweep", sweep=2, utility=0.5, **sweep)
        wait_for(page, lambda driver: "sweep 3" in text(driver, "#progress-title"))
        wait_for(page, lambda driver: "sweep 3: 0.5" in driver.page_source)
    wait_for(page, lambda driver: text(driver, "#progress-title .state") == "stopped")


def test_the_list_is_searched_filtered_and_sorted(page: Chrome, server: Served, base: Path) -> None:
    runs = [
        write_run(base, reviews(8), seed=seed, result={"utility": u, "verdict": verdict})
        for seed, u, verdict in ((0, 0.1, "trust"), (1, 0.3, "check"), (2, 0.2, "do not trust"))
    ]
    page.get(server.origin)
    assert set(names(page)) == {run.name for run in runs}
    page.find_element(By.ID, "search").send_keys(runs[1].name)
    assert names(page) == [runs[1].name]
    page.find_element(By.ID, "search").clear()
    choose(page, "by-order", "U, highest first")
    assert names(page) == [runs[1].name, runs[2].name, runs[0].name]
    choose(page, "by-verdict", "do not trust")
    assert names(page) == [runs[2].name]
    choose(page, "by-verdict", "any")
    assert not page.find_element(By.ID, "compare").is_enabled()
    for box in page.find_elements(By.CSS_SELECTOR, "#runs input")[:2]:
        box.click()
    click(page, "#compare")
    wait_for(page, lambda driver: "2 runs compared" in text(driver, "h1"))
    assert {runs[1].name, runs[2].name} <= set(text(page, "main").split())


def test_rows_are_checked_by_keyboard_and_saved_at_once(
    page: Chrome, server: Served, base: Path
) -> None:
    run = write_run(base, reviews(60), gold="label")
    open_run(page, server, run, "#check")
    wait_for(page, lambda one: one.switch_to.active_element.get_attribute("id") == "deck-text")
    assert "gold" not in text(page, "#deck-facts"), "the answer comes first"
    assert {one.text for one in page.find_elements(By.CSS_SELECTOR, "#rows tbody .c-gold")} == {
        "\u2013"
    }
    first = text(page, "#deck-place").split()[-1]
    press(page, "2")
    wait_for(page, lambda _: said(run) == {first: "negative"})
    second = text(page, "#deck-place").split()[-1]
    assert second != first, "the next row is there at once"
    press(page, Keys.ENTER)
    wait_for(page, lambda _: len(said(run)) == 2)
    press(page, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert "gold" in text(page, "#deck-facts")
    press(page, Keys.BACKSPACE)
    wait_for(page, lambda _: first not in said(run))
    wait_for(page, lambda driver: "All answers are saved" in text(driver, "#saved"))
    page.refresh()
    wait_for(page, lambda driver: text(driver, "#checked-count").startswith("1 row checked"))
    wait_for(page, lambda driver: driver.find_elements(By.CSS_SELECTOR, "#part-checks .chart"))


def test_rows_that_tell_most_come_first_where_they_are_asked_for(
    page: Chrome, server: Served, base: Path
) -> None:
    run = write_run(base, reviews(60), gold="label")
    asked = [one.id for one in choose_rows(run, 20)]
    open_run(page, server, run)
    choose(page, "deck-order", "the 20 rows that tell most")
    wait_for(page, lambda driver: "least certain" not in text(driver, "#deck-place"))
    page.execute_script("document.getElementById('deck-text').focus()")
    for row in asked[:3]:
        assert text(page, "#deck-place").split()[-1] == row
        press(page, Keys.ENTER)
    wait_for(page, lambda _: said(run).keys() == set(asked[:3]))


def test_two_tabs_and_two_people_lose_no_check(page: Chrome, server: Served, base: Path) -> None:
    rows = [{**row, "id": 2**60 + n} for n, row in enumerate(reviews(60))]
    run = write_run(base, rows, gold="label")
    open_run(page, server, run)
    ours = page.current_window_handle
    page.execute_script("document.getElementById('by').value = 'Ada'")
    page.switch_to.new_window("tab")
    theirs = page.current_window_handle
    try:
        open_run(page, server, run, "#check")
        seen: list[str] = []
        for tab, key in ((theirs, "1"), (ours, "2"), (theirs, "2"), (ours, "1")):
            page.switch_to.window(tab)
            page.execute_script("document.getElementById('deck-text').focus()")
            # what the other tab said is known here before this one goes on
            wait_for(
                page,
                lambda driver: text(driver, "#checked-count").startswith(
                    f"{len(seen)} " if seen else "Nothing"
                ),
            )
            click(page, "#unchecked")
            seen.append(text(page, "#deck-place").split()[-1])
            page.execute_script("document.getElementById('deck-text').focus()")
            press(page, key)
            wait_for(page, lambda _: len(said(run)) == len(seen))
        server.post(
            f"/runs/{run.name}/checks", {"id": str(2**60 + 30), "label": "positive", "by": "Bob"}
        )
        wait_for(page, lambda driver: text(driver, "#checked-count").startswith("5 "))
        assert len(set(seen)) == 4
        assert said(run).keys() == {*map(int, seen), 2**60 + 30}
        assert {one.by for one in Checks(run.path).read()} == {"", "Ada", "Bob"}
    finally:
        page.switch_to.window(theirs)
        page.close()
        page.switch_to.window(ours)


def test_an_answer_that_cannot_be_saved_is_kept_and_sent_again(
    chromium: Chrome, base: Path
) -> None:
    run = write_run(base, reviews(20))
    with served(base) as first:
        chromium.get(f"{first.origin}/?token={first.token}")
        chromium.execute_script("localStorage.clear()")
        open_run(chromium, first, run, "#check")
        chromium.execute_cdp_cmd("Network.enable", {})
        lost = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        chromium.execute_cdp_cmd("Network.emulateNetworkConditions", lost)
        press(chromium, "1")
        wait_for(chromium, lambda driver: "1 answer not saved yet" in text(driver, "#saved"))
        assert said(run) == {}
        found = {**lost, "offline": False}
        chromium.execute_cdp_cmd("Network.emulateNetworkConditions", found)
        wait_for(chromium, lambda _: len(said(run)) == 1)
        wait_for(chromium, lambda driver: "All answers are saved" in text(driver, "#saved"))

        # Of an earlier page: one that a later answer has replaced, and one that no row takes.
        (row,) = said(run)
        for name in (row, "nobody"):
            chromium.execute_script(
                "localStorage.setItem(arguments[0], arguments[1])",
                f'icm-client unsaved {run.name} "{name}"',
                '{"label":"negative","by":"","at":"2020-01-01T00:00:00.000Z"}',
            )
        chromium.get("about:blank")
        open_run(chromium, first, run)
        wait_for(chromium, lambda driver: "1 answer refused (row nobody)" in text(driver, "#saved"))
        assert said(run) == {row: "positive"}
        kept = chromium.execute_script("return Object.keys(localStorage)")
        assert not [name for name in kept if "unsaved" in name]
        chromium.get("about:blank")
        told(chromium, "browser")


def test_a_view_that_is_read_only_keeps_answers_in_the_browser(
    chromium: Chrome, base: Path
) -> None:
    run = write_run(base, reviews(20))
    with served(base, "--read-only") as server:
        chromium.get(f"{server.origin}/?token={server.token}")
        chromium.execute_script("localStorage.clear()")
        told(chromium, "browser")
        assert chromium.find_elements(By.CSS_SELECTOR, "a[href='/new']") == []
        open_run(chromium, server, run, "#check")
        assert chromium.find_elements(By.CSS_SELECTOR, "#again, #stop, #by") == []
        press(chromium, "1")
        assert text(chromium, "#checked-count").startswith("1 row checked")
        chromium.refresh()
        wait_for(chromium, lambda driver: text(driver, "#checked-count").startswith("1 row"))
        assert told(chromium, "browser") == []
        chromium.get("about:blank")
    assert said(run) == {}


def test_many_rows_are_in_the_table_and_few_in_the_page(
    page: Chrome, server: Served, base: Path
) -> None:
    run = write_run(
        base, [{"id": i, "text": f"row {i} " + "some words " * 20} for i in range(5_000)]
    )
    open_run(page, server, run)
    assert text(page, "#found") == "5,000 rows"
    assert page.find_element(By.ID, "rows").get_attribute("aria-rowcount") == "5001"
    for share in (0, 0.5, 1):
        scroll_to(page, share)
        assert ids(page)
        assert len(page.find_elements(By.CSS_SELECTOR, "#rows tbody tr")) < 60


def test_nothing_moves_while_a_run_goes_on(page: Chrome, server: Served, base: Path) -> None:
    job = Job.prepare(rows_from(reviews(40), gold="label"), TASK)
    with opened_run(base, job) as folder:
        folder.journal.append("search", preset="fast")
        counts = dict.fromkeys(TASK.labels, 20)
        for path in ("/", f"/runs/{folder.name}"):
            page.get(server.origin + path)
            wait_for(page, lambda driver: text(driver, "#connection") == "Live")
            page.execute_async_script(SHIFTS)
            for n in range(3):
                folder.journal.append(
                    "sweep",
                    restart=0,
                    sweep=n,
                    moved=10,
                    utility=n / 10,
                    coherence=0.3,
                    counts=counts,
                )
            wait_for(
                page, lambda driver: "sweep 3" in text(driver, "#runs .c-state, #progress-title")
            )
            assert page.execute_async_script(SHIFTS) < 0.1


async def test_a_run_is_started_corrected_by_keyboard_and_run_again(
    chromium: Chrome, tmp_path: Path
) -> None:
    rows = [
        {"id": f"r{n}", "text": row["text"]} for n, row in enumerate(planted_reviews.reviews(32))
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    runs = tmp_path / "runs"

    def page(url: str) -> None:
        with served(runs, folder=tmp_path) as server:
            chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            chromium.get(f"{server.origin}/?token={server.token}")
            chromium.execute_script("localStorage.clear()")
            click(chromium, "a[href='/new'].button")
            choose(chromium, "data", "rows.jsonl")
            choose(chromium, "task", "a template of my own")
            typed = {"template": "{nothing}:", "labels": "positive,negative", "endpoint": url}
            for name, words in typed.items():
                chromium.find_element(By.ID, name).send_keys(words)
            wait_for(chromium, lambda driver: "nothing" in text(driver, "#preview-said"))
            told(chromium, "browser")  # it tells that the form was refused
            assert not chromium.find_element(By.ID, "start").is_enabled()
            template = chromium.find_element(By.ID, "template")
            template.clear()
            template.send_keys(TASK.template)
            wait_for(chromium, lambda driver: "Review: words of row 0" in text(driver, "#preview"))
            assert "\u2423negative" in text(chromium, ".label-texts")
            wait_for(chromium, lambda driver: driver.find_element(By.ID, "start").is_enabled())
            click(chromium, "#start")
            wait_for(
                chromium, lambda driver: driver.find_elements(By.CSS_SELECTOR, "#rows tr[data-row]")
            )
            first = chromium.current_url.split("/")[-1]
            chromium.find_element(By.ID, "by").send_keys("Ada")
            chromium.execute_script("document.getElementById('deck-text').focus()")
            row = text(chromium, "#deck-place").split()[-1]
            found = text(chromium, "#deck-facts").split()[1].rstrip(",")
            other = "positive" if found == "negative" else "negative"
            press(chromium, str(TASK.labels.index(other) + 1))
            wait_for(chromium, lambda driver: "All answers are saved" in text(driver, "#saved"))
            click(chromium, "#again")
            wait_for(chromium, lambda driver: driver.current_url.split("/")[-1] != first)
            wait_for(
                chromium, lambda driver: driver.find_elements(By.CSS_SELECTOR, "#rows tr[data-row]")
            )
            run = read_folder(runs / chromium.current_url.split("/")[-1])
            (kept,) = [one for one in label_records(run) if one["id"] == row]
            assert (kept["label"], kept["pinned"]) == (other, True)
            assert told(chromium, "browser") == []
            chromium.get("about:blank")

    async with PlantedServer(planted_reviews.planted(32)) as server:
        await anyio.to_thread.run_sync(page, server.url)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Chrome, server: Served, base: Path, scheme: str) -> None:
    first = write_run(base, reviews(30), gold="label")
    second = write_run(base, reviews(30), seed=1, gold="label", result={"verdict": "do not trust"})
    job = Job.prepare(rows_from(reviews(40), gold="label"), TASK)
    prefer(page, scheme)
    with opened_run(base, job, 2) as folder:
        folder.journal.append("search", preset="fast")
        both = f"/compare?run={first.name}&run={second.name}"
        for path in ("/", "/new", f"/runs/{first.name}", f"/runs/{folder.name}", both):
            page.get(server.origin + path)
            wait_for(page, lambda driver: text(driver, "#connection") == "Live")
            if first.name in path and path != both:
                wait_for(
                    page, lambda driver: driver.find_elements(By.CSS_SELECTOR, "#rows tbody tr")
                )
            assert violations(page) == [], path


def test_a_phone_needs_no_scrolling_sideways(page: Chrome, server: Served, base: Path) -> None:
    first = write_run(base, reviews(30), gold="label")
    second = write_run(base, reviews(30), seed=1, gold="label")
    phone(page)
    for path in ("/", f"/runs/{first.name}", f"/compare?run={first.name}&run={second.name}"):
        page.get(server.origin + path)
        wait_for(page, lambda driver: text(driver, "#connection") == "Live")
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.execute_script(wide) <= 0, path
