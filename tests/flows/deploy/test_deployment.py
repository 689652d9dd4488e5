"""prefect.yaml and automations.yaml: what `prefect deploy --all` would send is what the flows take."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "prefect.yaml").read_text()
DEPLOYMENTS: dict[str, dict[str, Any]] = {d["name"]: d for d in yaml.safe_load(TEXT)["deployments"]}
NEON = {"name": "neon", "domain": "style"}


@pytest.fixture(scope="module", params=DEPLOYMENTS)
def deployment(request: pytest.FixtureRequest) -> dict[str, Any]:
    return DEPLOYMENTS[request.param]


@pytest.fixture(scope="module")
def flow(deployment: dict[str, Any]) -> Any:
    from prefect.flows import load_flow_from_entrypoint

    path, name = deployment["entrypoint"].split(":")
    assert (ROOT / path).is_file()
    return load_flow_from_entrypoint(f"{ROOT / path}:{name}")


@pytest.fixture(scope="module")
def schema(flow: Any) -> dict[str, Any]:
    """What the page makes its form of, and the server checks parameters by."""
    from prefect.utilities.callables import parameter_schema

    return parameter_schema(flow.fn).model_dump_for_openapi()


@pytest.fixture(scope="module")
def parameters(deployment: dict[str, Any]) -> dict[str, Any]:
    """The deployment's own; a concept to add is for a person to name."""
    return {"what": NEON, **deployment["parameters"]}


def test_there_are_three() -> None:
    assert list(DEPLOYMENTS) == ["pipeline", "add-concept", "evaluate"]


def test_its_entrypoint_is_a_flow(flow: Any) -> None:
    from prefect import Flow

    assert isinstance(flow, Flow) and flow.description


def test_its_parameters_fit_the_flow(
    flow: Any, schema: dict[str, Any], parameters: dict[str, Any], deployment: dict[str, Any]
) -> None:
    from prefect.utilities.schema_tools import validate

    validate(parameters, schema, raise_on_error=True)
    flow.validate_parameters(parameters)
    assert deployment["enforce_parameter_schema"] is True


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [("machine", "threads", 0), ("machine", "device", "gpu"), ("machine", "hub_token", "x"), ("what", "hf_token", "x")],
)
def test_wrong_parameters_are_refused_by_the_server_and_by_the_flow(
    flow: Any, schema: dict[str, Any], parameters: dict[str, Any], section: str, field: str, value: object
) -> None:
    from prefect.exceptions import ParameterTypeError
    from prefect.utilities.schema_tools import validate
    from prefect.utilities.schema_tools.validation import ValidationError as Refused

    wrong = {**parameters, section: {**parameters[section], field: value}}
    with pytest.raises(Refused):
        validate(wrong, schema, raise_on_error=True)
    with pytest.raises(ParameterTypeError):
        flow.validate_parameters(wrong)


def test_the_page_shows_a_form_of_which_each_row_says_what_it_is(schema: dict[str, Any]) -> None:
    assert set(schema["properties"]) == {"what", "machine"}
    for name, form in schema["definitions"].items():
        assert form["description"], name
        for field, row in form["properties"].items():
            assert row["title"] and row["title"] != field, (name, field)
            assert row["description"].endswith("."), (name, field)


def test_the_page_offers_the_configurations_that_ship_and_the_precisions() -> None:
    from flows.config import names
    from flows.deploy.forms import PipelineForm

    rows = PipelineForm.model_json_schema()["properties"]
    assert rows["config"]["enum"] == names()
    assert rows["dtype"]["anyOf"][0]["enum"] == ["float32", "float16", "bfloat16"]


def test_a_concept_of_the_form_is_what_a_file_would_hold(tmp_path: Path) -> None:
    from flows.config import load_concept
    from flows.deploy.forms import ConceptForm

    values = {**NEON, "templates": {"train": ["{style} thing"], "validation": [], "test": ["a {style} one"]}}
    (tmp_path / "neon.yaml").write_text(yaml.safe_dump(values))
    assert ConceptForm.model_validate(values).concept == load_concept(tmp_path / "neon.yaml")
    with pytest.raises(ValidationError):
        ConceptForm.model_validate({**NEON, "name": ""})


