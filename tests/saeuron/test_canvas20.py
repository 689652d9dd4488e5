import hashlib
import json
import re

import pytest
import torch

from saeuron.canvas import classifier, vae
from saeuron.canvas.model import Architecture, build_pipeline, build_tokenizer
from saeuron.canvas.renderer import SIZE, render
from saeuron.canvas.shapes import templates
from saeuron.canvas.training import CHECKPOINT, TrainConfig, Trainer, export, train
from saeuron.canvas.vocabularies import CANVAS20
from saeuron.canvas.vocabulary import OBJECTS, STYLE_CLASSES, sentence
from saeuron.errors import ConfigError

TINY = Architecture(channels=(16, 32), groups=8, heads=2, text_width=32, text_layers=1)
CONFIG = TrainConfig(architecture=TINY, images=24, batch=4, warmup=2)
CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Renderer


def every_pair():
    objects = torch.arange(len(OBJECTS)).repeat_interleave(len(STYLE_CLASSES))
    return objects, torch.arange(len(STYLE_CLASSES)).repeat(len(OBJECTS))


def test_renders_have_their_shape_and_range_and_are_not_blank():
    images = render(*every_pair(), seeded())
    assert images.shape == (260, 3, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert -1 <= images.min() <= images.max() <= 1
    assert images.flatten(1).std(1).min() > 0.03


def test_the_same_seed_draws_the_same_images():
    assert torch.equal(render(*every_pair(), seeded(3)), render(*every_pair(), seeded(3)))
    first, second = render(*every_pair(), seeded(3)), render(*every_pair(), seeded(4))
    assert (first != second).flatten(1).any(1).all()


def test_drawing_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    render(*every_pair(), seeded())
    assert torch.equal(state, torch.random.get_rng_state())


def _least_distance(images):
    flat = images.flatten(1)
    return torch.pdist(flat).min() / flat.shape[1] ** 0.5


@pytest.mark.parametrize("style", range(len(STYLE_CLASSES)), ids=STYLE_CLASSES)
def test_all_objects_differ_in_every_style(style):
    # The same seed for each: place, size and colours are equal, the object alone differs.
    images = torch.cat([render(torch.tensor([o]), torch.tensor([style]), seeded(1)) for o in range(len(OBJECTS))])
    assert _least_distance(images) > 0.04


@pytest.mark.parametrize("shape", [0, 13, 19])
def test_all_styles_differ(shape):
    images = torch.cat([render(torch.tensor([shape]), torch.tensor([s]), seeded(1)) for s in range(len(STYLE_CLASSES))])
    assert _least_distance(images) > 0.1


def test_every_object_has_an_inside_within_the_frame():
    distance = templates()
    assert distance.shape[0] == len(OBJECTS)
    assert torch.isfinite(distance).all()
    share = (distance < 0).float().mean((1, 2, 3))
    assert share.min() > 0.03
    border = torch.cat([distance[..., 0, :], distance[..., -1, :], distance[..., 0], distance[..., -1]], -1)
    assert border.min() > 0


# VAE stand-in


@pytest.mark.parametrize("patch", [1, 2, 4, 8])
def test_the_vae_is_exact(patch):
    model, images = vae.PixelUnshuffleVAE(patch=patch), torch.randn(2, 3, 32, 32)
    latents = model.encode(images).latent_dist.sample()
    assert latents.shape == (2, 3 * patch**2, 32 // patch, 32 // patch)
    assert torch.equal(model.decode(latents).sample, images)
    assert torch.equal(model.decode(latents, return_dict=False)[0], images)
    assert torch.equal(model.encode(images, return_dict=False)[0].mode(), latents)
    assert 2 ** (len(model.config.block_out_channels) - 1) == patch
    assert model.config.latent_channels == latents.shape[1]


# Tokenizer


def test_every_word_is_one_token_and_no_sentence_is_cut():
    tokenizer = build_tokenizer(16)
    words = sorted({w for text in CANVAS20.all_sentences() for w in re.findall(r"[a-z]+|[.,]", text.lower())})
    assert len(words) > 40
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    assert [word for word, i in zip(words, ids, strict=True) if len(i) != 1] == []
    assert len({i[0] for i in ids}) == len(words)
    lengths = [len(tokenizer(text).input_ids) for text in CANVAS20.all_sentences()]
    assert max(lengths) <= 16


def test_a_sentence_is_its_words_between_start_and_end():
    tokenizer = build_tokenizer(16)
    ids = tokenizer(sentence("In {style} style, a {object}.", "cat", "neon")).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<|startoftext|>", "in</w>", "neon</w>", "style</w>", ",</w>", "a</w>", "cat</w>", ".</w>", "<|endoftext|>",
    ]  # fmt: skip
    assert tokenizer.unk_token_id not in tokenizer("A zebra on 7 bikes", add_special_tokens=False).input_ids


def test_tokenizers_of_two_processes_are_identical(fresh_process):
    here = build_tokenizer(16).backend_tokenizer.to_str()
    assert fresh_process["tokenizer"] == hashlib.sha256(here.encode()).hexdigest()


# Pipeline


def weights(pipe):
    return {**pipe.unet.state_dict(), **pipe.text_encoder.state_dict()}


def test_a_pipelines_weights_follow_its_seed_alone(make_pipe):
    torch.manual_seed(1)
    one = weights(make_pipe())
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    two, other = weights(make_pipe()), weights(make_pipe(1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not torch.equal(one["conv_in.weight"], other["conv_in.weight"])


def test_the_patch_sets_the_latents():
    pipe = build_pipeline(TINY.model_copy(update={"patch": 2}), 0)
    assert (pipe.unet.config.in_channels, pipe.unet.config.sample_size) == (12, 16)
    pipe.set_progress_bar_config(disable=True)
    assert pipe(["A cat."], num_inference_steps=1, output_type="np").images.shape == (1, 32, 32, 3)


# Training


def steps(trainer, count):
    return [trainer.step() for _ in range(count)]


def test_six_steps_are_three_and_three_more(tmp_path):
    whole = Trainer(CONFIG, CPU)
    losses = steps(whole, 6)
    first = Trainer(CONFIG, CPU)
    before = steps(first, 3)
    first.save(tmp_path)
    second = Trainer(CONFIG, CPU)
    second.load(tmp_path)
    assert second.step_index == 3
    assert before + steps(second, 3) == losses
    for name, value in whole.parameters.items():
        assert torch.equal(value, second.parameters[name]), name
        assert torch.equal(whole.ema[name], second.ema[name]), name
    whole.save(tmp_path / "whole")
    second.save(tmp_path / "second")
    assert (tmp_path / "whole" / CHECKPOINT).read_bytes() == (tmp_path / "second" / CHECKPOINT).read_bytes()
    assert len(set(losses)) == 6


def test_a_run_in_pieces_is_complete_and_exports_its_running_mean(tmp_path):
    run = tmp_path / "run"
    config = CONFIG.model_copy(update={"images": 8})
    assert train(config, run, CPU, minutes=0) is False
    assert train(config, run, CPU) is True
    assert export(run, tmp_path / "out")["images_seen"] == 8
    from safetensors.torch import load_file

    shipped = load_file(tmp_path / "out/unet/diffusion_pytorch_model.safetensors")
    straight = Trainer(config, CPU)
    steps(straight, 2)
    assert torch.equal(shipped["conv_in.weight"], straight.ema["unet.conv_in.weight"].half())


def test_a_folder_of_another_run_is_refused(tmp_path):
    Trainer(CONFIG, CPU).save(tmp_path)
    with pytest.raises(ConfigError, match=r"another configuration .*only images, decay, unstyled, early may change"):
        Trainer(CONFIG.model_copy(update={"lr": 0.5}), CPU).load(tmp_path)
    Trainer(CONFIG.model_copy(update={"images": 4000, "decay": 0.1}), CPU).load(tmp_path)


def test_learning_rates_of_canvas():
    config = TrainConfig(images=6400, batch=64, warmup=10, decay=0.5)
    rates = [config.rate(step) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert set(rates[9:51]) == {1.0}
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


# Classifier


def test_the_classifiers_heads_and_its_file(tmp_path):
    model = classifier.train_classifier(steps=2, batch=8, seed=1)
    again = classifier.train_classifier(steps=2, batch=8, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    classifier.save_classifier(model, {"object": 0.5}, tmp_path / "c")
    loaded = classifier.load_classifier(tmp_path / "c")
    images = render(*every_pair(), seeded())
    with torch.no_grad():
        (objects, styles), (objects_saved, styles_saved) = model(images), loaded(images)
    assert objects.shape == (260, 20)
    assert styles.shape == (260, 13)
    torch.testing.assert_close(objects, objects_saved, rtol=0, atol=1e-2)
    torch.testing.assert_close(styles, styles_saved, rtol=0, atol=1e-2)
    assert loaded.body[0][0].weight.dtype == torch.float32


def test_accuracy_counts_what_is_recognised(monkeypatch):
    drawn = []
    monkeypatch.setattr(classifier, "_batch", lambda count, *_: drawn.append(_labels(count)) or drawn[-1])

    def _labels(count):
        return torch.zeros(count), torch.arange(count) % 20, torch.arange(count) % 13

    def model(images):
        # Every object right, the style always the first.
        objects = torch.nn.functional.one_hot(torch.arange(len(images)) % 20, 20)
        return objects.float(), torch.nn.functional.one_hot(torch.zeros(len(images), dtype=torch.long), 13).float()

    found = classifier.accuracy(model, images=1000)
    assert found["object"] == 1
    assert found["style"] == pytest.approx(39 / 500)
    assert json.dumps(found)
