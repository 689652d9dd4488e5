"""`saeuron sae prove --test`: each test from the job to the view `proofs`, and what is refused before anything runs."""

import pathlib
from collections.abc import Callable

import pytest

from flows.run import Run
from flows.sae.proof_tests import check, chosen, found, lines, test_job
from saeuron.errors import ConfigError, UnknownName
from storage import Workspace
from storage.manifests import Manifest
from tasks.registry import runs
from tasks.registry.saes import find
from tasks.sae.proof_tests import proof_test
from tests.sae_workspace import HOOKPOINTS, build

test_job.__test__ = False  # type: ignore[attr-defined]
SMALL = {"images": 8, "pairs": 4, "ks": (1, 2), "alphas": (0.0, 1.0), "rhos": (0.5, 2.0), "widths": (1, 2)}
SMALL |= {"latents": (1, 2), "removed": 1, "removal_images": 2, "fit_steps": 5}
Proved = Callable[[str], list[dict]]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: pathlib.Path) -> Workspace:
    built = build(tmp_path_factory.mktemp("tested") / "workspace", tiny_model_folder)
    config = runs.remembered(built)
    judged = {name: domain.model_copy(update={"judge": "canvas20"}) for name, domain in config.domains.items()}
    runs.remember(built, config.model_copy(update={"domains": judged}))
    return built


@pytest.fixture(scope="module")
def sae(workspace: Workspace) -> Manifest:
    return find(workspace, HOOKPOINTS[0])


@pytest.fixture(scope="module")
def proved(workspace: Workspace, sae: Manifest) -> Proved:
    """Makes a test without Prefect, and gives its rows."""
    run = Run.of(workspace, runs.remembered(workspace), "cpu")
    run.step = lambda task, job, **_: task.fn(job)  # type: ignore[method-assign]

    def of(test: str) -> list[dict]:
        job = test_job(run, sae, test)  # type: ignore[arg-type]
        job = job.model_copy(update={"config": job.config.model_copy(update=SMALL)})
        return found(workspace, proof_test.fn(job).id)

    return of


def test_approximation_has_every_dictionary_along_every_domain(proved: Proved) -> None:
    rows = proved("approximation")
    kinds = {"trained", "untrained", "frozen", "supervised", "supervised_full", "shuffled"}
    measures = {"sufficiency", "necessity", "sufficiency along", "necessity along"}
    assert {(r["kind"], r["attribute"], r["measure"]) for r in rows} == {
        (k, a, m) for k in kinds for a in ("style", "object") for m in measures
    }
    assert all(r["low"] <= r["value"] <= r["high"] and r["n"] == 4 for r in rows)
    by = {(r["kind"], r["attribute"], r["measure"]): r for r in rows}
    own = by["trained", "style", "sufficiency"]
    assert own["control"] == by["untrained", "style", "sufficiency"]["value"]
    assert own["ceiling"] == by["supervised_full", "style", "sufficiency"]["value"]
    told = lines("approximation", rows)
    assert max(len(line) for line in "\n".join(told).splitlines()) <= 80


def test_a_frozen_sae_that_does_as_well_is_said_to(proved: Proved) -> None:
    rows = proved("approximation")
    same = [r | {"value": 0.5} if r["kind"] in ("trained", "frozen") else r for r in rows]
    better = [r | {"value": 0.9 if r["kind"] == "trained" else 0.5} for r in rows]
    assert any("does not tell" in line for line in lines("approximation", same))
    assert not any("does not tell" in line for line in lines("approximation", better))


