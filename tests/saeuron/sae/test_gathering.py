"""What the reader of a diagnosis keeps, against everything that the hookpoint gave, kept and counted slowly."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError, WidthMismatch
from saeuron.generation import Request, generate
from saeuron.hooks import Step, attached, to_rows
from saeuron.prompts import Prompt
from saeuron.sae.diagnosis import DiagnosisConfig
from saeuron.sae.diagnosis.gathering import Reader
from tests.saeuron.sae.test_diagnosis import MAP, SEQUENCE, random_sae

MODEL = ModelConfig(steps=3, micro_batch=2)
IMAGES = [Request(Prompt(f"A {word}.", "test"), i) for word in ("cat", "moon", "star") for i in range(2)][:5]
CONFIG = DiagnosisConfig(images=5, rows=40, examples=3, seed=11)


def sae_at(path):
    """Latents of which some fire on every row, some on a few, one never."""
    sae = random_sae(16 if path == MAP else 32, 12, hookpoint=path, threshold=0.2)
    sae.b_enc[3] = -1e6
    sae.b_enc[5] = 1e6
    return sae


def read(pipe, sae, model=MODEL, config=CONFIG):
    reader = Reader(pipe, sae, IMAGES, model.steps, config)
    made = [
        (request, picture)
        for batch, pictures in reader.over(pipe, model)
        for request, picture in zip(batch, pictures, strict=True)
    ]
    assert [request for request, _ in made] == IMAGES
    return reader.gathered()


def kept(pipe, path, half, update=False):
    """{(image, timestep): rows [P, D]} of one half, each image generated in the micro-batches of MODEL."""
    found, first = {}, 0
    for start in range(0, len(IMAGES), MODEL.micro_batch):
        batch = IMAGES[start : start + MODEL.micro_batch]
        seen = []

        def keep(step, output, source, seen=seen):
            seen.append((step.timestep, to_rows(output - source if update else output).clone()))

        with attached(pipe, readers={path: keep}):
            list(generate(pipe, batch, MODEL, CONFIG.seed))
        for timestep, rows in seen:
            for i in range(len(batch)):
                # A batch that was filled up is longer than what was asked for.
                found[first + i, timestep] = rows[i + (len(rows) // 2 if half == "conditional" else 0)]
        first += len(batch)
    return found


@pytest.fixture(scope="module", params=[MAP, SEQUENCE])
def case(request, tiny_pipe):
    sae = sae_at(request.param)
    return SimpleNamespace(
        sae=sae, found=read(tiny_pipe, sae),
        rows={half: kept(tiny_pipe, request.param, half) for half in ("conditional", "unconditional")},
    )  # fmt: skip


def test_moments_of_each_step_and_half(case):
    assert set(case.found.moments) == {(t, half) for t in (999, 666, 332) for half in ("conditional", "unconditional")}
    for (timestep, half), found in case.found.moments.items():
        x = torch.cat([rows for (_, t), rows in case.rows[half].items() if t == timestep]).double()
        x_hat = case.sae(x.float()).double()
        assert found.rows == len(x)
        variance = (x - x.mean(0)).square().sum()
        assert found.fvu == pytest.approx(float((x - x_hat).square().sum() / variance), rel=1e-5)
        assert found.l0 == pytest.approx(float((case.sae.encode(x.float()) != 0).sum()) / len(x), abs=2 / len(x))


def test_firing_counts_are_those_of_the_rows(case):
    firing, rows = case.found.firing, case.rows["conditional"]
    assert firing.timesteps == [999, 666, 332] and firing.images.tolist() == [5, 5, 5]
    images = defaultdict(set)
    for k, timestep in enumerate(firing.timesteps):
        f = {image: case.sae.encode(x).double() for (image, t), x in rows.items() if t == timestep}
        every = torch.cat(list(f.values()))
        assert firing.rows[k] == len(every)
        assert torch.equal(firing.fires[k], (every != 0).sum(0))
        torch.testing.assert_close(firing.total[k], every.sum(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(firing.maximum[k], every.amax(0), rtol=1e-5, atol=1e-5)
        for image, values in f.items():
            for latent in (values != 0).any(0).nonzero().flatten().tolist():
                images[latent].add(image)
    assert firing.image_fires.tolist() == [len(images[i]) for i in range(12)]
    assert firing.fires[:, 3].sum() == 0 and (firing.fires[:, 5] == firing.rows).all()


def test_examples_are_the_images_with_the_largest_means(case):
    rows, top = case.rows["conditional"], case.found.examples
    for latent in range(12):
        means, best = {}, {}
        for image in range(5):
            values = [
                (float(value), t, position)
                for t in (999, 666, 332)
                for position, value in enumerate(case.sae.encode(rows[image, t])[:, latent].tolist())
            ]
            means[image] = sum(v[0] for v in values) / len(values)
            best[image] = max(values, key=lambda v: v[0])
        order = sorted(means, key=lambda image: -means[image])
        firing = [image for image in order if means[image] > 0]
        # Three first, then the last of the first quarter, half and three quarters of those in which it fires.
        ranks = [r for r in (1, 2, 3) if r <= len(firing)]
        ranks += [r for r in (math.ceil(len(firing) * q) for q in (0.25, 0.5, 0.75)) if r > 3]
        kept = top.mean[:, latent] > 0
        assert top.rank[kept, latent].tolist() == ranks
        largest = max(v[0] for v in best.values())
        for place, rank in zip(kept.nonzero().flatten().tolist(), ranks, strict=True):
            image = order[rank - 1]
            value, timestep, position = best[image]
            assert top.image[place, latent] == image
            assert float(top.mean[place, latent]) == pytest.approx(means[image], rel=1e-4)
            assert float(top.value[place, latent]) == pytest.approx(value, rel=1e-5)
            assert (top.timestep[place, latent], top.position[place, latent]) == (timestep, position)
            if place < 3:
                heat = case.sae.encode(rows[image, timestep])[:, latent] / largest * 255
                assert (top.heat[place, :, latent].float() - heat).abs().max() <= 0.51


def test_rows_are_a_sample_of_every_image(case):
    rows, sample = case.rows["conditional"], case.found.rows
    assert torch.bincount(case.found.row_image).tolist() == [8] * 5
    for row, image in zip(sample, case.found.row_image.tolist(), strict=True):
        mine = torch.cat([x for (i, _), x in rows.items() if i == image])
        assert (mine - row).abs().amax(1).min() < 1e-5
    # No row comes twice.
    assert len(sample.unique(dim=0)) == 40


def test_the_shape_of_a_map(case):
    assert case.found.grid == ((8, 8) if case.sae.info.hookpoint == MAP else (4, 4))


def test_neither_examples_nor_rows_depend_on_the_micro_batch(tiny_pipe, case):
    other = read(tiny_pipe, case.sae, MODEL.model_copy(update={"micro_batch": 5}))
    torch.testing.assert_close(other.examples.value, case.found.examples.value, rtol=1e-4, atol=1e-5)
    assert torch.equal(other.firing.rows, case.found.firing.rows)
    order = [found.rows.sum(1).sort().values for found in (other, case.found)]
    torch.testing.assert_close(*order, rtol=1e-4, atol=1e-4)


def test_an_sae_of_updates_reads_updates(tiny_pipe):
    sae = sae_at(MAP)
    found = read(tiny_pipe, sae, config=CONFIG.model_copy(update={"read": "update"}))
    rows = kept(tiny_pipe, MAP, "conditional", update=True)
    x = torch.cat([rows[image, 999] for image in range(5)])
    error = (x - sae(x)).double().square().sum() / (x - x.mean(0)).double().square().sum()
    assert found.moments[999, "conditional"].fvu == pytest.approx(float(error), rel=1e-4)


def test_the_other_half(tiny_pipe, case):
    config = CONFIG.model_copy(update={"half": "unconditional"})
    found = read(tiny_pipe, case.sae, config=config)
    rows = case.rows["unconditional"]
    fires = sum((case.sae.encode(x) != 0).sum(0) for (_, t), x in rows.items() if t == 666)
    assert torch.equal(found.firing.fires[1], fires)
    assert not torch.equal(found.firing.fires, case.found.firing.fires)


def test_a_half_that_is_not_there(tiny_pipe, case):
    config = CONFIG.model_copy(update={"half": "unconditional"})
    with pytest.raises(ConfigError, match="no unconditional half"):
        read(tiny_pipe, case.sae, MODEL.model_copy(update={"guidance": 1.0}), config)


def test_an_sae_of_another_width(tiny_pipe):
    reader = Reader(tiny_pipe, sae_at(MAP), IMAGES, 3, CONFIG)
    reader._start(0, IMAGES[:2])
    with pytest.raises(WidthMismatch, match="expects activations of width 16"):
        reader(Step(999, index=0), torch.zeros(2, 32, 4, 4), None)
