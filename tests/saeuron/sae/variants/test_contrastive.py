import math

import pytest
import torch

from saeuron.errors import ConfigError
from saeuron.sae.config import ContrastiveOptions, SAEConfig
from saeuron.sae.losses import info_nce
from saeuron.sae.training import Trainer
from tests.saeuron.sae.variants.labels import CONCEPTS, LABELS, drawn, sample
from tests.saeuron.sae.variants.reference import agree, quiet, slow_decode
from tests.saeuron.sae.variants.test_topk import slow_codes, slow_pre, slow_variance

OPTIONS = ContrastiveOptions(weight=0.3, temperature=0.2)
SMALL = SAEConfig(variant="contrastive", expansion=6, k=3, batch=20, steps=30, lr=1e-2, dead_rows=128)
SMALL = SMALL.model_copy(update={"contrastive": OPTIONS})


def some(rows):
    return SMALL.model_copy(update={"contrastive": OPTIONS.model_copy(update={"rows": rows})})


def slow_term(codes, labels, temperature):
    """The mean over rows with others of their label; pair by pair."""

    def similar(a, b):
        return (a @ b) / (a.norm().clamp(min=1e-12) * b.norm().clamp(min=1e-12)) / temperature

    terms = []
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i and labels[j] >= 0]
        alike = [j for j in others if labels[j] == label]
        if label < 0 or not alike:
            continue
        below = sum(torch.exp(similar(codes[i], codes[j])) for j in others)
        terms.append(-sum(torch.log(torch.exp(similar(codes[i], codes[j])) / below) for j in alike) / len(alike))
    return sum(terms) / len(terms) if terms else codes.sum() * 0


def slow_loss(v, x, labels, rows=20):
    pre = slow_pre(v, x)
    kept = slow_codes(pre, v.config.k)
    x_hat = slow_decode(v, kept)
    codes = torch.stack([torch.stack([p if p > 0 else p * 0 for p in row]) for row in pre])[:rows]
    terms = [slow_term(codes, labels[:rows, g].tolist(), OPTIONS.temperature) for g in range(2)]
    loss = (x - x_hat).square().sum() / slow_variance(x) + OPTIONS.weight * sum(terms) / 2
    return kept, x_hat, loss


@pytest.mark.parametrize("less", [0.0, 1.5])
@pytest.mark.parametrize("rows", [512, 13])
@pytest.mark.parametrize("path", ["fast", "plain"])
def test_the_loss_and_all_gradients_are_the_slow_reference(random_variant, path, rows, less):
    variant, x = quiet(random_variant(some(rows), path=path), less), sample()
    variant.sizes = (3, 2)
    kept, x_hat, expected = slow_loss(variant, x, LABELS, min(rows, 20))
    out = variant(x, 0, LABELS)
    agree(out, out.loss, variant, kept, x_hat, expected)


@pytest.mark.parametrize("labels", [[0, 1, 2, -1], [-1] * 4, [-1, 0, -1, -1]], ids=str)
def test_rows_without_a_like_one_have_no_part(labels):
    codes = torch.eye(4, 6, dtype=torch.float64, requires_grad=True)
    loss = info_nce(codes, torch.tensor(labels), 0.1)
    assert loss == 0 and torch.autograd.grad(loss, codes)[0].abs().sum() == 0


def test_the_loss_of_equal_codes_is_log_2_and_of_separate_ones_zero():
    """Two alike and one other: codes that are all the same leave log 2, well separated ones nothing."""
    labels = torch.tensor([0, 0, 1, -1])
    same = torch.ones(4, 1, dtype=torch.float64)
    assert info_nce(same, labels, 0.5).item() == pytest.approx(math.log(2))
    apart = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0]], dtype=torch.float64)
    assert info_nce(apart, labels, 0.5).item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert info_nce(apart, labels, 0.02).item() < 1e-20


def test_rows_of_one_concept_are_told_from_others_by_their_codes():
    """By the same measure on rows that were not trained on: topk's codes say less than codes that are all the same."""
    found = {}
    held, labels_of = drawn(1000, seed=1, width=24)
    for name in ("topk", "contrastive"):
        config = SAEConfig(variant=name, expansion=3, k=3, batch=128, steps=300, lr=1e-2)
        config = config.model_copy(update={"contrastive": ContrastiveOptions(weight=0.1)})
        trainer = Trainer(config, 24, "", concepts=CONCEPTS)
        rows, labels = drawn(128 * 300, width=24)
        trainer.initialise(rows[:128])
        for x, told in zip(rows.split(128), labels.split(128), strict=True):
            trainer.step(x, *([told] if name == "contrastive" else []))
        sae = trainer.sae
        codes = torch.nn.functional.normalize(((held - sae.b_dec) @ sae.W_enc.T + sae.b_enc).relu(), dim=1)
        found[name] = [float(info_nce(codes, column, 0.07)) for column in labels_of.unbind(1)]
    for domain, column in enumerate(labels_of.unbind(1)):
        alike = math.log(int((column >= 0).sum()) - 1)
        assert found["contrastive"][domain] < alike < found["topk"][domain] - 1, found


def test_an_interrupted_training_ends_with_the_same_bytes(tmp_path):
    rows, labels = drawn(600)
    batches = list(zip(rows.split(20), labels.split(20), strict=True))
    whole, first, second = (Trainer(SMALL, 8, "h", concepts=CONCEPTS) for _ in range(3))
    for trainer, some_ in ((whole, batches), (first, batches[:13])):
        trainer.initialise(rows[:20])
        for batch in some_:
            trainer.step(*batch)
    first.save(tmp_path / "c")
    second.load(tmp_path / "c")
    for batch in batches[13:]:
        second.step(*batch)
    for name, value in whole.variant.state_dict().items():
        assert torch.equal(value, second.variant.state_dict()[name]), name
    assert whole.history == second.history


def test_without_labels_it_is_refused():
    with pytest.raises(ConfigError, match="'contrastive' learns from concept labels, but the rows have none; expected"):
        Trainer(SMALL, 8, "", concepts={"a": ()})
