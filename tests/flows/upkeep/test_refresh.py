"""Concepts that leave, come back and are refreshed: what that makes of plans, records and commands."""

import json
import shutil
from pathlib import Path

import pytest
import typer

from flows.config import load
from flows.plan import Planned
from flows.upkeep import gc, refresh
from saeuron.config import ConceptConfig
from saeuron.errors import ConfigError
from storage import Workspace
from tasks.registry import concepts, runs
from tasks.registry.concepts import Roster
from tests.end_to_end.process import TINY, run_here
from tests.flows.test_plan import made_up, plan

CONFIG = load(str(TINY))
STYLES = ("stripes", "neon", "dots")
CHECKER = ConceptConfig(name="checker", domain="style")
GRAIN = ConceptConfig(name="grain", domain="style")
BY = " by saeuron"
"""How the labels of what has a method end."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run with a concept that was added."""
    root = tmp_path_factory.mktemp("refresh") / "w"
    concepts.add(Workspace.open(root), CONFIG, CHECKER)
    made_up(root, CONFIG)
    runs.remember(Workspace.open(root), CONFIG)
    return root


@pytest.fixture
def whole(template: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(template, tmp_path / "w"))


def planned(workspace: Workspace, stage: str) -> dict[str, Planned]:
    return {p.label.removesuffix(BY): p for p in plan(CONFIG, workspace.root) if p.stage == stage}


def todo(workspace: Workspace) -> list[tuple[str, str]]:
    return sorted(
        {
            (p.stage, p.label.removesuffix(BY))
            for p in plan(CONFIG, workspace.root)
            if not p.cached and p.stage not in ("images", "judgements")
        }
    )


def reference(workspace: Workspace, concept: str) -> tuple[str, ...]:
    return Roster.of(workspace, CONFIG).reference(CONFIG, concept)


class TestRemove:
    @pytest.mark.parametrize("name", ["checker", "stripes", "neon"])
    def test_it_leaves_the_plan_and_nothing_else_changes(self, whole: Workspace, name: str) -> None:
        before = {p.id for p in plan(CONFIG, whole.root)}
        concepts.drop(whole, CONFIG, name)
        # But for the totals of the domain as it is now.
        after = [p for p in plan(CONFIG, whole.root) if p.stage != "totals"]
        assert all(p.cached for p in after) and {p.id for p in after} < before
        assert name not in planned(whole, "score") and name not in planned(whole, "removal")
        assert set(planned(whole, "removal")) == {"stripes", "cat", "checker"} - {name}

    def test_the_configuration_and_its_prompts_stay_as_they_are(self, whole: Workspace) -> None:
        stages = ("prompts", "capture", "sae")
        before = [p for p in plan(CONFIG, whole.root) if p.stage in stages]
        concepts.drop(whole, CONFIG, "neon")
        assert [p for p in plan(CONFIG, whole.root) if p.stage in stages] == before

    def test_its_statistics_are_made_where_a_removal_needs_them_to_be_made_again(self, whole: Workspace) -> None:
        score = planned(whole, "score")["neon"].id
        removal, trials = (planned(whole, stage)["stripes"].id for stage in ("removal", "trials"))
        concepts.drop(whole, CONFIG, "neon")
        whole.delete(score)
        assert {stage for stage, _ in todo(whole)} == {"totals"}
        whole.delete(removal)
        assert {p.id for p in plan(CONFIG, whole.root) if not p.cached and p.stage != "totals"} == {removal}
        whole.delete(trials)
        again = {p.id for p in plan(CONFIG, whole.root) if not p.cached}
        assert {score, removal} <= again

    def test_an_added_one_that_others_were_computed_against(self, whole: Workspace) -> None:
        concepts.add(whole, CONFIG, GRAIN)
        made_up(whole.root, CONFIG)
        grain = planned(whole, "removal")["grain"]
        concepts.drop(whole, CONFIG, "checker")
        assert planned(whole, "removal")["grain"] == grain and {stage for stage, _ in todo(whole)} == {"totals"}
        assert [a.name for a in concepts.joined(whole, CONFIG)] == ["grain"]
        assert [a.name for a in Roster.of(whole, CONFIG).added] == ["checker", "grain"]
        concepts.refresh(whole, CONFIG, "grain")
        assert [a.name for a in Roster.of(whole, CONFIG).added] == ["grain"]
        assert reference(whole, "grain") == (*STYLES, "grain")
        assert len(planned(whole, "prompts")) == 1


