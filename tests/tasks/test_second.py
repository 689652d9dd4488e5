"""A second judge of finished evaluations: its figures beside the first's, on stored images."""

from pathlib import Path

import pytest

from flows.measure.second import check, job_of, lines
from saeuron.errors import ConfigError, UnknownName
from storage import Workspace
from storage.catalog.query import run_query
from tasks import judge
from tasks.measure.second import newest, second
from tests.sae_workspace import build
from tests.tasks.test_judge import Bright, _bright, configured, measured, new, sampled  # noqa: F401


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    return build(tmp_path_factory.mktemp("second") / "w", tiny_model_folder)


def shares(workspace: Workspace, manifest: object, judgements: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """UA and IRA, counted image by image; every style has as many images."""
    found = judge.read(workspace, {i: judgements[i] for i in manifest.config["edited"]})  # type: ignore[attr-defined]
    asked = [(j.asked.get("style"), j.seen.get("style")) for j in found]
    own = [seen for what, seen in asked if what == "neon"]
    others = [what == seen for what, seen in asked if what not in ("neon", None)]
    return {"UA": sum(seen != "neon" for seen in own) / len(own), "IRA": sum(others) / len(others)}


def test_stored_images_are_judged_again_and_nothing_is_generated(made: Workspace, sampled: list[str]) -> None:  # noqa: F811
    run, _ = measured(made, configured(made, "bright:1"))
    sampled.clear()
    [evaluation] = check(made, "bright:2", ["neon"])
    job = job_of(run, evaluation, "bright:2")
    done = run.step(second, job)
    assert sampled == [] and new(run).count("second_opinion") == 1
    rows = {r["metric"]: r for r in run_query(made, "select * from second_opinions").to_pylist()}
    # The domain object has no judge, so nothing is said of it.
    assert sorted(rows) == ["IRA", "UA"]
    by = {"": job.judgements, "first_": job.first}
    for prefix, judgements in by.items():
        slow = shares(made, evaluation, judgements)
        assert {m: rows[m][f"{prefix}value"] for m in slow} == slow
    assert [rows["UA"][name] for name in ("evaluation_id", "concept", "method", "judge")] == [
        evaluation.id, "neon", "saeuron", "bright:2",
    ]  # fmt: skip
    first, again = (judge.read(made, {i: j[i] for i in job.edited}) for j in (job.first, job.judgements))
    agreed = [x.seen["style"] == y.seen["style"] for x, y in zip(first, again, strict=True)]
    assert done.summary["same"] == sum(agreed) / len(agreed)
    # Nothing that the first judge's evaluation says has changed, and it is still the newest.
    assert newest(made)[0].id == evaluation.id
    # Once more: everything is in place.
    calls = Bright.calls
    assert run.step(second, job_of(run, evaluation, "bright:2")).cached and Bright.calls == calls


def test_the_table_says_the_mean_and_the_worst_concept() -> None:
    row = {
        "method": "gated_uce_untrained",
        "metric": "UA",
        "unedited": 0.0,
        "same": 0.5,
        "n_images": 40,
        "evaluation_id": "e",
    }
    rows = [
        {**row, "concept": "neon", "value": 1.0, "first_value": 1.0},
        {**row, "concept": "grain", "value": 0.5, "first_value": 1.0, "evaluation_id": "f"},
    ]
    said = lines({"rows": rows, "domains": {"neon": "style", "grain": "style"}}, "other")
    page = "\n".join(said)
    assert max(map(len, page.splitlines())) <= 80 and said[-1] == "judged again: 2 evaluations"
    text = " ".join(page.split())
    # Two concepts: the bootstrap over them reaches from the worst to the best. First: Wilson of 80 images.
    assert text.startswith("style by gated_uce_untrained, 2 concepts figure images first second unedited worst same")
    assert "UA 80 100 95-100 75.0 50-100 0.0 grain 50.0 50.0" in text


def test_mistakes_are_one_line(made: Workspace) -> None:
    measured(made, configured(made, "bright:1"))
    with pytest.raises(ConfigError, match=r"stripes was not evaluated in .*saeuron evaluate stripes"):
        check(made, "bright:2", ["stripes"])
    with pytest.raises(ConfigError, match=r"--judge bright:1: style was judged by it already"):
        check(made, "bright:1", [])
    with pytest.raises(ConfigError, match="nobody would look"):
        check(made, "none", [])
    with pytest.raises(UnknownName, match="unknown judge 'canvass': did you mean 'canvas'"):
        check(made, "canvass", [])


def test_an_evaluation_that_nobody_judged_has_no_second_opinion(made: Workspace) -> None:
    measured(made, configured(made, "none"))
    with pytest.raises(ConfigError, match="neon has no judge yet"):
        check(made, "bright:2", [])


def test_an_empty_workspace_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing was evaluated in"):
        check(Workspace.open(tmp_path / "w"), "canvas20", [])
