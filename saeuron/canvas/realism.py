"""Whether a picture looks like what canvas draws, whatever it shows: a distance from renders.

A judge must choose a label for noise and for blank pictures too. So a removal that destroys pictures, and an attack
that makes patterns, can both pass for a success. The features are those of the classifier's body, pooled to 2 x 2
positions. Their mean for an object in a style is taken as the object's mean plus the style's less that of all, and one
covariance holds for all. The distance of a picture is the least Mahalanobis distance to these means (Lee et al.,
1807.03888); the threshold is the 99 % quantile of new renders. `python -m benchmarks.pictures.realism` measures it on
plants.
"""

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from saeuron.canvas.classifier import Network, judge_file, load_classifier
from saeuron.canvas.renderer import render
from saeuron.canvas.vocabularies import Vocabulary

FIT, HELD_OUT = 2, 2
"""Renders of each object in each style: to fit to, and to set the threshold by."""
SHRINK = 1e-3
"""Share of the mean variance that is added to every direction of the covariance."""
QUANTILE = 0.99


@dataclass(frozen=True)
class Realism:
    """Distances of pictures from renders."""

    model: Network
    centres: Tensor
    """float32 [objects x styles, F]: mean features of each object in each style, whitened."""
    whiten: Tensor
    """float32 [F, F]: the inverse root of the covariance within an object and style."""
    threshold: float

    def distance(self, pictures: Tensor) -> Tensor:
        """float32 [B] of pictures float32 [B, 3, 32, 32] in [-1, 1]."""
        return torch.cdist(features(self.model, pictures) @ self.whiten, self.centres).min(1).values

    def ordinary(self, pictures: Tensor) -> Tensor:
        """bool [B]: whether a picture is as near to renders as 99 % of new renders are."""
        return self.distance(pictures) <= self.threshold


@torch.inference_mode()
def features(model: Network, pictures: Tensor) -> Tensor:
    """float32 [B, F]: outputs of the classifier's body, pooled to 2 x 2 positions."""
    return torch.cat([F.adaptive_avg_pool2d(model.body(part), 2).flatten(1) for part in pictures.split(250)])


def renders(vocabulary: Vocabulary, each: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(pictures, objects, styles): `each` of every object in every style."""
    generator, styles = torch.Generator().manual_seed(seed), len(vocabulary.style_classes)
    cells = torch.arange(len(vocabulary.objects) * styles).repeat(each)
    pictures = [render(part // styles, part % styles, generator, vocabulary.objects) for part in cells.split(250)]
    return torch.cat(pictures), cells // styles, cells % styles


@functools.lru_cache(maxsize=2)
@torch.inference_mode()
def realism(vocabulary: Vocabulary) -> Realism:
    """Fit to the renders of a vocabulary, with its committed classifier; always the same."""
    model = load_classifier(judge_file(vocabulary))
    pictures, objects, styles = renders(vocabulary, FIT, 2_000_001)
    x = features(model, pictures)
    of_object, of_style = _means(x, objects), _means(x, styles)
    centres = (of_object[:, None] + of_style - x.mean(0)).flatten(0, 1)
    rest = x - centres[objects * len(of_style) + styles]
    covariance = rest.T.double() @ rest.double() / len(rest)
    covariance += SHRINK * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance)
    whiten = (vectors * values.rsqrt() @ vectors.T).float()
    found = Realism(model, centres @ whiten, whiten, 0.0)
    held_out, _, _ = renders(vocabulary, HELD_OUT, 2_000_002)
    return replace(found, threshold=float(found.distance(held_out).quantile(QUANTILE)))


def _means(x: Tensor, groups: Tensor) -> Tensor:
    """Mean of the rows of each group, [groups, F]."""
    sums = torch.zeros(int(groups.max()) + 1, x.shape[1]).index_add_(0, groups, x)
    return sums / torch.bincount(groups)[:, None]