class TestBack:
    def test_the_same_file_brings_it_back_as_it_was(self, whole: Workspace) -> None:
        before = plan(CONFIG, whole.root)
        record = concepts.added(whole)
        concepts.drop(whole, CONFIG, "checker")
        concepts.add(whole, CONFIG, GRAIN)
        assert concepts.add(whole, CONFIG, CHECKER) == record[0]
        concepts.drop(whole, CONFIG, "grain")
        assert plan(CONFIG, whole.root) == before

    def test_one_of_the_configuration(self, whole: Workspace) -> None:
        before = plan(CONFIG, whole.root)
        concepts.drop(whole, CONFIG, "neon")
        concepts.restore(whole, CONFIG, ConceptConfig(name="neon", domain="style"))
        assert plan(CONFIG, whole.root) == before
        for domain, templates in (("object", None), ("style", {"train": ("A {object} in {style}.",)})):
            with pytest.raises(ConfigError, match="to bring it back, give its name, domain: style, and no templates"):
                concepts.restore(whole, CONFIG, ConceptConfig(name="neon", domain=domain, templates=templates))

    def test_with_more_templates_it_grows_where_it_stands(self, whole: Workspace) -> None:
        few = dict(CONFIG.prompts.templates)
        first = GRAIN.model_copy(update={"templates": few})
        more = {**few, "train": (*few["train"], "A {object} all over in {style}, many of them.")}
        concepts.add(whole, CONFIG, first)
        made_up(whole.root, CONFIG)
        reference_before, before = reference(whole, "grain"), {p.id for p in plan(CONFIG, whole.root)}
        assert concepts.add(whole, CONFIG, first.model_copy(update={"templates": more})).templates == more
        assert reference(whole, "grain") == reference_before
        assert {label for _, label in todo(whole)} == {"grain", "3 splits, 0 files"}
        assert len({p.id for p in plan(CONFIG, whole.root)} & before) > 20
        with pytest.raises(ConfigError, match="expected those and more"):
            concepts.add(whole, CONFIG, first)

    @pytest.mark.parametrize("how", ["grown", "dropped and added otherwise"])
    def test_removals_that_were_computed_against_it_stay_until_they_are_refreshed(
        self, whole: Workspace, how: str
    ) -> None:
        few = dict(CONFIG.prompts.templates)
        many = [f"{start}{count} times over in {{style}}." for start in ("", "A {object} ") for count in (2, 3, 4, 5)]
        more = {**few, "train": (*few["train"], *many)}
        first = GRAIN.model_copy(update={"templates": few})
        concepts.add(whole, CONFIG, first)
        made_up(whole.root, CONFIG)
        concepts.add(whole, CONFIG, ConceptConfig(name="mosaic", domain="style"))
        concepts.refresh(whole, CONFIG, "stripes")
        made_up(whole.root, CONFIG)
        before = planned(whole, "removal")
        if how != "grown":
            concepts.drop(whole, CONFIG, "grain")
        concepts.add(whole, CONFIG, first.model_copy(update={"templates": more}))
        after = planned(whole, "removal")
        assert not after["grain"].cached and not planned(whole, "score")["grain"].cached
        assert {c: p for c, p in after.items() if c != "grain"} == {c: p for c, p in before.items() if c != "grain"}
        made_up(whole.root, CONFIG)
        # What they were computed against is not for gc to take.
        trials = [m.config["trials_id"] for m in whole.artifacts("removal") if m.id == before["mosaic"].id]
        old = [whole.manifest(i).config["scores"]["grain"] for i in trials]
        assert old and not {*old} & {found.artifact for found in gc.survey(whole)}
        for name in ("mosaic", "stripes"):
            assert refresh.choose(whole, CONFIG, name, everything=False) == [name]
            concepts.refresh(whole, CONFIG, name)
            now = planned(whole, "removal")
            assert not now[name].cached and now[name].id != before[name].id
        assert Roster.of(whole, CONFIG).reference_templates == {}

    def test_a_dropped_one_may_come_back_as_another(self, whole: Workspace) -> None:
        other = CHECKER.model_copy(update={"templates": {"train": ("A {object} in {style} style.",)}})
        with pytest.raises(ConfigError, match="was added before, with other templates; expected those and more"):
            concepts.add(whole, CONFIG, other)
        concepts.drop(whole, CONFIG, "checker")
        concepts.drop(whole, CONFIG, "neon")
        back = concepts.add(whole, CONFIG, other)
        assert back.reference == ("stripes", "dots", "checker") and concepts.added(whole) == [back]

    def test_one_that_the_configuration_takes_in_stays_away_until_it_is_brought_back(self, whole: Workspace) -> None:
        concepts.drop(whole, CONFIG, "checker")
        style = CONFIG.domains["style"]
        domains = {**CONFIG.domains, "style": style.model_copy(update={"concepts": (*STYLES, "checker")})}
        taken = CONFIG.model_copy(update={"domains": domains})
        assert Roster.of(whole, taken).present(taken)["style"] == STYLES
        concepts.restore(whole, taken, CHECKER)
        assert Roster.of(whole, taken).present(taken)["style"] == (*STYLES, "checker")


