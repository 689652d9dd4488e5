"""The flows that deployments run: they do what the commands do, with forms as parameters."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows.config import load
from flows.deploy.forms import ConceptForm, EvaluateForm, Machine, PipelineForm
from flows.deploy.notify import notify
from flows.work import Work, add_concept, do, measure
from storage import Workspace
from tasks.engine import page, progress

ON_THIS_MACHINE = Machine()


@flow(name="scheduled", on_failure=[notify], on_crashed=[notify])
def scheduled(what: PipelineForm, machine: Machine = ON_THIS_MACHINE) -> dict[str, Any]:
    """Run the whole method, as `saeuron run` does; it fails, with what was finished kept, if any step failed.

    Args:
        what: the configuration.
        machine: where it runs.
    """
    dtype = [f"model.dtype={what.dtype}"] if what.dtype else []
    chosen = load(what.file or what.config, [*what.settings, *dtype])
    workspace = Workspace.open(Path(machine.workspace))
    return _shown(Work(chosen, None), workspace, machine, keep_config=True)


@flow(name="add-concept", on_failure=[notify], on_crashed=[notify])
def add(what: ConceptForm, machine: Machine = ON_THIS_MACHINE) -> dict[str, Any]:
    """Add a concept to a workspace, as `saeuron concept add` does; only its own work is done.

    Args:
        what: the concept.
        machine: where it runs.
    """
    workspace = Workspace.open(Path(machine.workspace), create=False)
    return _shown(add_concept(workspace, what.concept), workspace, machine)


@flow(name="evaluate", on_failure=[notify], on_crashed=[notify])
def evaluate(what: EvaluateForm, machine: Machine = ON_THIS_MACHINE) -> dict[str, Any]:
    """Measure removals on test prompts, as `saeuron evaluate` does; what is missing for that is made first.

    Args:
        what: which concepts.
        machine: where it runs.
    """
    workspace = Workspace.open(Path(machine.workspace), create=False)
    return _shown(measure(workspace, what.concepts, what.seeds), workspace, machine)


def _shown(work: Work, workspace: Workspace, machine: Machine, keep_config: bool = False) -> dict[str, Any]:
    """Do the work, with bars and lines on Prefect's page."""
    page.hear_libraries()
    with progress.listening(page.Bars()):
        return do(work, workspace, machine.device, machine.threads, keep_config)
