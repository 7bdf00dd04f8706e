"""Charts: what is drawn is what is there."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from icm_client.report.charts import (
    HEIGHT,
    WIDTH,
    Axis,
    Chart,
    chart_svg,
    histogram,
    line_chart,
    reliability_chart,
)
from icm_client.report.run_course import Series
from icm_client.stats.calibration_curve import reliability

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - ours


def utility(*series: Series) -> Chart:
    words = {"name": "utility", "title": "U", "note": "", "unit": "sweep", "y_name": "U (nats)"}
    return line_chart(series, **words, percent=False)


def titles(svg: str) -> list[str]:
    return [str(one.text) for one in parsed(svg).iter(f"{SVG}title")]


def texts(svg: str) -> list[str]:
    return [str(one.text) for one in parsed(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("n", [1, 7, 500])
def test_a_histogram_counts_every_row_and_no_bar_reaches_over_the_threshold(n: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.normal(0.3, 2, n)
    groups = (values < 0).astype(int)
    svg = chart_svg(histogram(values, groups, ["yes", "no"]))
    said = [title.split() for title in titles(svg)]
    assert sum(int(words[1].replace(",", "")) for words in said) == n
    (threshold,) = (e for e in parsed(svg).iter(f"{SVG}line") if e.get("class") == "threshold")
    zero = float(str(threshold.get("x1")))
    for bar in parsed(svg).iter(f"{SVG}rect"):
        left, width = float(str(bar.get("x"))), float(str(bar.get("width")))
        assert left >= zero or left + width <= zero
        assert ("series-0" in str(bar.get("class"))) == (left >= zero)


def test_an_outlier_does_not_press_all_others_into_one_bar() -> None:
    values = np.append(np.linspace(-2, 2, 999), 1000.0)
    assert len(histogram(values, np.zeros(1000, dtype=int), ["a", "b"]).bars) >= 15


def test_lines_stay_within_the_picture_and_marks_say_their_figures() -> None:
    svg = chart_svg(
        utility(
            Series("start 1", ((1, -0.2), (2, 0.5))), Series("start 2", ((1, 0.0),), kept=False)
        )
    )
    for dot in parsed(svg).iter(f"{SVG}circle"):
        assert 0 < float(str(dot.get("cx"))) < WIDTH
        assert 0 < float(str(dot.get("cy"))) < HEIGHT
    assert titles(svg) == [
        "start 1, sweep 1: \N{MINUS SIGN}0.2",
        "start 1, sweep 2: 0.5",
        "start 2, sweep 1: 0",
    ]
    assert {"sweep", "U (nats)", "1", "2"} <= set(texts(svg))


def test_the_reliability_chart_has_a_mark_and_an_interval_a_bin() -> None:
    confidence = np.linspace(0.5, 1, 60)
    found = reliability(confidence, confidence > 0.6)
    svg = chart_svg(reliability_chart(found, lowest=0.5))
    assert len(titles(svg)) == len(found.bins) == 4
    lines = [e.get("class") for e in parsed(svg).iter(f"{SVG}line")]
    assert lines.count("interval") == 4
    assert lines.count("ideal") == 1


def test_words_are_escaped() -> None:
    evil = '<script>"&'
    svg = chart_svg(histogram(np.array([1.0]), np.array([0]), [evil, "no"]))
    assert "<script>" not in svg
    assert any(evil in text for text in texts(svg))


def test_a_line_of_many_points_has_no_marks() -> None:
    many = tuple((float(x), 0.5) for x in range(41))
    svg = chart_svg(utility(Series("start 1", many)))
    assert titles(svg) == []
    assert len(list(parsed(svg).iter(f"{SVG}polyline"))) == 1


def test_only_several_series_are_named() -> None:
    one, other = Series("start 1", ((1, 0.2),)), Series("start 2", ((1, 0.1),))
    assert utility(one).legend == ()
    assert [series.name for series in utility(one, other).legend] == ["start 1", "start 2"]


def test_ticks_are_round_and_within() -> None:
    assert Axis("", 0, 1).ticks() == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert Axis("", 1, 5, whole=True).ticks() == [1, 2, 3, 4, 5]
    assert Axis("", 1, 2, whole=True).ticks() == [1, 2]
    assert Axis("", -0.013, 0.4).ticks() == [0, 0.1, 0.2, 0.3, 0.4]
    assert Axis("", 0, 3000, whole=True).ticks() == [0, 1000, 2000, 3000]
