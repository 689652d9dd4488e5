"""prefect.yaml: what `prefect deploy --all` would send is what the flow takes."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.fixture(scope="module", params=DEPLOYMENTS, ids=lambda d: d["name"])
def deployment(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.fixture(scope="module")
def flow(deployment: dict[str, Any]) -> Any:
    from prefect.flows import load_flow_from_entrypoint

    path, name = deployment["entrypoint"].split(":")
    assert (ROOT / path).is_file()
    return load_flow_from_entrypoint(f"{ROOT / path}:{name}")


def test_there_is_one() -> None:
    assert DEPLOYMENTS
    assert len({d["name"] for d in DEPLOYMENTS}) == len(DEPLOYMENTS)


def test_its_entrypoint_is_a_flow(flow: Any) -> None:
    from prefect import Flow

    assert isinstance(flow, Flow) and flow.description


def test_its_parameters_fit_the_flow(flow: Any, deployment: dict[str, Any]) -> None:
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools import validate

    schema = parameter_schema(flow.fn).model_dump_for_openapi()
    validate(deployment["parameters"], schema, raise_on_error=True)
    assert set(deployment["parameters"]) <= set(inspect.signature(flow.fn).parameters)
    flow.validate_parameters(deployment["parameters"])
    assert deployment["enforce_parameter_schema"] is True


def test_wrong_parameters_are_refused(flow: Any, deployment: dict[str, Any]) -> None:
    from prefect.exceptions import ParameterTypeError

    with pytest.raises(ParameterTypeError):
        flow.validate_parameters({**deployment["parameters"], "threads": "many"})


def test_its_configuration_is_one_that_ships(deployment: dict[str, Any]) -> None:
    from flows.check import check
    from flows.config import load

    check(load(deployment["parameters"].get("config")))


def test_nothing_starts_by_itself_and_one_at_a_time(deployment: dict[str, Any]) -> None:
    assert all(s["active"] is False for s in deployment["schedules"])
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_no_telemetry(deployment: dict[str, Any]) -> None:
    environment = deployment["work_pool"]["job_variables"]["env"]
    assert environment["DO_NOT_TRACK"] == "1" and environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert all(isinstance(v, str) for v in environment.values())
