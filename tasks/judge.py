"""Have a judge say what the images of a set show: one artifact per image set, domain, judge and labels."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from saeuron.figures.metrics import Judged
from storage import Workspace
from storage.declared import View
from storage.tables import DETECTIONS, JUDGEMENTS, read_table, table, write_table
from tasks import images
from tasks.engine import progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.judge import DomainJudge
from tasks.engine.step import step


class JudgeSummary(Summary):
    """The judge, the domain and the number of images."""

    domain: str
    judge: str
    judge_id: str
    """The judge by its content: weights, thresholds, preprocessing."""
    images: int


class JudgeJob(Job):
    """The judgements of one image set in one domain."""

    stage: ClassVar[str] = "judgements"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "{domain} by {judge.spec}"
    summary_type: ClassVar[type[Summary]] = JudgeSummary
    views: ClassVar[tuple[View, ...]] = (JUDGEMENTS, DETECTIONS)
    command: ClassVar[str] = "saeuron evaluate {concept}"
    in_run: ClassVar[bool] = True

    image_set_id: str
    domain: str
    judge: DomainJudge

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "judge": self.judge.identity}


@step("judge")
def judge(job: JudgeJob) -> Made:
    """Judge every image of the set, in its order; write `judgements.parquet` and `detections.parquet`."""
    clock = Clock()
    workspace = job.open
    index = images.index(workspace, job.image_set_id)
    rows: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for batch, pictures in images.batches(workspace, job.image_set_id, index):
        for row, found in zip(batch, job.judge.look(job.domain, pictures, job.device), strict=True):
            rows.append(
                {
                    "image_set_id": job.image_set_id,
                    "key": row["key"],
                    "prompt_id": row["prompt_id"],
                    "image_index": row["image_index"],
                    "domain": job.domain,
                    "asked": dict(row["asked"]).get(job.domain),
                    "judge": job.judge.spec,
                    "label": found.label,
                    "score": found.score,
                }
            )
            where = {name: rows[-1][name] for name in ("image_set_id", "key", "prompt_id", "image_index", "domain")}
            for part, score, box in found.found:
                placed = dict(zip(("x", "y", "width", "height"), box, strict=True))
                parts.append({**where, "judge": job.judge.spec, "part": part, "score": score, **placed})
        progress.tell(f"judge {job.label}", len(rows), len(index), "images")
    write_table(job.folder / JUDGEMENTS.file, table(rows, JUDGEMENTS))
    write_table(job.folder / DETECTIONS.file, table(parts, DETECTIONS))
    summary = JudgeSummary(domain=job.domain, judge=job.judge.spec, judge_id=job.judge.id, images=len(rows))
    return commit(job, {"images": job.image_set_id}, summary, clock)


def read(workspace: Workspace, judgements: Mapping[str, Iterable[str]]) -> list[Judged]:
    """What each image's prompt asks for and what the judges saw.

    Args:
        workspace: where the artifacts are.
        judgements: {image set: its judgements, at most one a domain}.
    """
    found = []
    for image_set_id, names in judgements.items():
        seen: dict[str, dict[str, str | None]] = {}
        for name in names:
            for row in read_table(workspace.whole(name, JUDGEMENTS.file) / JUDGEMENTS.file).to_pylist():
                seen.setdefault(row["key"], {})[row["domain"]] = row["label"]
        for row in images.index(workspace, image_set_id):
            found.append(Judged(row["prompt_id"], row["image_index"], dict(row["asked"]), seen.get(row["key"], {})))
    return found
