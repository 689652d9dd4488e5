"""Where sensors fire, against loops; what they remember; their thresholds."""

import torch

from saeuron.generation import generate
from saeuron.hooks import Step, attached
from saeuron.methods.detection.sensor import Memory, grid, resized, sensors
from saeuron.methods.detection.thresholds import QUANTILE, with_thresholds
from tests.saeuron.methods.detection.sensing import ASKED, FIRST, MODEL, by_hand, rows_at
from tests.saeuron.methods.removals import TIMESTEPS, T


def test_places_on_grids_of_other_sizes():
    fired = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)) > 0.7
    for height, width in ((2, 3), (8, 12), (4, 6), (1, 1)):
        found = resized(fired, height, width)
        for y in range(height):
            for x in range(width):
                # A place of the new grid, and those of the old one that it shares some of its area with.
                ys = [i for i in range(4) if i * height < (y + 1) * 4 and (i + 1) * height > y * 4]
                xs = [i for i in range(6) if i * width < (x + 1) * 6 and (i + 1) * width > x * 6]
                expected = fired[:, ys][:, :, xs].flatten(1).any(1)
                assert torch.equal(found[:, y, x], expected), (height, width, y, x)
    assert [grid(64, 1.0), grid(96, 1.5), grid(24, 2 / 3), grid(7, 1.0)] == [(8, 8), (12, 8), (4, 6), (1, 7)]


def test_sensors_fire_where_a_loop_says(sensor, tiny_pipe):
    for t, rows in rows_at(tiny_pipe, FIRST):
        step = Step(t, guided=True)
        both = torch.cat([torch.zeros_like(rows), rows])
        positions, opened = by_hand(sensor, rows, t)
        assert torch.equal(sensor.fires(step, both), positions.flatten(1))
        assert torch.equal(sensor.opened(step, both), opened)
        assert 0 < positions.float().mean() < 1
        each = Step(t, guided=True, timesteps=torch.full((len(both),), t))
        assert torch.equal(sensor.fires(each, both), positions.flatten(1))


def test_what_fires_is_forgotten_at_the_next_run(sensor, tiny_pipe):
    seen, memory = [], Memory([sensor])

    def read(step, output, source):
        seen.append(memory.fired(8, 8).clone())

    hooks = dict(memory.readers(tiny_pipe)) | {"unet.mid_block.attentions.0": read}
    expected = [by_hand(sensor, rows, t)[0] for t, rows in rows_at(tiny_pipe, FIRST)]
    with attached(tiny_pipe, readers=hooks):
        for _ in range(2):
            list(generate(tiny_pipe, ASKED, MODEL, 5))
    assert len(seen) == 2 * T
    for i, found in enumerate(seen):
        assert torch.equal(found, expected[i % T]), i


def test_a_threshold_is_what_one_in_a_hundred_retained_images_reaches(evidence, tiny_pipe):
    [plain] = sensors(evidence, 3)
    [found] = with_thresholds([plain], evidence, evidence.others)
    heights = {t: [] for t in TIMESTEPS}
    for request in evidence.others:
        seen = []
        with attached(
            tiny_pipe, readers={FIRST: lambda step, out, source, seen=seen: seen.append((step, out, step.timestep))}
        ):
            list(generate(tiny_pipe, [request], MODEL, evidence.seed))
        for _, out, t in seen:
            # One image was filled up to eight: the conditional half begins at 8.
            f = plain.encode(out[8].flatten(1).T)
            chosen = torch.isfinite(plain.floor[TIMESTEPS.index(t)])
            heights[t].append(float((f * chosen).sum(1).max()))
    expected = [float(torch.tensor(heights[t]).quantile(QUANTILE)) for t in TIMESTEPS]
    torch.testing.assert_close(found.tau, torch.tensor(expected))
    assert found.gate == "activation" and torch.equal(found.floor, plain.floor)
