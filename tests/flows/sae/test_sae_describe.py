"""`saeuron sae explain --export | --import`: lines of JSON there and back, judged as the rules were; mistakes."""

import json
import pathlib

import pytest

from flows.run import Run
from flows.sae.describe import describe_job, export, judged, known, lines, read
from flows.sae.explain import explain_job
from saeuron.errors import ConfigError, UnknownName
from saeuron.sae.diagnosis.explanations import Rule
from storage import Workspace, connect
from storage.manifests import Manifest
from tasks.registry.saes import find
from tasks.sae.describe import describe, strangers
from tasks.sae.explain import explain
from tests import sae_workspace
from tests.sae_workspace import HOOKPOINTS, build, directly

KNOWN = {"style": ("neon", "dots"), "object": ("cat", "moon")}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: pathlib.Path
) -> tuple[Workspace, Run, Manifest, str]:
    """(workspace, run, SAE, its explanation), made without Prefect."""
    workspace = build(tmp_path_factory.mktemp("described") / "workspace", tiny_model_folder)
    run, sae = directly(workspace)
    return workspace, run, sae, explain.fn(explain_job(run, sae, 8)).id


def test_what_was_exported_is_judged_as_it_was(
    made: tuple[Workspace, Run, Manifest, str], tmp_path: pathlib.Path
) -> None:
    workspace, run, sae, explanation = made
    path = tmp_path / "latents.jsonl"
    assert export(workspace, sae.id, explanation, path) == sae.summary["n_latents"]
    description = describe.fn(describe_job(run, sae, path)).id
    names = "latent, rule, precision, recall, f1, confidence, balanced_accuracy, fires, holds, images"
    with connect(workspace) as views:
        found = views.execute(f"select {names} from descriptions order by latent").fetchall()
        own = views.execute(
            f"select {names} from explanations where kind = 'trained' and rule is not null order by latent"
        ).fetchall()
        same = views.execute("select bool_and(f1 = automatic_f1), min(other_f1) from descriptions").fetchone()
    # The same images and thresholds, bit for bit.
    assert found == own and len(own) > 5 and same[0] is True and same[1] is not None
    text = "\n".join(lines(judged(workspace, description))).splitlines()
    assert max(map(len, text)) <= 80 and text[-1].startswith("means: F1 ")


def test_another_claim_is_judged_and_another_text_is_another_artifact(
    made: tuple[Workspace, Run, Manifest, str], tmp_path: pathlib.Path
) -> None:
    workspace, run, sae, _ = made
    path = tmp_path / "own.jsonl"
    line = {"latent": 3, "description": "böse Katzen", "concepts": {"object": ["cat"], "style": ["dots"]}}
    path.write_text(json.dumps(line) + "\n\n")
    job = describe_job(run, sae, path)
    name = describe.fn(job).id
    with connect(workspace) as views:
        rows = views.execute(
            "select latent, description, rule, holds, images from descriptions where description_id = ?", [name]
        ).fetchall()
    # A quarter of the images asks for both.
    assert rows == [(3, "böse Katzen", "object is cat and style is dots", 2, 8)]
    path.write_text(json.dumps(line | {"description": "other words"}))
    assert describe_job(run, sae, path).id != job.id


def test_every_form_of_a_rule_comes_back(tmp_path: pathlib.Path) -> None:
    workspace = Workspace.open(tmp_path / "w")
    manifest = Manifest.model_construct(id="sae_v2_00000000000000000000")
    explanation = sae_workspace.explained(workspace, manifest)
    path = tmp_path / "all.jsonl"
    assert export(workspace, manifest.id, explanation, path) == 5
    found = {each.latent: each.rule for each in read(path, 10, KNOWN)}
    assert found == {
        3: Rule("one", (("style", "neon"),)),
        5: Rule("one", (("object", "cat"),)),
        7: Rule("both", (("object", "cat"), ("style", "neon"))),
        8: Rule("any", (("style", "dots"), ("style", "neon"))),
    }
    assert json.loads(path.read_text().splitlines()[4])["concepts"] == {}


@pytest.mark.parametrize(
    ("line", "error", "said"),
    [
        ("{", ConfigError, "line 1: no JSON; expected a line such as"),
        ("[3]", ConfigError, "line 1: expected `latent`, a number"),
        ('{"latent": true, "concepts": {}}', ConfigError, "expected `latent`, a number"),
        ('{"latent": 10, "concepts": {}}', ConfigError, "latent 10; this SAE has 10: expected 0 to 9"),
        ('{"latent": 1, "concepts": {"style": "neon"}}', ConfigError, "style holds 'neon'; expected a list"),
        ('{"latent": 1, "concepts": {"stile": ["neon"]}}', UnknownName, "did you mean 'style'"),
        ('{"latent": 1, "concepts": {"style": ["noen"]}}', UnknownName, "did you mean 'neon'"),
        ('{"latent": 1, "description": 3, "concepts": {}}', ConfigError, "`description` is 3; expected words"),
        ('{"latent": 1, "concepts": {}}', ConfigError, "describes no latent"),
        ('{"latent": 1, "concepts": {"style": ["neon", "dots"], "object": ["cat"]}}', ConfigError, "3 names; expected"),
        (2 * '{"latent": 1, "concepts": {"style": ["neon"]}}\n', ConfigError, "line 2: latent 1 is described twice"),
    ],
)
def test_a_line_that_is_no_description(tmp_path: pathlib.Path, line: str, error: type[Exception], said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(error) as raised:
        read(path, 10, KNOWN)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_an_sae_that_was_not_explained(made: tuple[Workspace, Run, Manifest, str], tmp_path: pathlib.Path) -> None:
    _, run, _, _ = made
    assert known(run) == {"style": ("neon", "dots"), "object": ("cat", "moon")}
    other = find(run.opened, HOOKPOINTS[1])
    with pytest.raises(ConfigError, match=r"--import: \S+ was not explained, .* run saeuron sae explain"):
        describe_job(run, other, tmp_path / "any.jsonl")


def test_strangers_are_other_latents() -> None:
    found = strangers([2, 5, 9], 20, 1)
    assert all(found[i] in {2, 5, 9} - {i} for i in (2, 5, 9)) and found == strangers([2, 5, 9], 20, 1)
    assert strangers([4], 20, 1)[4] != 4
