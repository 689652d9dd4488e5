import numpy as np
import pytest
import torch

from saeuron.capturing import capture, images
from saeuron.config import CaptureConfig, ModelConfig
from saeuron.errors import ConfigError
from saeuron.generation import generate, requests
from saeuron.hooks import attached, to_rows
from saeuron.prompts import Prompt

FINE, COARSE = "unet.up_blocks.1.attentions.1", "unet.up_blocks.0.attentions.0"
MODEL = ModelConfig(steps=4, guidance=2.0, micro_batch=3)
WANTED = requests([Prompt("A cat.", "train"), Prompt("A star in neon style.", "train")], 2)


def captured(pipe, *, hookpoints=(FINE,), wanted=WANTED, model=MODEL, **config):
    return {
        r.key: (t[hookpoints[0]], arrays, image)
        for r, t, arrays, image in capture(pipe, wanted, hookpoints, model, CaptureConfig(**config))
    }


@pytest.fixture(scope="module")
def raw(tiny_pipe):
    """What the hookpoint truly gave and took: {key: {timestep: (output, input)}}, float32 [halves, positions, D]."""
    found, calls = {r.key: {} for r in WANTED}, []

    def reader(step, output, source):
        calls.append((step.timestep, to_rows(output).clone(), to_rows(source).clone()))

    with attached(tiny_pipe, readers={FINE: reader}):
        for batch, _ in generate(tiny_pipe, WANTED, MODEL, seed=0):
            for t, output, source in calls:
                n = len(output) // 2
                for i, request in enumerate(batch):
                    found[request.key][t] = (output[[i, n + i]], source[[i, n + i]])
            calls.clear()
    return found


def test_all_prompts_that_name_no_concept_are_captured():
    captions = [Prompt(f"Caption {i}.", "train") for i in range(40)]
    cats = [Prompt(f"Cat {i}.", "train", {"object": "cat"}) for i in range(9)]
    neon = [Prompt(f"Neon {i}.", "train", {"object": "cat", "style": "neon"}) for i in range(9)]
    for found in (captions, [*captions, *cats, *neon]):
        wanted = images([*found, Prompt("Of another split.", "test")], CaptureConfig())
        kept = [r.prompt for r in wanted]
        assert {p.text for p in kept if not p.concepts} == {p.text for p in captions}
        assert [sum(p in kept for p in own) for own in (cats, neon)] == ([4, 1] if len(found) > 40 else [0, 0])
        assert len({r.key for r in wanted}) == len(wanted)


@pytest.mark.parametrize(("every", "kept"), [(1, [999, 749, 499, 249]), (2, [999, 499]), (3, [999, 249]), (9, [999])])
def test_every_nth_step_is_kept(tiny_pipe, raw, every, kept):
    for key, (timesteps, arrays, _) in captured(tiny_pipe, every=every).items():
        assert timesteps == kept
        expected = np.stack([raw[key][t][0][1].half().numpy() for t in kept])
        assert arrays[FINE].dtype == np.float16
        np.testing.assert_array_equal(arrays[FINE], expected)


@pytest.mark.parametrize(("half", "rows"), [("unconditional", [0]), ("conditional", [1]), ("both", [0, 1])])
def test_captured_rows_are_those_of_the_chosen_half(tiny_pipe, raw, half, rows):
    for key, (timesteps, arrays, _) in captured(tiny_pipe, half=half).items():
        expected = np.stack([raw[key][t][0][rows].flatten(0, 1).half().numpy() for t in timesteps])
        assert expected.shape == (4, 64 * len(rows), 16)
        np.testing.assert_array_equal(arrays[FINE], expected)


def test_an_unguided_batch_is_all_conditional(tiny_pipe):
    plain = ModelConfig(steps=2, guidance=1.0, micro_batch=3)
    one, two = (captured(tiny_pipe, model=plain, half=half) for half in ("conditional", "both"))
    assert all(np.array_equal(one[k][1][FINE], two[k][1][FINE]) for k in one)
    assert one[WANTED[0].key][1][FINE].shape == (2, 64, 16)


def test_an_unguided_model_has_no_unconditional_half(tiny_pipe):
    with pytest.raises(ConfigError, match=r"capture\.half .*unconditional.*guidance"):
        captured(tiny_pipe, model=ModelConfig(steps=1, guidance=1.0), half="unconditional", positions=3)


