"""A stage that the package does not know: declared in one file, named by an entry point, run by the command line."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from flows.upkeep import gc
from saeuron.errors import ConfigError
from saeuron.installed import entries
from storage import Workspace
from storage.errors import BadTable
from storage.tables import write_table
from tasks import stages
from tests.end_to_end.process import LARGE, TINY, run_here

TOY = '''
"""Counts the letters of hookpoints."""

from storage.declared import Column, View
from storage.files import write_atomic
from storage.tables import table, write_table
from tasks.engine.job import RUN, Clock, Job, Made, Summary, commit
from tasks.engine.step import step

LETTERS = View(
    name="toy_letters",
    key="toy_id",
    file="letters.parquet",
    columns=(Column("letter", "VARCHAR", "", "a letter"), Column("count", "BIGINT", "letters", "how often it stands")),
)
TOYS = View(
    name="toys",
    key="toy_id",
    columns=(
        Column("hookpoint", "VARCHAR", "", "whose letters are counted"),
        Column("letters", "BIGINT", "letters", "how many it has"),
        Column("sae_id", "VARCHAR", "", "the SAE, see saes"),
    ),
)


class ToySummary(Summary):
    hookpoint: str
    letters: int


class ToyJob(Job):
    stage, version, summary_type = "toy", 1, ToySummary
    views = (LETTERS, TOYS)
    publishes = {"letters.txt": "pictures/{hookpoint}_letters.txt"}
    command = RUN
    in_run = True

    hookpoint: str
    sae_id: str

    @property
    def label(self):
        return self.hookpoint

    @classmethod
    def jobs(cls, run):
        hookpoints = [h for domain in run.config.domains.values() for h in domain.hookpoints]
        for hookpoint, sae_id in zip(sorted(hookpoints), run.made["sae"]):
            yield toy, cls(workspace=run.workspace, hookpoint=hookpoint, sae_id=sae_id)


@step("toy")
def toy(job):
    clock, word = Clock(), job.hookpoint
    rows = [{"letter": letter, "count": word.count(letter)} for letter in sorted(set(word))]
    write_table(job.folder / LETTERS.file, table(rows, LETTERS))
    write_atomic(job.folder / "letters.txt", word.encode())
    return commit(job, {"sae": job.sae_id}, ToySummary(hookpoint=word, letters=len(word)), clock)
'''
HOOKPOINTS = (
    "unet.up_blocks.0.attentions.1",
    "unet.up_blocks.1.attentions.0",
    "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2",
)


def forget() -> None:
    entries.cache_clear()
    stages._installed.cache_clear()


def install(folder: Path, name: str, code: str, target: str) -> None:
    """What an installed package leaves: a module, and the metadata that names its stage."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[saeuron.stages]\n{name} = {target}\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """`saeuron_toy` can be imported, until `undo` is called on what this gives."""
    install(tmp_path / "site", "saeuron_toy", TOY, "saeuron_toy:ToyJob")
    monkeypatch.syspath_prepend(tmp_path / "site")
    forget()
    yield monkeypatch
    sys.modules.pop("saeuron_toy", None)
    monkeypatch.undo()
    forget()


def rows(workspace: Path, query: str) -> list[dict[str, object]]:
    done = run_here("sql", query, "-w", workspace, "--format", "json")
    assert done.code == 0, done.err
    return json.loads(done.out)  # type: ignore[no-any-return]


def test_it_is_planned_run_asked_kept_and_verified(
    installed: pytest.MonkeyPatch, server: Path, workspace: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(workspace, tmp_path / "w"))
    before = {p.name for p in (root / "artifacts").glob("*/*")}
    plan = run_here("run", TINY, "-w", root, *LARGE, "--plan")
    told = [line.split() for line in plan.out.splitlines() if line.startswith("toy ")]
    assert [(words[1], words[-1]) for words in told] == [("3", "new")], plan.out
    assert "3 would be made" in plan.out

    done = run_here("run", TINY, "-w", root, *LARGE, "--threads", "1")
    assert done.code == 0 and "steps: 3 made" in done.out, done.err + done.out
    made = {p.name for p in (root / "artifacts").glob("*/*")} - before
    assert len(made) == 3 and {name.split("_v")[0] for name in made} == {"toy"}
    assert (root / "pictures" / f"{HOOKPOINTS[0]}_letters.txt").read_text() == HOOKPOINTS[0]

    found = rows(root, "select hookpoint, letters, sae_id in (select sae_id from saes) as known from toys order by all")
    assert found == [{"hookpoint": h, "letters": len(h), "known": True} for h in HOOKPOINTS]
    counted = rows(root, "select sum(count) as n from toy_letters where letter = 'u'")
    assert counted == [{"n": sum(h.count("u") for h in HOOKPOINTS)}]
    meant = rows(root, "select unit, meaning from columns where view_name = 'toys' and column_name = 'letters'")
    assert meant == [{"unit": "letters", "meaning": "how many it has"}]
    status = json.loads(run_here("status", "-w", root, "--json").out)["stages"]
    assert [row["artifacts"] for row in status if row["stage"] == "toy"] == [3]

    def garbage() -> set[str]:
        return {g.artifact for g in gc.survey(Workspace.open(root)) if g.artifact}

    assert not garbage() & made
    copy, artifact = root / "pictures" / f"{HOOKPOINTS[0]}_letters.txt", sorted(made)[0]
    copy.write_text("another")
    (root / "artifacts" / "toy" / artifact / "letters.parquet").unlink()
    damage = json.loads(run_here("verify", "-w", root, "--json").out)["damage"]
    assert [(d["kind"], d["todo"]) for d in damage] == [("missing", "saeuron run"), ("copy", "--repair rewrites it")]
    assert run_here("verify", "-w", root, "--repair").code == 1 and copy.read_text() == HOOKPOINTS[0]
    assert run_here("run", TINY, "-w", root, *LARGE, "--threads", "1").code == 0
    assert run_here("verify", "-w", root, "--deep").code == 0

    # A new version: artifacts of the old one go, once nobody is shown them.
    import saeuron_toy  # type: ignore[import-not-found]

    for path in (root / "pictures").glob("*_letters.txt"):
        path.unlink()
    saeuron_toy.ToyJob.version = 2
    assert garbage() & made == made
    # Where the stage is not installed its artifacts are asked as before, and stay as long as their SAEs.
    installed.undo()
    forget()
    assert "toy" not in stages.every() and not garbage() & made
    assert rows(root, "select count(*) as n from toys") == [{"n": 3}]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('no module named clay')", "cannot be loaded: no module named clay; mend or uninstall it"),
        ("ToyJob = 3", "is not a stage; expected a subclass of tasks.engine.job.Job"),
        (TOY.replace('"toy", 1', '"capture", 1'), "has the name of another, 'capture': rename it"),
        (
            TOY.replace('name="toys"', 'name="saes"'),
            "view 'saes', which every workspace has: rename it; mend or",
        ),
    ],
)
def test_a_stage_that_cannot_be_had_is_a_mistake_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    install(tmp_path, "saeuron_broken_toy", code, "saeuron_broken_toy:ToyJob")
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    try:
        done = run_here("run", TINY, "-w", tmp_path / "w", "--plan")
    finally:
        sys.modules.pop("saeuron_broken_toy", None)
        monkeypatch.undo()
        forget()
    assert done.code == 2 and said in done.complaint and "saeuron_broken_toy:ToyJob" in done.complaint


def test_registered_by_hand(installed: pytest.MonkeyPatch) -> None:
    from saeuron_toy import ToyJob, ToySummary

    other = type("Other", (ToyJob,), {"stage": "other", "views": (), "__module__": "elsewhere"})
    stages.register(other)
    try:
        assert stages.from_elsewhere() == [other, ToyJob]
        with pytest.raises(ConfigError, match="stage 'other' of mine has the name of the one in elsewhere"):
            stages.register(type("Mine", (ToyJob,), {"stage": "other", "views": (), "__module__": "mine"}))
    finally:
        stages.unregister("other")
    assert stages.from_elsewhere() == [ToyJob] and ToySummary(hookpoint="a", letters=1).letters == 1


def test_a_table_that_is_not_as_declared_is_not_committed(installed: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import saeuron_toy

    def write(path: Path, written: pa.Table) -> None:
        write_table(path, written.drop_columns("count"))

    workspace = Workspace.open(tmp_path / "w")
    job = saeuron_toy.ToyJob(workspace=workspace.root, hookpoint="unet", sae_id="s")
    installed.setattr(saeuron_toy, "write_table", write)
    with pytest.raises(BadTable, match="has the columns letter string; the view 'toy_letters' declares letter"):
        saeuron_toy.toy.fn(job)
    assert not workspace.has(job.id)
