"""Which control a method is compared with."""

import pytest

from flows.stages.compare import own_controls
from saeuron.config import RunConfig


def config(*controls: str) -> RunConfig:
    domains = {"style": {"concepts": ["neon", "dots"], "hookpoints": ["unet.mid"], "judge": "none"}}
    told = {"domains": domains, "prompts": {"templates": {"train": ["{style}"]}}, "controls": {"methods": controls}}
    return RunConfig.model_validate(told)


@pytest.mark.parametrize(
    ("method", "compared"),
    [
        # An untrained SAE in SAeUron's edit says nothing of a gate. Supervised directions are a ceiling for all.
        ("saeuron", ("untrained", "random", "supervised")),
        ("gated_uce", ("gated_uce_untrained", "supervised")),
        # Without a control of its own it has all.
        ("replace", ("untrained", "random", "gated_uce_untrained", "supervised")),
    ],
)
def test_a_method_is_compared_with_its_own_controls(method: str, compared: tuple[str, ...]) -> None:
    assert own_controls(config("untrained", "random", "gated_uce_untrained", "supervised"), method) == compared


def test_without_one_of_its_own_it_is_compared_with_all() -> None:
    assert own_controls(config("untrained", "random"), "gated_uce") == ("untrained", "random")
