import math

import pytest
import torch

from saeuron.errors import ConfigError, SaeuronError
from saeuron.sae.config import AssignedOptions, SAEConfig
from saeuron.sae.diagnosis.detection import detections
from saeuron.sae.training import Trainer
from tests.saeuron.sae.variants.labels import CONCEPTS, LABELS, drawn, sample
from tests.saeuron.sae.variants.reference import agree, gradients, quiet, slow_decode
from tests.saeuron.sae.variants.test_topk import slow_codes, slow_pre, slow_variance

WEIGHT, UNIT = 0.3, 0.7
OPTIONS = AssignedOptions(weight=WEIGHT)
SMALL = SAEConfig(variant="assigned", expansion=6, k=3, batch=20, steps=30, lr=1e-2, dead_rows=128, assigned=OPTIONS)


def built(random_variant, path="plain", less=0.0):
    variant = quiet(random_variant(SMALL, path=path), less)
    variant.sizes = (3, 2)
    variant.unit.fill_(UNIT)
    return variant


def slow_loss(v, x, labels, weight=WEIGHT, unit=UNIT):
    """FVU + weight * CE, concept by concept and row by row."""
    pre = slow_pre(v, x)
    codes = slow_codes(pre, v.config.k)
    x_hat = slow_decode(v, codes)
    terms = []
    for latent, (domain, concept) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        on, off = [], []
        for row, code, told in zip(pre, codes, labels.tolist(), strict=True):
            least = min((f.item() for f in code.values()), default=0.0)
            z = (row[latent] - least) / unit
            chance = 1 / (1 + torch.exp(-z))
            (on if told[domain] == concept else off).append(
                -torch.log(chance if told[domain] == concept else 1 - chance)
            )
        terms.append(sum(sum(each) / len(each) for each in (on, off) if each) / 2)
    loss = (x - x_hat).square().sum() / slow_variance(x) + weight * sum(terms) / len(terms)
    return codes, x_hat, loss


@pytest.mark.parametrize("less", [0.0, 1.5, 2.5])
@pytest.mark.parametrize("path", ["fast", "plain"])
def test_the_loss_and_all_gradients_are_the_slow_reference(random_variant, path, less):
    variant, x = built(random_variant, path, less), sample()
    codes, x_hat, expected = slow_loss(variant, x, LABELS)
    # Some rows keep too few latents, or none: then theta is 0.
    fewest = min(len(code) for code in codes)
    assert {0.0: fewest >= 3, 1.5: fewest < 3, 2.5: fewest == 0}[less]
    out = variant(x, 0, LABELS)
    agree(out, out.loss, variant, codes, x_hat, expected)


def test_a_concept_that_no_row_asks_for_is_only_pushed_off(random_variant):
    variant, x = built(random_variant), sample()
    labels = torch.full_like(LABELS, -1)
    out, (*_, expected) = variant(x, 0, labels), slow_loss(variant, x, labels)
    torch.testing.assert_close(out.loss, expected, rtol=1e-10, atol=1e-12)
    pushed = gradients(out.loss - slow_loss(variant, x, labels, weight=0)[-1], variant)["b_enc"]
    assert (pushed[:5] > 0).all(), "less p is less loss"
    assert pushed[5:].abs().max() < 1e-12, "no other latent is touched"


def test_z_is_above_zero_where_the_latent_is_kept(random_variant):
    """So the term is below log 2 for every concept where each row keeps just what it asks for."""
    variant, x = built(random_variant), sample()
    out, plain = variant(x, 0, LABELS), slow_loss(variant, x, LABELS, weight=0)
    kept = torch.tensor([[latent in code for latent in range(5)] for code in plain[0]])
    asks = variant.asks(LABELS)
    assert 0 < kept.sum() < kept.numel() and not torch.equal(kept, asks)
    # Labels of what is kept, in the place of those of the images.
    variant.asks = lambda labels: kept
    assert variant(x, 0, LABELS).loss - plain[-1] < WEIGHT * math.log(2) < out.loss - plain[-1]


def test_labels_are_counted_through_all_domains(random_variant):
    variant = built(random_variant)
    found = variant.asks(torch.tensor([[0, -1], [2, 1], [-1, -1]])).int().tolist()
    assert found == [[1, 0, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0]]


