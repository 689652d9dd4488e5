"""Tests of an SAE beside dictionaries made from labels: their jobs, and what is printed of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.run import Run
from flows.sae.controls import controls_of
from flows.sae.report import captured, sampling
from flows.stages.prompts import prompts
from flows.summary import text_table
from saeuron.config import RunConfig, in_text
from saeuron.errors import ConfigError, UnknownName
from saeuron.sae.config import SAEConfig
from storage import Workspace, connect
from storage.manifests import Manifest
from storage.text import filled
from tasks.sae.proof_tests import TESTS, ProofTestConfig, ProofTestJob, Test

NAMING = "naming"
"""Test 3, which has a view of its own: how well single latents name concepts."""
EVERY = "all"
TIMESTEPS = 4
"""Denoising steps of activations that are kept in memory, about."""
ENOUGH = 0.8
"""Share of pictures that the whole output must move before edits of it are spoken of."""
SAME = 0.02
"""A frozen SAE that is worse by less than this says that a test does not tell trained from untrained."""
_FOUND = """
SELECT kind, attribute, measure, setting, value, ceiling, control, low, high, n FROM proofs WHERE proof_test_id = ?
"""


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """The tests that were asked for, in their order; `all` is every one, none is `naming`.

    Raises:
        UnknownName: there is no such test.
    """
    known = (NAMING, *TESTS)
    for name in names:
        if name not in (*known, EVERY):
            raise UnknownName("test", name, (*known, EVERY))
    return known if EVERY in names else tuple(t for t in known if t in (names or (NAMING,)))


def check(workspace: Workspace, config: RunConfig, sae: Manifest, tests: Sequence[str], device: str) -> None:
    """Find a mistake before a server is started and a model loaded.

    Raises:
        ConfigError: a test cannot be made of this SAE, or not with this configuration.
    """
    wanted, run = [t for t in TESTS if t in tests], Run.of(workspace, config, device)
    if not wanted:
        return
    hookpoint, capture = sae.summary["hookpoint"], captured(workspace, sae)
    look = sampling(run, sae, capture)
    if in_text(hookpoint) or look.half != "conditional":
        what = "text encoder" if in_text(hookpoint) else "unconditional half"
        raise ConfigError(
            f"{sae.id} reads the {what}; the tests {', '.join(wanted)} are of the denoiser's conditional half: "
            f"ask for --test {NAMING} alone."
        )
    if capture is None and {"occlusion", "width"} & {*wanted}:
        raise ConfigError(
            f"{sae.id} was not trained in this workspace, so nothing says how; leave out --test occlusion and width, "
            "which train others like it."
        )
    trains = [test for test in wanted if test in ("occlusion", "width")]
    if capture is not None and trains and SAEConfig.model_validate(sae.config["config"]).needs_labels:
        raise ConfigError(
            f"{sae.id} is of the variant {sae.summary['variant']!r}, which learns from concept labels, but the tests "
            f"occlusion and width train SAEs on rows without; leave out --test {' and '.join(trains)}."
        )
    if "control" in wanted and not run.own_judges():
        raise ConfigError("no domain has a judge (judge: none), and the test control needs one; name a judge.")
    if "occlusion" in wanted and len(config.domains) < 2:
        raise ConfigError(
            f"the configuration has the domain {', '.join(config.domains)} alone; the test occlusion needs two, such "
            "as object and style."
        )


def test_job(run: Run, sae: Manifest, test: Test, images: int | None = None) -> ProofTestJob:
    """The job of one test, after the controls that it needs were trained. Raises as `sampling`.

    Args:
        images: of each set; None: as `ProofTestConfig` has it.
    """
    capture = captured(run.opened, sae)
    look, trains = sampling(run, sae, capture), test in ("occlusion", "width")
    every = max(1, look.model.steps // TIMESTEPS) if trains else 1
    taken = capture.config["config"] if capture is not None else {}
    how = {"test": test, "every": every, "read": look.read, "dtype": taken.get("dtype", "float16")}
    return ProofTestJob(
        workspace=run.workspace,
        device=run.device,
        model=look.model,
        model_id=run.model_id,
        config=ProofTestConfig.model_validate(how | ({"images": images} if images else {})),
        sae_id=sae.id,
        controls={} if trains else controls_of(run, sae, capture),
        train=SAEConfig.model_validate(sae.config["config"]) if trains else None,
        prompts_id=capture.inputs["prompts"] if capture is not None else prompts(run)[""].id,
        judges=run.own_judges() if test in ("control", "width") else {},
    )


def found(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    """The rows of one test."""
    with connect(workspace) as views:
        query = views.execute(_FOUND, [name])
        names = [column[0] for column in query.description]
        return [dict(zip(names, row, strict=True)) for row in query.fetchall()]


def lines(test: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A test as a table, and in words what it does not say."""
    return {"approximation": _approximation, "control": _control}.get(test, _counted)(test, rows)


