"""Every stage, in the order of a run; `tasks/engine/job.py` says how to declare one."""

import functools

from saeuron import installed
from saeuron.errors import ConfigError
from tasks.audit import AuditJob
from tasks.capture import CaptureJob
from tasks.compare import CompareJob
from tasks.engine.job import Job
from tasks.evaluate import EvaluateJob
from tasks.images import ImagesJob
from tasks.inspection.attribute import AttributionJob
from tasks.inspection.blindspots import BlindspotsJob
from tasks.inspection.locate import LocateJob
from tasks.inspection.relatives import RelativesJob
from tasks.inspection.steer import SteerJob
from tasks.judge import JudgeJob
from tasks.measure.leave_out import LeaveOutJob
from tasks.measure.second import SecondJob
from tasks.measure.sequence import SequenceJob
from tasks.packs import PacksJob
from tasks.prompts import PromptsJob
from tasks.report import ReportJob
from tasks.sae.describe import DescribeJob
from tasks.sae.explain import ExplainJob
from tasks.sae.proof_tests import ProofTestJob
from tasks.sae.prove import ProofJob
from tasks.sae.report import DiagnosisJob, StabilityJob
from tasks.score import ScoreJob
from tasks.totals import TotalsJob
from tasks.train import TrainJob
from tasks.trials import TrialsJob
from tasks.tune import TuneJob

SHIPPED: tuple[type[Job], ...] = (
    PromptsJob,
    CaptureJob,
    TrainJob,
    ScoreJob,
    TotalsJob,
    PacksJob,
    TrialsJob,
    TuneJob,
    ImagesJob,
    JudgeJob,
    EvaluateJob,
    CompareJob,
    ReportJob,
    DiagnosisJob,
    StabilityJob,
    ProofJob,
    ProofTestJob,
    ExplainJob,
    DescribeJob,
    AuditJob,
    LocateJob,
    AttributionJob,
    RelativesJob,
    SteerJob,
    BlindspotsJob,
    SequenceJob,
    LeaveOutJob,
    SecondJob,
)
GROUP = "saeuron.stages"
"""Entry points of installed packages; each names the class of a stage."""
_registered: dict[str, type[Job]] = {}


def register(stage: type[Job]) -> None:
    """Add a stage from elsewhere, for this process. Workers and other commands know those of entry points.

    Raises:
        ConfigError: another stage has the name.
    """
    if (known := every().get(stage.stage)) is not None and known is not stage:
        raise ConfigError(
            f"stage {stage.stage!r} of {stage.__module__} has the name of the one in {known.__module__}; "
            "expected a name of its own: rename it."
        )
    _registered[stage.stage] = stage


def unregister(name: str) -> None:
    """Forget a stage that `register` added; other names are ignored."""
    _registered.pop(name, None)


def every() -> dict[str, type[Job]]:
    """{name: stage} of all known stages: shipped, of installed packages, registered.

    Raises:
        ConfigError: an entry point cannot be loaded or does not name a stage, or two stages have the same name.
    """
    return {**_installed(), **_registered}


def from_elsewhere() -> list[type[Job]]:
    """The stages that do not ship, by name."""
    return [stage for _, stage in sorted(every().items()) if stage not in SHIPPED]


@functools.cache
def _installed() -> dict[str, type[Job]]:
    found = {stage.stage: stage for stage in SHIPPED}
    for entry in installed.entries(GROUP).values():
        what, stage = f"stage {entry.name!r} ({entry.value})", installed.load("stage", entry)
        if not (isinstance(stage, type) and issubclass(stage, Job)):
            raise ConfigError(f"{what} is not a stage; expected a subclass of tasks.engine.job.Job.")
        if stage.stage in found:
            raise ConfigError(f"{what} has the name of another, {stage.stage!r}: rename it.")
        found[stage.stage] = stage
    return found