class TestRefresh:
    def test_only_what_is_named_is_computed_anew(self, whole: Workspace) -> None:
        before = planned(whole, "removal")
        concepts.refresh(whole, CONFIG, "stripes")
        after = planned(whole, "removal")
        assert reference(whole, "stripes") == (*STYLES, "checker")
        assert not after["stripes"].cached and after["stripes"].id != before["stripes"].id
        assert {c: p for c, p in after.items() if c != "stripes"} == {c: p for c, p in before.items() if c != "stripes"}

    def test_without_those_that_have_left(self, whole: Workspace) -> None:
        concepts.drop(whole, CONFIG, "neon")
        for name in ("stripes", "checker"):
            concepts.refresh(whole, CONFIG, name)
            assert reference(whole, name) == ("stripes", "dots", "checker")
        # What was refreshed does not move until it is refreshed again.
        concepts.restore(whole, CONFIG, ConceptConfig(name="neon", domain="style"))
        assert reference(whole, "stripes") == ("stripes", "dots", "checker")
        assert reference(whole, "dots") == STYLES

    def test_it_outlives_leaving(self, whole: Workspace) -> None:
        concepts.refresh(whole, CONFIG, "stripes")
        concepts.drop(whole, CONFIG, "stripes")
        concepts.restore(whole, CONFIG, ConceptConfig(name="stripes", domain="style"))
        assert reference(whole, "stripes") == (*STYLES, "checker")
        assert len(list((whole.root / "concepts").iterdir())) == 2

    def test_another_configuration_does_not_know_of_it(self, whole: Workspace) -> None:
        concepts.refresh(whole, CONFIG, "stripes")
        style = CONFIG.domains["style"].model_copy(update={"concepts": ("neon", "dots")})
        moved = {"style": style, "object": CONFIG.domains["object"]}
        other = CONFIG.model_copy(update={"domains": moved})
        assert Roster.of(whole, other).references == {}
        assert Roster.of(whole, other).reference(other, "neon") == ("neon", "dots")