def _approximation(test: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    wanted = ("sufficiency along", "necessity along", "sufficiency", "necessity")
    shown = []
    for attribute, kind in dict.fromkeys((r["attribute"], r["kind"]) for r in rows):
        of = {r["measure"]: r for r in rows if (r["attribute"], r["kind"]) == (attribute, kind)}
        figures = {m: f"{of[m]['value']:.2f} ({of[m]['low']:.2f} to {of[m]['high']:.2f})" for m in wanted[:2]}
        shown.append({"along": attribute, "dictionary": kind, "sufficient": figures[wanted[0]]})
        shown[-1] |= {"necessary": figures[wanted[1]], "of all": f"{of['sufficiency']['value']:.2f}"}
    told = [
        filled(
            f"{test}: what the prediction keeps with the reconstruction in place (sufficient), and loses without it "
            "(necessary), along the difference of two prompts, and sufficient of all of it; 1 is everything"
        ),
        text_table(["along", "dictionary", "sufficient", "necessary", "of all"], shown),
    ]
    for attribute in dict.fromkeys(r["attribute"] for r in rows):
        by = {r["kind"]: r["value"] for r in rows if (r["attribute"], r["measure"]) == (attribute, wanted[0])}
        if "frozen" in by and by["frozen"] >= by["trained"] - SAME:
            told.append(filled(f"{attribute}: this test does not tell the trained SAE from one with a frozen decoder"))
    return told


def _control(test: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shown, told = [], []
    for r in rows:
        if r["measure"] == "success":
            of = {m: x["value"] for x in rows for m in [x["measure"]] if _same(x, r)}
            shown.append({"domain": r["attribute"], "edit": r["kind"], "k": _number(r["setting"])})
            shown[-1] |= {"moved": of["moved"], "kept": of["kept"], "both": r["value"]}
            shown[-1]["95 %"] = f"{100 * r['low']:.0f} to {100 * r['high']:.0f}"
            shown[-1]["magnitude"] = f"{of['magnitude']:.2f}" if "magnitude" in of else ""
    told = [
        filled(
            f"{test}: pictures that show another concept after the edit (moved), whose other domains stay (kept); "
            f"percent of {rows[0]['n'] if rows else 0} pictures"
        ),
        text_table(["domain", "edit", "k", "moved", "kept", "both", "95 %", "magnitude"], shown),
    ]
    for r in rows:
        if (r["kind"], r["measure"]) == ("whole output", "moved") and r["value"] < ENOUGH:
            said = f"{r['attribute']}: the whole output moves {100 * r['value']:.0f} % only, so edits there say little"
            told.append(filled(said))
    return told


def _counted(test: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = [
        {"attribute": r["attribute"], "rows": r["kind"], "measure": r["measure"], "at": _number(r["setting"])}
        | {"value": _number(r["value"]), "control": _number(r["control"])}
        for r in rows
    ]
    said = {
        "occlusion": "latents that name the quiet attribute, with a part of the loud one taken away",
        "width": "latents that name concepts, by width N / D",
    }
    return [
        filled(f"{test}: {said[test]}"),
        text_table(["attribute", "rows", "measure", "at", "value", "control"], shown),
    ]


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("kind", "attribute", "setting"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")