def test_the_update_is_output_minus_input(tiny_pipe, raw):
    for key, (timesteps, arrays, _) in captured(tiny_pipe, read="update").items():
        expected = [(raw[key][t][0][1] - raw[key][t][1][1]).half().numpy() for t in timesteps]
        np.testing.assert_array_equal(arrays[FINE], np.stack(expected))
    assert not np.array_equal(arrays[FINE], captured(tiny_pipe)[key][1][FINE])


def test_a_number_beyond_float16_is_refused(make_pipe):
    pipe = make_pipe()
    torch.nn.init.constant_(pipe.unet.get_submodule(FINE.removeprefix("unet.")).proj_out.bias, 1e5)
    with pytest.raises(ConfigError, match=rf"activations at {FINE} are not finite in float16, .*capture\.dtype to bfl"):
        captured(pipe)
    assert captured(pipe, dtype="bfloat16")


def test_an_update_needs_equal_shapes(tiny_pipe):
    with pytest.raises(ConfigError, match=r"capture\.read 'update' needs"):
        captured(tiny_pipe, hookpoints=["unet.conv_in"], read="update")


def test_bfloat16_comes_as_its_bits(tiny_pipe, raw):
    for key, (timesteps, arrays, _) in captured(tiny_pipe, dtype="bfloat16").items():
        assert arrays[FINE].dtype == np.uint16
        back = torch.from_numpy(arrays[FINE]).view(torch.bfloat16)
        assert torch.equal(back, torch.stack([raw[key][t][0][1].bfloat16() for t in timesteps]))


def _positions_of(rows, whole):
    """Which rows of `whole` [P, D] the rows [kept, D] are."""
    return [int((whole == row).all(1).nonzero()[0][0]) for row in rows]


@pytest.mark.parametrize("half", ["conditional", "both"])
def test_sampled_positions_are_the_same_at_every_step_and_in_any_batch(tiny_pipe, half):
    whole = captured(tiny_pipe, half=half)
    chosen = captured(tiny_pipe, half=half, positions=10)
    other = ModelConfig(steps=4, guidance=2.0, micro_batch=2)
    rearranged = captured(tiny_pipe, half=half, positions=10, wanted=WANTED[::-1], model=other)
    picks = set()
    for key, (_, arrays, _) in chosen.items():
        kept = [
            _positions_of(step, everything) for step, everything in zip(arrays[FINE], whole[key][1][FINE], strict=True)
        ]
        assert len(set(kept[0])) == 10
        assert all(step == kept[0] == sorted(kept[0]) for step in kept)
        picks.add(tuple(kept[0]))
        np.testing.assert_allclose(arrays[FINE], rearranged[key][1][FINE], atol=5e-3)
    assert len(picks) == len(WANTED)


def test_sampled_positions_follow_the_seed(tiny_pipe):
    first, second = (captured(tiny_pipe, positions=10, seed=s, wanted=WANTED[:1]) for s in (0, 1))
    assert not np.array_equal(first[WANTED[0].key][1][FINE], second[WANTED[0].key][1][FINE])


def test_more_positions_than_there_are_keeps_all(tiny_pipe, raw):
    one, two = (captured(tiny_pipe, positions=p, wanted=WANTED[:1]) for p in (1000, None))
    np.testing.assert_array_equal(one[WANTED[0].key][1][FINE], two[WANTED[0].key][1][FINE])


def test_several_hookpoints_in_one_pass(tiny_pipe):
    both = captured(tiny_pipe, hookpoints=(FINE, COARSE), every=2)
    alone = captured(tiny_pipe, hookpoints=(COARSE,), every=2)
    for key, (timesteps, arrays, _) in both.items():
        assert {path: a.shape for path, a in arrays.items()} == {FINE: (2, 64, 16), COARSE: (2, 16, 32)}
        assert timesteps == [999, 499]
        np.testing.assert_array_equal(arrays[COARSE], alone[key][1][COARSE])


def test_capturing_does_not_change_the_images(tiny_pipe):
    plain = {r.key: i for b, made in generate(tiny_pipe, WANTED, MODEL, 0) for r, i in zip(b, made, strict=True)}
    for key, (_, _, image) in captured(tiny_pipe).items():
        np.testing.assert_array_equal(image, plain[key])