class TestPage:
    def state(self, *reference: str, **figures: float | None) -> refresh.State:
        return refresh.State("removal_v1_" + "0" * 20, "saeuron", reference, {"n": 4, "gamma": -2.0}, figures)

    def test_two_rows_a_concept(self) -> None:
        stripes, neon = ("stripes", "saeuron"), ("neon", "")
        before = {stripes: self.state("a", "b", "c", UA=0.5, IRA=1.0, CRA=None), neon: None}
        after = {stripes: self.state("a", "d", "e", "f", "g", UA=0.75, IRA=1.0, CRA=None), neon: None}
        lines = refresh.page(before, after)[0].splitlines()
        assert lines[2:] == [
            "stripes  before  3 concepts                       n 4 gamma -2  50.0  100.0    -",
            "         after   5 concepts: +d +e +f and 3 more  n 4 gamma -2  75.0  100.0    -",
            "neon     before  -                                -                -      -    -",
            "         after   -                                -                -      -    -",
        ]
        plain = refresh.as_json(before, after)
        assert plain[0]["after"]["reference"] == ("a", "d", "e", "f", "g") and plain[1]["before"] is None


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a run was begun")

    monkeypatch.setattr("tasks.registry.runs.start", refuse)
    monkeypatch.setattr("flows.commands.concept.run_pipeline", refuse)


@pytest.mark.usefixtures("no_run")
class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["drop", "nenon"], "unknown concept 'nenon': did you mean 'neon'"),
            (["drop", "dots"], "concept 'dots' was dropped; `saeuron concept add FILE` brings it back"),
            (["show", "dots"], "concept 'dots' was dropped"),
            (["refresh", "dots"], "concept 'dots' was dropped"),
            (["refresh", "nenon"], "unknown concept 'nenon': did you mean 'neon'"),
            (["refresh"], "expected the name of a concept or --all, found neither; outdated: none"),
            (["refresh", "neon", "--all"], "expected the name of a concept or --all, found both"),
            (["refresh", "stripes", "--device", "gpu"], "device 'gpu' cannot be used here"),
        ],
    )
    def test_one_line(self, whole: Workspace, words: list[str], said: str) -> None:
        concepts.drop(whole, CONFIG, "dots")
        before = {p: p.read_bytes() for p in (whole.root / "concepts").iterdir()}
        done = run_here("concept", *words, "-w", whole.root)
        assert done.code == 2 and said in done.complaint and not done.out
        assert {p: p.read_bytes() for p in (whole.root / "concepts").iterdir()} == before

    def test_the_last_of_its_domain_stays(self, whole: Workspace) -> None:
        for name in ("cat", "moon"):
            assert run_here("concept", "drop", name, "-w", whole.root).code == 0
        done = run_here("concept", "drop", "star", "-w", whole.root)
        assert done.code == 2 and "'star' is the last one of object" in done.complaint

    def test_one_of_the_configuration_comes_back_by_its_own_name_only(self, whole: Workspace, tmp_path: Path) -> None:
        concepts.drop(whole, CONFIG, "neon")
        (tmp_path / "c.yaml").write_text("name: neon\ndomain: object\n")
        done = run_here("concept", "add", tmp_path / "c.yaml", "-w", whole.root)
        assert done.code == 2 and "concept 'neon' is one of the configuration's" in done.complaint

    def test_nothing_to_refresh(self, whole: Workspace) -> None:
        done = run_here("concept", "refresh", "--all", "-w", whole.root)
        assert (done.code, done.out) == (0, "every removal is up to date\n")
        done = run_here("concept", "refresh", "cat", "--all", "-w", whole.root)
        assert done.code == 2


@pytest.mark.parametrize("code", [0, 1])
def test_as_json_there_is_one_answer(whole: Workspace, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    begun: list[object] = []

    def pretend(config: object, workspace: Path, concepts: list[str], *args: object, keep_config: bool) -> None:
        begun.append((concepts, keep_config))
        typer.echo('{"the run": "says this"}')
        if code:
            raise typer.Exit(code)

    monkeypatch.setattr("flows.commands.concept.run_pipeline", pretend)
    done = run_here("concept", "refresh", "stripes", "-w", whole.root, "--json")
    assert done.code == code and begun == [(["stripes"], False)]
    # None of the bytes that these artifacts are made of is a removal that is in use.
    assert json.loads(done.out) == [{"concept": "stripes", "method": None, "before": None, "after": None}]
    assert reference(whole, "stripes") == (*STYLES, "checker")
    text = run_here("concept", "refresh", "cat", "-w", whole.root).out
    assert text.splitlines()[0] == '{"the run": "says this"}'
    assert text.splitlines()[2].split() == ["concept", "computed", "against", "settings", "UA", "IRA", "CRA"]