def test_its_configuration_is_one_that_ships() -> None:
    from flows.check import check
    from flows.config import load

    check(load(DEPLOYMENTS["pipeline"]["parameters"]["what"]["config"]))


def test_nothing_starts_by_itself_and_one_at_a_time(deployment: dict[str, Any]) -> None:
    assert all(s["active"] is False for s in deployment.get("schedules", []))
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert deployment["tags"] == ["saeuron"] and deployment["work_pool"]["name"] == "saeuron"


def test_the_schedules_are_nightly_and_weekly() -> None:
    crons = {name: [s["cron"] for s in d.get("schedules", [])] for name, d in DEPLOYMENTS.items()}
    assert crons == {"pipeline": ["0 2 * * *"], "add-concept": [], "evaluate": ["0 4 * * 0"]}


def test_workers_of_a_deployment_send_no_telemetry(deployment: dict[str, Any]) -> None:
    environment = deployment["work_pool"]["job_variables"]["env"]
    assert environment["DO_NOT_TRACK"] == "1" and environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert all(isinstance(v, str) for v in environment.values())


def test_the_library_is_heard_and_a_run_shows_signs_of_life(deployment: dict[str, Any]) -> None:
    from tasks.engine.page import LIBRARIES

    environment = deployment["work_pool"]["job_variables"]["env"]
    assert tuple(environment["PREFECT_LOGGING_EXTRA_LOGGERS"].split(",")) == LIBRARIES
    lost = automation("saeuron: a run that is not heard of has crashed")
    # Three signs may go astray before it is given up.
    assert lost["trigger"]["within"] >= 4 * int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])


def test_no_file_that_ships_names_a_secret() -> None:
    for name in ("prefect.yaml", "automations.yaml"):
        text = (ROOT / name).read_text()
        assert not re.search(r"token|password|api_key|secret_|notify_url", text, re.IGNORECASE), name


@pytest.mark.parametrize("setting", ["model.hf_token=hf_abc", "hub_token=hf_abc", "model.token=hf_abc"])
def test_a_configuration_that_holds_a_token_is_refused(setting: str) -> None:
    from flows.config import load
    from saeuron.errors import ConfigError

    with pytest.raises(ConfigError, match="unknown key"):
        load("canvas", [setting])


def automation(name: str) -> dict[str, Any]:
    from flows.deploy.deployments import automations

    return next(a for a in automations() if a["name"] == name)


def test_automations_are_what_prefect_takes() -> None:
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    from flows.deploy.deployments import automations

    found = [AutomationCore.model_validate(a) for a in automations()]
    assert [[a.state.value for a in one.actions] for one in found] == [["CRASHED"], ["SCHEDULED"], ["CRASHED"]]  # type: ignore[union-attr]
    for one in found:
        assert isinstance(one.trigger, EventTrigger)
        assert one.trigger.match_related.root["prefect.resource.id"] == "prefect.tag.saeuron"  # type: ignore[union-attr]


def test_a_command_that_fails_is_told_by_its_last_line() -> None:
    from flows.deploy import deployments as deploy
    from saeuron.errors import SaeuronError

    with pytest.raises(SaeuronError, match=r"`json\.tool /none` failed: .*No such file or directory"):
        deploy.execute(["json.tool", "/none"])


def test_without_a_checkout_nothing_is_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.deploy import deployments as deploy
    from saeuron.errors import ConfigError

    monkeypatch.setattr(deploy, "AUTOMATIONS", "none.yaml")
    with pytest.raises(ConfigError, match=r"there is no none\.yaml in .*; deploy from a checkout"):
        deploy.automations()


@pytest.mark.parametrize("gpus", [1, 3])
def test_as_many_runs_as_there_are_gpus_work_on_one(gpus: int) -> None:
    from flows.deploy import deployments as deploy
    from tasks.engine.gpu import LIMIT

    assert deploy.commands(gpus)["gpu limit"] == ["prefect", "gcl", "create", LIMIT, "--limit", str(gpus)]
    pools = {d["work_pool"]["name"] for d in DEPLOYMENTS.values()}
    assert pools == {deploy.POOL} and deploy.POOL in deploy.commands(gpus)["work pool"]
    assert f"${deploy.HOME} " in TEXT
