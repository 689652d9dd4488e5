"""`saeuron locate`: from the job to the view `heads`, the picture and the text; mistakes."""

from pathlib import Path

import pytest

from flows.inspection.locate import check, lines, locate_job, told
from flows.run import Run
from saeuron.errors import ConfigError, UnknownName
from saeuron.pages.pictures import picture_of
from storage import Workspace, connect
from tasks.inspection.locate import PICTURE, LocateConfig, locate
from tasks.prompts import PromptsJob, prompts
from tasks.registry import runs
from tests.sae_workspace import configuration


@pytest.fixture(scope="module")
def located(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> tuple[Workspace, str]:
    """(workspace, artifact), made without Prefect."""
    workspace, config = Workspace.open(tmp_path_factory.mktemp("located") / "w"), configuration(tiny_model_folder)
    runs.remember(workspace, config)
    prompts.fn(PromptsJob(workspace=workspace.root, config=config.prompts, domains=config.domains))
    run = Run.of(workspace, config, "cpu")
    run.step = lambda task, job, **_: task.fn(job)  # type: ignore[method-assign]
    how = LocateConfig(pairs=2, examples=4, learned=4)
    return workspace, locate.fn(locate_job(run, "neon", "style", how)).id


def test_the_view_has_every_group_at_every_step(located: tuple[Workspace, str]) -> None:
    workspace, name = located
    with connect(workspace) as views:
        count = dict(views.execute("select kind, count(*) from heads where timestep is null group by all").fetchall())
        steps = views.execute("select count(distinct timestep), count(*) from heads").fetchone()
        whole = views.execute("select share, control, n_pairs, n_examples from heads where kind = 'all'").fetchall()
        heads = views.execute("select code_score, code_control, difference from heads where kind = 'head'").fetchall()
        means = views.execute(
            "select max(abs(a.share - b.share)) from heads a join (select kind, hookpoint, head, avg(share) as share "
            "from heads where timestep is not null group by all) b on a.kind = b.kind and a.hookpoint = b.hookpoint "
            "and a.head is not distinct from b.head where a.timestep is null"
        ).fetchone()
    assert count == {"head": 14, "module": 7, "block": 5, "all": 1} and steps == (2, 27 * 3)
    assert all(share == pytest.approx(1, abs=1e-5) and abs(control) < 5 for share, control, _, _ in whole)
    assert {row[2:] for row in whole} == {(2, 4)}
    assert all(None not in row and row[2] > 0 for row in heads) and means[0] < 1e-12
    picture = picture_of((workspace.folder(name) / PICTURE).read_bytes())
    assert picture.shape[0] > 300 and picture.std() > 5


def test_the_text_fits_and_says_how_codes_compare(located: tuple[Workspace, str]) -> None:
    text = "\n".join(lines(told(*located, "pictures/neon_heads.png"))).splitlines()
    assert max(map(len, text)) <= 80
    assert any(line.startswith("all 14 heads at once") and " 100.0 " in line for line in text)
    assert any("rank correlation" in line or line.startswith("codes rank no head") for line in text)


def test_what_cannot_be_located(located: tuple[Workspace, str]) -> None:
    workspace = located[0]
    config = runs.remembered(workspace)
    assert check(workspace, config, "cat", ["moon"]) == "object"
    with pytest.raises(UnknownName, match=r"unknown concept 'noen': did you mean 'neon'"):
        check(workspace, config, "noen", ())
    with pytest.raises(UnknownName, match="unknown style 'moon'"):
        check(workspace, config, "neon", ["moon"])
    with pytest.raises(ConfigError, match="--instead neon is the concept itself"):
        check(workspace, config, "neon", ["neon"])
