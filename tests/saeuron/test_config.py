import ast
import inspect

import pytest
from pydantic import ValidationError

from saeuron import config
from saeuron.config import DomainConfig, ModelConfig, RunConfig, TuneConfig
from saeuron.sae import config as sae_config
from saeuron.sae.config import Config, SAEConfig

DOMAINS = {
    "object": {"concepts": ("cat", "dog"), "hookpoints": ("unet.a", "unet.b")},
    "style": {"concepts": ("neon", "sepia"), "hookpoints": ("unet.b",)},
}
NEEDED = {
    "RunConfig": {"domains": DOMAINS},
    "DomainConfig": DOMAINS["object"],
    "ConceptConfig": {"name": "neon", "domain": "style"},
    "PromptFile": {"path": "prompts.csv"},
}
MODULES = (config, sae_config)
STAGES = {
    c: None
    for module in MODULES
    for c in vars(module).values()
    if isinstance(c, type) and issubclass(c, Config) and c is not Config
}


@pytest.mark.parametrize("stage", STAGES)
def test_unknown_keys_are_refused(stage):
    needed = NEEDED.get(stage.__name__, {})
    stage(**needed)
    with pytest.raises(ValidationError, match="stepz"):
        stage(**needed, stepz=3)


def test_unknown_keys_are_refused_at_depth():
    with pytest.raises(ValidationError, match=r"model\.stepz"):
        RunConfig.model_validate({"domains": DOMAINS, "model": {"stepz": 3}})


@pytest.mark.parametrize("stage", STAGES)
def test_configurations_are_frozen(stage):
    needed = NEEDED.get(stage.__name__, {})
    one = stage(**needed)
    name = next(iter(stage.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(one, name, getattr(one, name))


def test_a_concept_stands_in_one_domain():
    both = {**DOMAINS, "style": {"concepts": ("neon", "cat"), "hookpoints": ("unet.b",)}}
    with pytest.raises(ValidationError, match=r"'cat' is in two domains \(object, style\)"):
        RunConfig.model_validate({"domains": both})


def test_a_concept_is_named_once():
    with pytest.raises(ValidationError, match="named twice: cat"):
        DomainConfig(concepts=("cat", "dog", "cat"), hookpoints=("unet.a",))


def test_a_domain_needs_a_concept():
    with pytest.raises(ValidationError, match="concepts"):
        DomainConfig(concepts=(), hookpoints=("unet.a",))


def test_hookpoints_once_and_in_order_and_domains_of_concepts():
    run = RunConfig.model_validate({"domains": DOMAINS})
    assert run.hookpoints == ("unet.a", "unet.b")
    assert run.domain_of("sepia") == "style"
    assert run.domain_of("cat") == "object"
    assert run.domain_of("nothing") is None


@pytest.mark.parametrize(
    ("stage", "bad"),
    [
        (ModelConfig, {"steps": 0}),
        (ModelConfig, {"guidance": -1}),
        (ModelConfig, {"dtype": "float8"}),
        (SAEConfig, {"variant": "relu"}),
        (SAEConfig, {"lr": 0}),
        (TuneConfig, {"settings": {"saeuron": 8}}),
        (TuneConfig, {"target_images": 0}),
        (TuneConfig, {"learning_images": 0}),
    ],
)
def test_values_out_of_range_are_refused(stage, bad):
    with pytest.raises(ValidationError):
        stage(**bad)


def test_a_method_or_several():
    assert RunConfig.model_validate({"domains": DOMAINS}).method == ("saeuron",)
    assert RunConfig.model_validate({"domains": DOMAINS, "method": "steering"}).method == ("steering",)
    with pytest.raises(ValidationError, match="method names one twice"):
        RunConfig.model_validate({"domains": DOMAINS, "method": ["steering", "steering"]})


def test_a_domains_settings_go_before_those_of_all():
    told = {"settings": {"saeuron": {"n": [4], "gamma": [-2.0]}, "steering": {"strength": [1.0]}}}
    domains = {d: {**c, **({"settings": {"saeuron": {"n": [8]}}} if d == "style" else {})} for d, c in DOMAINS.items()}
    run = RunConfig.model_validate({"domains": domains, "tune": told})
    assert run.grid("style", "saeuron") == {"n": (8,), "gamma": (-2.0,)}
    assert run.grid("object", "saeuron") == {"n": (4,), "gamma": (-2.0,)}
    assert run.grid("object", "negative_prompt") == {}


def test_a_configuration_survives_json():
    run = RunConfig.model_validate({"domains": DOMAINS, "train": {"lr": 0.1 + 0.2}})
    assert RunConfig.model_validate_json(run.model_dump_json()) == run


def test_every_field_of_every_stage_is_explained():
    silent = []
    for node in [node for module in MODULES for node in ast.parse(inspect.getsource(module)).body]:
        if not isinstance(node, ast.ClassDef) or node.name in {"Config", "RunConfig"}:
            continue
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and not explained:
                silent.append(f"{node.name}.{ast.unparse(field.target)}")
    assert silent == []


@pytest.mark.parametrize("stage", ["capture", "score", "tune"])
def test_an_unguided_model_has_no_unconditional_half(stage):
    RunConfig.model_validate({"domains": DOMAINS, stage: {"half": "unconditional"}})
    with pytest.raises(ValidationError, match=rf"{stage}\.half is 'unconditional', but model\.guidance 1\.0"):
        RunConfig.model_validate({"domains": DOMAINS, "model": {"guidance": 1.0}, stage: {"half": "unconditional"}})
