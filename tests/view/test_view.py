"""The pages and the data of the live view, from a real server over real folders."""

from pathlib import Path

from report_runs import reviews, write_run
from view_server import served

from icm_client.record.checks import Checks


def test_a_run_is_listed_shown_and_checked(tmp_path: Path) -> None:
    base = tmp_path / "runs"
    run = write_run(base, reviews(40), gold="label")
    with served(base) as server:
        get = server.client.get
        assert run.name in get("/").text
        (line,) = get("/runs.json").json()["runs"]
        assert (line["name"], line["state"], line["verdict"]) == (run.name, "done", "check")
        page = get(f"/runs/{run.name}")
        assert page.status_code == 200
        assert "Check" in page.text
        for section in ("checks", "figures"):
            part = get(f"/runs/{run.name}/part/{section}")
            assert part.status_code == 200
        assert len(get(f"/runs/{run.name}/rows.json").json()["rows"]) == 40
        said = server.post(f"/runs/{run.name}/checks", {"id": "r0", "label": "negative", "by": "A"})
        assert said.json()["label"] == "negative"
        found = get(f"/runs/{run.name}/checks.json").json()
        assert [one["label"] for one in found["checks"]] == ["negative"]
        assert [one["checked"] for one in found["accuracy"]] == [0, 1]
        assert found["accuracy"][1]["labels"] > found["accuracy"][0]["labels"]
        asked = get(f"/runs/{run.name}/ask?budget=5").json()["asked"]
        assert len({row["id"] for row in asked}) == 5
        assert "r0" not in {row["id"] for row in asked}, "it is checked already"
        for budget in ("0", "-1", "x", "100000", ""):
            assert get(f"/runs/{run.name}/ask?budget={budget}").status_code == 400
    assert [(one.id, one.label, one.by) for one in Checks(run.path).read()] == [
        ("r0", "negative", "A")
    ]
