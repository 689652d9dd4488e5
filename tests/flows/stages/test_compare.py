"""Which control a method is compared with."""

import pytest

from flows.closing import _without_control
from flows.stages.compare import controlled, own_controls, wanted_of
from flows.stages.tune import Wanted
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
        ("replace", ("supervised",)),
    ],
)
def test_a_method_is_compared_with_its_own_controls(method: str, compared: tuple[str, ...]) -> None:
    assert own_controls(config("untrained", "random", "gated_uce_untrained", "supervised"), method) == compared


def test_a_control_of_another_edit_is_none() -> None:
    assert own_controls(config("untrained", "random"), "gated_uce") == ()


def test_methods_that_read_an_sae_have_controls_also_where_it_is_of_a_text_encoder() -> None:
    found = config("itd_untrained", "untrained").model_copy(update={"method": ("itd", "uce", "saeuron")})
    assert controlled(found) == ("itd", "saeuron")
    assert [own_controls(found, name) for name in controlled(found)] == [("itd_untrained",), ("untrained",)]
    assert wanted_of(found, ["neon"]) == [Wanted("neon", m) for m in (*found.method, "itd_untrained", "untrained")]


def test_a_run_says_which_method_was_compared_with_no_control() -> None:
    found = config("untrained").model_copy(update={"method": ("saeuron", "replace", "uce")})
    [line] = _without_control(found, {"comparisons": [{"method": "saeuron"}]})
    assert line.startswith("No control of replace was run: ") and line.endswith(
        "(controls.methods: replace_untrained)."
    )
    assert not _without_control(found, {"comparisons": [{"method": "saeuron"}, {"method": "replace"}]})
    alone = found.model_copy(update={"controls": found.controls.model_copy(update={"methods": ()})})
    [line] = _without_control(alone, {"comparisons": []})
    assert line.startswith("No control was run: ") and line.endswith(
        "(controls.methods: untrained, replace_untrained)."
    )