def test_the_scale_of_the_activations_is_of_no_account():
    """Of rows 64 times as large, with biases to match, the term is the same."""
    terms = []
    for scale in (1.0, 64.0):
        trainer = Trainer(SMALL, 8, "", concepts=CONCEPTS)
        x = sample().float() * scale
        trainer.initialise(x)
        variant = trainer.variant.double()
        out = variant(x.double(), 0, LABELS)
        terms.append((out.loss - (x - out.x_hat).square().sum() / slow_variance(x.double())).item())
    assert terms[0] > 0.1 and terms[0] == pytest.approx(terms[1], rel=1e-4)


def test_an_interrupted_training_ends_with_the_same_bytes(tmp_path):
    rows, labels = drawn(600)
    whole, first, second = (Trainer(SMALL, 8, "h", concepts=CONCEPTS) for _ in range(3))
    whole.initialise(rows[:20])
    first.initialise(rows[:20])
    for i in range(30):
        whole.step(rows[20 * i : 20 * i + 20], labels[20 * i : 20 * i + 20])
        if i < 13:
            first.step(rows[20 * i : 20 * i + 20], labels[20 * i : 20 * i + 20])
    first.save(tmp_path / "c")
    second.load(tmp_path / "c")
    for i in range(13, 30):
        second.step(rows[20 * i : 20 * i + 20], labels[20 * i : 20 * i + 20])
    for name, value in whole.variant.state_dict().items():
        assert torch.equal(value, second.variant.state_dict()[name]), name
    assert whole.history == second.history and whole.variant.unit != 1
    other = Trainer(SMALL, 8, "h", concepts={"a": ("x", "y", "other"), "b": ("u", "v")})
    with pytest.raises(SaeuronError, match="is a checkpoint of another configuration"):
        other.load(tmp_path / "c")


def test_at_inference_it_is_topk(random_variant):
    variant, x = built(random_variant, less=1.5), sample(40, seed=2)
    sae = variant.export("h")
    assert (sae.info.variant, sae.info.activation, sae.info.k) == ("assigned", "topk", 3)
    f = torch.zeros(40, 48)
    for b, code in enumerate(slow_codes(slow_pre(variant, x), 3)):
        for i, value in code.items():
            f[b, i] = value.item()
    torch.testing.assert_close(sae.encode(x.float()), f, rtol=1e-4, atol=1e-5)


def test_of_planted_concepts_the_assigned_latents_tell_more_than_the_best_of_topk():
    """Concepts are weaker than what else the rows hold; F1 on rows that neither was trained or chosen on."""
    f1, latents = {}, {}
    chosen, judged = drawn(3000, seed=1, width=24), drawn(3000, seed=2, width=24)
    for name in ("topk", "assigned"):
        config = SAEConfig(variant=name, expansion=3, k=3, batch=128, steps=300, lr=1e-2)
        trainer = Trainer(config, 24, "", concepts=CONCEPTS)
        rows, labels = drawn(128 * 300, width=24)
        trainer.initialise(rows[:128])
        for x, told in zip(rows.split(128), labels.split(128), strict=True):
            trainer.step(x, *([told] if name == "assigned" else []))
        f1[name], latents[name] = [], []
        for domain, names in enumerate(CONCEPTS.values()):
            asked = [[names[i] if i >= 0 else None for i in told[:, domain].tolist()] for _, told in (chosen, judged)]
            encoded = [trainer.sae.encode(x) for x, _ in (chosen, judged)]
            found = detections(encoded[0], asked[0], encoded[1], asked[1])
            f1[name] += [each.f1 for each in found]
            latents[name] += [each.latent for each in found]
    assert latents["assigned"] == [0, 1, 2, 3, 4]
    assert all(a > t for a, t in zip(f1["assigned"], f1["topk"], strict=True)), f1
    assert sum(f1["assigned"]) / 5 > sum(f1["topk"]) / 5 + 0.2, f1


def test_without_labels_it_is_refused():
    with pytest.raises(
        ConfigError, match=r"^train.variant 'assigned' learns from concept labels, but the rows at h have"
    ):
        Trainer(SMALL, 8, "h")
    trainer = Trainer(SMALL, 8, "h", concepts=CONCEPTS)
    for labels, got in ((None, "none"), (LABELS[:, :1], r"\(20, 1\)")):
        with pytest.raises(
            SaeuronError, match=rf"labels of 20 rows for .*'assigned': got {got}, expected int64 \(20, 2\)"
        ):
            trainer.step(sample().float(), labels)
    many = {"a": tuple(f"c{i:02}" for i in range(49))}
    with pytest.raises(
        ConfigError, match=r"49 concepts are asked for, but an SAE at h has 48 latents .*raise train.exp"
    ):
        Trainer(SMALL, 8, "h", concepts=many)