def test_control_counts_pictures_of_every_edit(proved: Proved) -> None:
    rows = proved("control")
    edits = {(r["kind"], r["setting"]) for r in rows if r["measure"] == "success"}
    by_latents = {(kind, k) for kind in ("trained", "untrained", "frozen") for k in (1.0, 2.0)}
    assert edits == by_latents | {
        (kind, None) for kind in ("nothing", "whole output", "supervised", "supervised_full", "shuffled")
    }
    by = {(r["kind"], r["attribute"], r["measure"], r["setting"]): r for r in rows}
    for (kind, attribute, measure, setting), row in by.items():
        if measure == "success":
            moved, kept = (by[kind, attribute, m, setting]["value"] for m in ("moved", "kept"))
            assert row["value"] <= min(moved, kept) and row["low"] <= row["value"] <= row["high"]
            assert row["ceiling"] == by["whole output", attribute, "success", None]["value"]
            if setting is not None:
                assert row["control"] == by["untrained", attribute, "success", setting]["value"]
    told = lines("control", rows)
    assert max(len(line) for line in "\n".join(told).splitlines()) <= 80
    weak = [r | {"value": 0.1} if r["kind"] == "whole output" else r for r in rows]
    strong = [r | {"value": 0.9} if r["kind"] == "whole output" else r for r in rows]
    assert any("so edits there say little" in line for line in lines("control", weak))
    assert not any("so edits there say little" in line for line in lines("control", strong))


def test_occlusion_counts_latents_at_every_part(proved: Proved) -> None:
    rows = proved("occlusion")
    [quiet] = {r["attribute"] for r in rows}
    loud = {"style": "object", "object": "style"}[quiet]
    counts = [r for r in rows if r["measure"] == f"latents, {loud} less"]
    assert [r["setting"] for r in counts] == [0.0, 1.0] and all(r["control"] is not None for r in counts)
    assert counts[0]["value"] == counts[0]["control"], "nothing was taken away"
    assert [r["setting"] for r in rows if r["measure"] == f"latents, {loud} louder"] == [0.5, 2.0]
    assert max(len(line) for line in "\n".join(lines("occlusion", rows)).splitlines()) <= 80


def test_width_has_parts_and_removals_of_every_width(proved: Proved) -> None:
    rows = proved("width")
    for domain in ("style", "object"):
        of = [r for r in rows if r["attribute"] == domain]
        assert {(r["measure"], r["setting"]) for r in of} == {
            (m, w) for m in ("f1", "union", "n90", "split", "UA, n 1", "UA, n 2") for w in (1.0, 2.0)
        }
        assert all(r["n"] == 2 for r in of)
    planted = {r["attribute"] for r in rows if r["kind"] == "planted"}
    assert planted == {"3 Gaussians", "1 Gaussian", "1 Gaussian, wide"}
    assert max(len(line) for line in "\n".join(lines("width", rows)).splitlines()) <= 80


def test_tests_are_chosen_by_name() -> None:
    assert chosen(()) == ("naming",) and chosen(("width", "control")) == ("control", "width")
    assert chosen(("all",)) == ("naming", "approximation", "control", "occlusion", "width")
    with pytest.raises(UnknownName, match=r"'contol'.*control"):
        chosen(("contol",))


def test_what_cannot_be_tested_is_said_before_anything_runs(workspace: Workspace, sae: Manifest) -> None:
    config = runs.remembered(workspace)
    check(workspace, config, sae, chosen(("all",)), "cpu")
    in_text = sae.model_copy(update={"summary": {**sae.summary, "hookpoint": "text_encoder.layers.0"}})
    with pytest.raises(ConfigError, match="reads the text encoder; the tests control are of"):
        check(workspace, config, in_text, ("control",), "cpu")
    check(workspace, config, in_text, ("naming",), "cpu")
    foreign = sae.model_copy(update={"inputs": {}})
    with pytest.raises(ConfigError, match="was not trained in this workspace"):
        check(workspace, config, foreign, ("width",), "cpu")
    how = {**sae.config, "config": {**sae.config["config"], "variant": "assigned"}}
    told = sae.model_copy(update={"config": how, "summary": {**sae.summary, "variant": "assigned"}})
    with pytest.raises(ConfigError, match=r"'assigned', which learns from concept labels, .*leave out --test width"):
        check(workspace, config, told, ("control", "width"), "cpu")
    check(workspace, config, told, ("approximation", "control"), "cpu")
    unjudged = {name: domain.model_copy(update={"judge": "none"}) for name, domain in config.domains.items()}
    with pytest.raises(ConfigError, match="no domain has a judge"):
        check(workspace, config.model_copy(update={"domains": unjudged}), sae, ("control",), "cpu")
    one = {"style": config.domains["style"]}
    with pytest.raises(ConfigError, match="domain style alone"):
        check(workspace, config.model_copy(update={"domains": one}), sae, ("occlusion",), "cpu")
