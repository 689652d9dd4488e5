"""The subject of a report, the commands that it names, and a check of its figures."""

import re
from collections.abc import Sequence
from pathlib import Path

from flows.hints import command
from flows.upkeep.diff import resolve
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.pages.report import figures_of
from storage import Workspace
from storage.identity import split_id
from storage.manifests import Manifest
from storage.seals import check_page
from storage.text import few
from tasks.explore import run_report
from tasks.explore.check import BESIDE, Checker, differences
from tasks.explore.shelf import Shelf, remembered
from tasks.registry import runs


class Subject:
    """The subject of a report: a run, or the removals of a concept."""

    def __init__(self, workspace: Workspace, what: str | None = None) -> None:
        """Find it; None: the last run that measured something.

        Raises:
            UnknownName: there is no such run or concept.
            ConfigError: nothing was measured.
        """
        self.shelf = Shelf(workspace)
        self.run: runs.Record | None = None
        self.config: RunConfig | None = remembered(workspace)
        self.evaluations: Sequence[Manifest] = run_report.of_concept(self.shelf, what) if what else []
        self.name = what or ""
        if not self.evaluations:
            self.run = _run(self.shelf, what)
            self.name = f"run-{self.run.number}"
            self.evaluations, self.config = run_report.of_run(self.shelf, self.run)

    @property
    def title(self) -> str:
        """The page's title."""
        if self.run is None:
            return f"{self.name}, removed"
        concepts = list(dict.fromkeys(m.summary["concept"] for m in self.evaluations))
        return f"Run {self.run.number}: {few(concepts)} removed"

    @property
    def commands(self) -> list[str]:
        """The command that makes the same again. It names no path: a report may be published, and a path is private."""
        first = self.evaluations[0].summary
        chosen = f"{first['concept']}.{first['method']}"
        made = [command("run", "run.yaml")] if self.run else [command("evaluate", first["concept"])]
        comment = ["# run.yaml: the configuration at the end of this page"] if self.run else []
        remove = command("generate", "PROMPT", "--remove", chosen, "--out", "image.png")
        what = str(self.run.number) if self.run else self.name
        return [*comment, *made, remove, command("explore"), command("report", what, "--check")]

    def write(self, out: Path | None = None) -> Path:
        """Write the report; returns its path."""
        return run_report.write(
            self.shelf,
            self.evaluations,
            out or self.place,
            title=self.title,
            about=run_report.facts(self.run) if self.run else {},
            config=self.config,
            commands=self.commands,
        )

    @property
    def place(self) -> Path:
        """The default path to write it to."""
        return run_report.place(self.shelf.workspace, self.name)

    def check(self, path: Path, device: str = "cpu") -> tuple[int, list[str], list[str]]:
        """Judge the images again, and compare with the figures of the page at `path`.

        Returns:
            (figures that were compared, one line for each that differs, what the page shows and was not compared).

        Raises:
            ConfigError: the page is not a report, is of an earlier version, or of an evaluation that is not here.
            ArtifactDamaged: it is not as it was written.
        """
        check_page(path)
        try:
            shown = figures_of(path.read_text("utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is not a report: {error}; expected a file that saeuron report wrote.") from None
        if any("verdict" in figures and "mean" not in figures for figures in shown.values()):
            raise ConfigError(f"{path} is of an earlier version, which kept fewer figures: write the report again.")
        checker, lines, compared = Checker(self.shelf, self.config, device), [], 0
        seen = []
        for name, figures in shown.items():
            manifest = self.shelf.manifests.get(name.removeprefix(BESIDE))
            if manifest is None:
                raise ConfigError(f"{path} shows {name}, which is not here any more: write the report again.")
            about = manifest.summary
            if manifest.stage == "comparison":
                who = f"{about['domain']}: {about['method']} beside {about['control']}"
                again = checker.compared(manifest)
            else:
                who = f"{about['concept']} by {about['method']}"
                again = checker.again(manifest, brief=name != manifest.id)
                unknown = tuple(checker.unknown(manifest))
                figures = {n: value for n, value in figures.items() if not n.startswith(unknown)}
                seen.append(manifest)
            compared += len(figures)
            lines += [f"{who}: {line}" for line in differences(figures, again)]
        return compared, lines, checker.unchecked(seen)


def _run(shelf: Shelf, what: str | None) -> runs.Record:
    found = runs.records(shelf.workspace)
    if what is None or re.fullmatch(r"last(~\d+)?", what):
        # Commands that look something up are runs as well.
        measured = [r for r in found if any(split_id(i)[0] == "evaluation" for i in r.artifacts or ())]
        if not measured:
            raise ConfigError("no run here has measured a removal; start with: saeuron run")
        return resolve(shelf.workspace, what or "last", measured)
    if what.isdecimal() and (numbered := [r for r in found if r.number == int(what)]):
        return numbered[0]
    try:
        return resolve(shelf.workspace, what)
    except UnknownName:
        concepts = [name for c, m in shelf.evaluations for name in (c, f"{c}.{m}")]
        known = [*concepts, *(str(r.number) for r in found), "last"]
        raise UnknownName("run or concept", what, {*known}) from None
