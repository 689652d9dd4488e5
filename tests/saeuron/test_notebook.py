"""The calls of a notebook: what they give, in which shapes, and what they refuse."""

import numpy as np
import pytest
import torch

import saeuron
from saeuron.config import ModelConfig, ScoreConfig
from saeuron.errors import BadPrompts, ConfigError, UnknownName
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.scoring import Accumulator, gather, images, scores
from tests.saeuron.methods.removals import PATH

MODEL = ModelConfig(steps=3, guidance=2.0, micro_batch=8)
DOMAINS = {"style": ["neon", "dots"], "object": ["cat", "moon"]}
PROMPTS = saeuron.prompt_set(
    DOMAINS,
    train=["A {object} in {style} style."],
    validation=["The {object} in {style} style."],
    test=["{object}, {style}."],
)


@pytest.fixture(scope="module")
def rows(tiny_pipe):
    return saeuron.capture(tiny_pipe, PROMPTS, [PATH], model=MODEL)


@pytest.fixture(scope="module")
def saes(rows):
    return saeuron.train(rows, k=4, expansion=2, steps=20, batch=64)


def test_every_name_is_offered_and_is_no_module_of_the_package_by_accident():
    assert {*saeuron.__all__} == {name for name in dir(saeuron) if not name.startswith("_")}
    asked = {"load_pipeline", "capture", "train", "score", "tune", "Removal", "removed", "evaluate", "SAE"}
    assert asked | {"methods", "judges"} <= {*saeuron.__all__}
    assert all(callable(getattr(saeuron, name)) for name in {*saeuron.__all__} - {"methods", "judges"})
    assert saeuron.methods.get("saeuron").name == "saeuron" and "canvas" in saeuron.judges.names()
    with pytest.raises(AttributeError, match="no attribute 'trainn'"):
        saeuron.trainn  # noqa: B018


def test_prompts_are_all_combinations_in_each_split():
    assert [(p.split, p.text) for p in PROMPTS if p.concepts == {"style": "neon", "object": "cat"}] == [
        ("train", "A cat in neon style."),
        ("validation", "The cat in neon style."),
        ("test", "Cat, neon."),
    ]
    assert len(PROMPTS) == 12
    with pytest.raises(UnknownName, match="placeholder 'styl'"):
        saeuron.prompt_set(DOMAINS, train=["A {styl}."])


def test_rows_are_those_of_every_image_step_and_position(rows, tiny_pipe):
    one = saeuron.prompt_set({"style": ["neon"]}, train=["{style}."])
    few = saeuron.capture(tiny_pipe, one, [PATH], model=MODEL, every=2, positions=5)
    # One prompt, the first and third of three steps, five positions; then four prompts, three steps, all positions.
    assert few[PATH].shape == (2 * 5, 16) and few[PATH].dtype == np.float16
    assert rows[PATH].shape == (4 * 3 * 64, 16) and rows[PATH].dtype == np.float16


def test_trained_saes_are_named_by_hookpoint_and_reconstruct_better_than_untrained_ones(rows, saes):
    x = torch.from_numpy(rows[PATH]).float()
    width = x.shape[1]
    assert repr(saes[PATH]) == f"SAE(batch_topk at {PATH}, D={width}, N={2 * width}, k=4)"
    assert (saes[PATH](x) - x).square().mean() < (x - x.mean(0)).square().mean()
    assert repr(SAE(SAEInfo("gated", 4, 8, 0))) == "SAE(gated, D=4, N=8)"
    with pytest.raises(ConfigError, match="captures on disk"):
        saeuron.train(rows, order="trajectories")


def test_scores_are_those_of_the_sums_of_all_concepts(saes, tiny_pipe):
    evidence = saeuron.score(tiny_pipe, saes, PROMPTS, "style", images=2, model=MODEL)
    assert [*evidence] == ["dots", "neon"]
    config, totals = ScoreConfig(images=2), []
    for concept in evidence:
        wanted = images(PROMPTS, config, "style", concept, "crossed")
        assert {r.prompt.concepts["style"] for r in wanted} == {concept} and len(wanted) == 2
        readers = [(PATH, Accumulator(saes[PATH], "conditional"))]
        totals += gather(tiny_pipe, readers, wanted, MODEL, config.seed)
    sums = torch.tensor(np.stack([t.sum_fixed for t in totals]))
    counts = torch.tensor(np.stack([t.n_rows.astype(np.int64) for t in totals]))
    expected = scores(sums, counts)
    for i, concept in enumerate(evidence):
        torch.testing.assert_close(evidence[concept].profiles[PATH].score, expected[i])
        assert evidence[concept].hookpoints == (PATH,) and evidence[concept].domain == "style"
    with pytest.raises(UnknownName, match="domain 'styles': did you mean 'style'"):
        saeuron.score(tiny_pipe, saes, PROMPTS, "styles")
    alone = saeuron.prompt_set({"style": ["neon"], "object": ["cat"]}, train=["A {object} in {style} style."])
    with pytest.raises(ConfigError, match="has the one concept 'neon'"):
        saeuron.score(tiny_pipe, saes, alone, "style")


def test_what_cannot_be_tuned_or_evaluated_is_refused_before_an_image_is_made(tiny_pipe, monkeypatch):
    monkeypatch.setattr("saeuron.evaluation.generate", lambda *a, **k: pytest.fail("an image was made"))
    evidence = saeuron.Evidence("neon", "style")
    with pytest.raises(ConfigError, match="needs SAEs and scores; give it what"):
        saeuron.tune(tiny_pipe, evidence, PROMPTS)
    with pytest.raises(UnknownName, match="method 'saeuro'"):
        saeuron.tune(tiny_pipe, evidence, PROMPTS, method="saeuro")
    odd = saeuron.prompt_set({"style": ["neon", "glitter"]}, train=["{style}."], test=["A {style}."])
    removal = saeuron.Removal("neon", "style", "saeuron", {}, ())
    with pytest.raises(UnknownName, match="label of the judge 'canvas' 'glitter'"):
        saeuron.evaluate(tiny_pipe, removal, odd)
    with pytest.raises(BadPrompts, match="no test prompts"):
        saeuron.evaluate(tiny_pipe, removal, [p for p in PROMPTS if p.split != "test"])


def test_a_latent_is_a_picture_with_its_first_images(saes, tiny_pipe):
    sae = saes[PATH]
    told = {"images": 4, "rows": 40, "examples": 3}
    with pytest.raises(ConfigError, match="there is no latent 32: this SAE has 32; give a number from 0 to 31"):
        saeuron.top_images(tiny_pipe, sae, PROMPTS, 32, model=MODEL, **told)
    with pytest.raises(BadPrompts, match="no test prompts"):
        saeuron.top_images(tiny_pipe, sae, saeuron.prompt_set(DOMAINS, train=["{style}."]), 0, model=MODEL, **told)
    found = {latent: saeuron.top_images(tiny_pipe, sae, PROMPTS, latent, model=MODEL, **told) for latent in (0, 1)}
    assert found[0].mode == "RGB" and min(found[0].size) > 300
    assert found[0].tobytes() != found[1].tobytes()
