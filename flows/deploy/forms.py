"""Parameters of deployments, which Prefect's page shows as forms: a model is a form, a field a row."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from flows.config import names
from saeuron.config import ConceptConfig

Sentences = list[str]


class Form(BaseModel):
    """Base of all forms. Unknown fields are refused, so that nothing else is stored with a run."""

    model_config = ConfigDict(extra="forbid")


class Machine(Form):
    """Where it runs."""

    workspace: str = Field(
        "workspace", min_length=1, title="Workspace", description="Folder of everything that is made, on the worker."
    )
    device: str = Field(
        "cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        title="Device",
        description="Where models run: cpu, cuda, cuda:1. Work on cuda waits for the limit 'gpu', where there is one.",
    )
    threads: int = Field(2, ge=1, title="Threads", description="Torch threads on the CPU. Results depend on it.")


class PipelineForm(Form):
    """The whole method; what is there already is not made again."""

    config: Annotated[str, Field(json_schema_extra={"enum": [*names()]})] = Field(
        "canvas", title="Configuration", description="One that ships with the project."
    )
    file: str | None = Field(
        None, title="File", description="A YAML file on the worker, in place of a configuration that ships."
    )
    settings: list[str] = Field([], title="Settings", description="KEY.KEY=VALUE, over the configuration.")
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        None, title="Precision", description="Of the model; the configuration's where none is chosen."
    )


class Templates(Form):
    """Sentences with {domain} placeholders."""

    train: Sentences = Field([], title="Train", description="For its statistics.")
    validation: Sentences = Field([], title="Validation", description="For the choice of its removal.")
    test: Sentences = Field([], title="Test", description="For its figures.")


class ConceptForm(Form):
    """A concept that joins a workspace; only its own work is done."""

    name: str = Field(min_length=1, title="Name", description="As it stands in prompts.")
    domain: str = Field(min_length=1, title="Domain", description="The family it joins: style, object.")
    templates: Templates | None = Field(
        None, title="Sentences", description="With {domain} placeholders; those of the run where none are given."
    )

    @property
    def concept(self) -> ConceptConfig:
        """The contents of a file for `saeuron concept add`."""
        return ConceptConfig.model_validate(self.model_dump())


class EvaluateForm(Form):
    """Figures of removals on test prompts; what is missing for that is made first."""

    concepts: list[str] = Field([], title="Concepts", description="Those to measure; none: those of the run.")
    seeds: int | None = Field(
        None, ge=1, title="Seeds", description="Images per test prompt; the run's where none is given."
    )
