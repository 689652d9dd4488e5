"""Strengths of latents in pictures, and their names, beside loops."""

import numpy as np
import pytest
import torch

from saeuron.blindspots.dictionary import DictionaryConfig, Strengths, components, learn, projected, strengths
from saeuron.blindspots.naming import FIRES, IN_CAPTION, fires, is_name, named, words


def test_strengths_are_means_and_largest_values_over_positions() -> None:
    rows = torch.randn(9, 5, 8, generator=torch.Generator().manual_seed(1))
    sae = learn(rows.flatten(0, 1), DictionaryConfig(steps=20, batch=32, k=2))
    found = strengths(sae, rows)
    for i in range(9):
        f = torch.stack([sae.encode(row) for row in rows[i]])
        left = sum(float((row - sae(row)).square().sum()) for row in rows[i])
        whole = sum(float((row - sae.b_dec).square().sum()) for row in rows[i])
        assert found.mean[i] == pytest.approx(f.mean(0).numpy(), abs=1e-6)
        assert found.peak[i] == pytest.approx(f.max(0).values.numpy(), abs=1e-6)
        assert found.error[i] == pytest.approx(left / whole, rel=1e-4)
    assert sae.info.n_latents == 32 and (found.mean > 0).any()


def test_atoms_come_of_the_rows_and_training_rebuilds_them() -> None:
    chance = torch.Generator().manual_seed(2)
    directions = torch.nn.functional.normalize(torch.randn(6, 12, generator=chance), dim=1)
    rows = directions[torch.randint(6, (400,), generator=chance)] * (1 + torch.rand(400, 1, generator=chance))
    errors = []
    for steps in (1, 200):
        sae = learn(rows, DictionaryConfig(steps=steps, batch=64, k=2))
        errors.append(float(strengths(sae, rows[:, None]).error.mean()))
    assert errors[1] < 0.1 and errors[1] < errors[0] / 2
    again = learn(rows, DictionaryConfig(steps=200, batch=64, k=2))
    assert torch.equal(again.W_dec, sae.W_dec)


def test_components_are_those_of_the_covariance() -> None:
    pictures = torch.randn(50, 6, generator=torch.Generator().manual_seed(3)) * torch.arange(1, 7)
    mean, directions = components(pictures, 2)
    _, vectors = torch.linalg.eigh(torch.cov(pictures.T))
    assert (directions[0] @ vectors[:, -1]).abs() == pytest.approx(1, abs=1e-4)
    found = projected(mean, directions, pictures[:3])
    along = ((pictures[:3] - mean) @ directions.T).double().numpy()
    assert found.mean == pytest.approx(np.concatenate([np.maximum(along, 0), np.maximum(-along, 0)], 1))
    rest = (pictures[:3] - mean).square().sum(1).numpy()
    assert found.error == pytest.approx(1 - (along**2).sum(1) / rest, abs=1e-5)


def strengths_of(peak: np.ndarray) -> Strengths:
    return Strengths(peak, peak, np.zeros(len(peak)))


def test_a_latent_is_named_by_what_pictures_show_and_its_name_is_judged_on_others() -> None:
    rng = np.random.default_rng(4)

    def some(n: int) -> tuple[Strengths, list[dict[str, str | None]]]:
        labels = [{"style": rng.choice(["neon", "dots"]), "object": rng.choice(["cat", "sun"])} for _ in range(n)]
        neon = np.array([shown["style"] == "neon" for shown in labels])
        peak = np.stack([neon * (1 + rng.random(n)), rng.random(n), np.zeros(n)], 1)
        return strengths_of(peak), labels

    (chosen, chosen_labels), (judged, judged_labels) = some(80), some(60)
    found = named(chosen, chosen_labels, judged, judged_labels)
    assert found[0].rule is not None and found[0].rule.words == "style is neon" and found[0].f1 == 1
    assert is_name(found[0]) and not is_name(found[2]) and found[2].rule is None
    by_hand = judged.peak > FIRES * chosen.peak.max(0)
    assert np.array_equal(fires(chosen, judged), by_hand)


def test_words_of_captions_stand_in_for_labels() -> None:
    found = words(["A red cat on the mat.", "A picture of a cat!", "The dog, red.", "Cat."])
    assert found == [
        {"cat": IN_CAPTION, "red": IN_CAPTION},
        {"cat": IN_CAPTION},
        {"red": IN_CAPTION},
        {"cat": IN_CAPTION},
    ]
    peak = np.array([[1.0], [0.0], [1.0], [0.0]])
    [rule] = named(strengths_of(peak), found, strengths_of(peak), found)
    assert rule.rule is not None and rule.rule.words == "red is in the caption" and rule.f1 == 1
