"""Whether a picture looks like a render: plants that no removal made are told from new renders."""

import pytest
import torch

from saeuron import judges
from saeuron.canvas.realism import Realism, _means, realism, renders
from saeuron.canvas.vocabularies import CANVAS20


@pytest.fixture(scope="module")
def fitted() -> Realism:
    return realism(CANVAS20)


def test_new_renders_are_ordinary_and_plants_are_not(fitted: Realism) -> None:
    pictures, objects, styles = renders(CANVAS20, 2, 77)
    assert fitted.ordinary(pictures).float().mean() > 0.96
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(100, 3, 32, 32, generator=draws).clamp(-1, 1)
    blank = torch.rand(100, 3, 1, 1, generator=draws).expand(-1, -1, 32, 32) * 2 - 1
    other = (objects != objects.roll(40)) & (styles != styles.roll(40))
    blend = ((pictures + pictures.roll(40, 0)) / 2)[other]
    assert not fitted.ordinary(noise).any() and not fitted.ordinary(blank).any()
    assert fitted.ordinary(blend).float().mean() < 0.6


def test_distance_is_the_least_over_all_objects_and_styles(fitted: Realism) -> None:
    from saeuron.canvas.realism import features

    pictures, _, _ = renders(CANVAS20, 1, 78)
    x = features(fitted.model, pictures[:3]) @ fitted.whiten
    slow = [min(float((row - centre).norm()) for centre in fitted.centres) for row in x]
    assert fitted.distance(pictures[:3]).tolist() == pytest.approx(slow, rel=1e-3)


def test_means_are_taken_group_by_group() -> None:
    found = _means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]))
    assert found.tolist() == [[2.0], [5.0]]


def test_the_judge_tells(fitted: Realism) -> None:
    judge = judges.create("canvas20", "object")
    pictures, _, _ = renders(CANVAS20, 1, 79)
    images = ((pictures[:8] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    found = judge.ordinary(images)  # type: ignore[attr-defined]
    assert len(found) == 8 and sum(found) >= 6
