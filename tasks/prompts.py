"""The prompt set of a run: write it, and read it in later steps."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from saeuron import prompts as library
from saeuron.config import DomainConfig, PromptsConfig
from saeuron.errors import BadPrompts
from saeuron.generation import Request
from saeuron.prompts import Prompt
from storage import Workspace
from storage.declared import View
from storage.identity import digest
from storage.tables import PROMPTS, read_table, table, write_table
from tasks.engine.job import RUN, Clock, Job, Made, Summary, commit
from tasks.engine.step import step


class PromptsSummary(Summary):
    """Number of prompts of a set, in all and in each split."""

    prompts: int
    train: int
    validation: int
    test: int


class PromptsJob(Job):
    """One prompt set; its id is a hash of templates, files and names of concepts."""

    stage: ClassVar[str] = "prompts"
    version: ClassVar[int] = 1
    summary_type: ClassVar[type[Summary]] = PromptsSummary
    views: ClassVar[tuple[View, ...]] = (PROMPTS,)
    command: ClassVar[str] = RUN
    in_run: ClassVar[bool] = True

    config: PromptsConfig
    domains: dict[str, DomainConfig]
    """Only the names of the concepts enter the id."""

    @property
    def label(self) -> str:
        return f"{len(self.config.templates)} splits, {len(self.config.files)} files"

    @property
    def identity(self) -> dict[str, Any]:
        files: list[str | dict[str, Any]] = []
        for file in self.config.files:
            path = Path(file if isinstance(file, str) else file.path)
            if not path.is_file():
                raise BadPrompts(f"no such prompt file: {path}; mend prompts.files in the configuration.")
            if isinstance(file, str):
                files.append(file_identity(path))
                continue
            # The name counts too: it is the prompts' source.
            told = file.model_dump(mode="json", exclude_defaults=True) | {"path": path.stem, "file": digest(path)}
            files.append(told | _kind(path))
        also: dict[str, Any] = (
            {"also": {c: list(names) for c, names in self.config.also.items()}} if self.config.also else {}
        )
        if self.config.unlearncanvas:
            found = library.anchor_files(
                self.config.unlearncanvas, self.domains["object"].concepts if "object" in self.domains else ()
            )
            also["unlearncanvas"] = {name: digest(path) for name, path in found.items()}
        return {
            **also,
            "templates": self.config.model_dump(mode="json")["templates"],
            "files": files,
            "domains": {domain: list(d.concepts) for domain, d in self.domains.items()},
        }

    def build(self) -> list[Prompt]:
        """The prompts of the set, from its templates and files; the artifact need not exist."""
        return library.build(self.config, self.domains)


def file_identity(path: Path) -> str | dict[str, Any]:
    """What makes the prompts of a file: its bytes, and the parts of its name that change how it is read.

    Raises:
        BadPrompts: it cannot be read.
    """
    source = library.source_of(path)
    told = _kind(path) | ({"source": source} if source else {})
    return told | {"file": digest(path)} if told else digest(path)


def _kind(path: Path) -> dict[str, str]:
    """The format, if it is not CSV, which an id without a format stands for."""
    suffix = path.suffix.lower()
    return {} if suffix == ".csv" else {"kind": suffix}


@step("prompts")
def prompts(job: PromptsJob) -> Made:
    """Fill the templates, read the files and write `prompts.parquet`."""
    clock = Clock()
    found = job.build()
    rows = [
        {"prompt_id": p.id, "text": p.text, "split": p.split, "concepts": dict(p.concepts)}
        | {"seed": p.seed, "guidance": p.guidance, "source": p.source}
        for p in found
    ]
    write_table(job.folder / PROMPTS.file, table(rows, PROMPTS))
    splits = {split: sum(p.split == split for p in found) for split in library.SPLITS}
    return commit(job, {}, PromptsSummary(prompts=len(found), **splits), clock)


def images_id(requests: Iterable[Request]) -> str:
    """Hash of a list of images: their keys, concepts and order.

    It enters the ids of jobs in place of the prompt set, so that prompts without images for a stage do not change it.
    """
    rows = [[r.key, sorted(r.prompt.concepts.items())] for r in requests]
    return digest(json.dumps(rows, separators=(",", ":")).encode())[:20]


def read(workspace: Workspace, prompts_id: str) -> list[Prompt]:
    """The prompts of a committed set, in its order."""
    rows = read_table(workspace.whole(prompts_id) / PROMPTS.file).to_pylist()
    return [
        # Sets of earlier versions lack the last three.
        Prompt(r["text"], r["split"], dict(r["concepts"]), r.get("seed"), r.get("guidance"), r.get("source") or "")
        for r in rows
    ]
