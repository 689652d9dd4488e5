import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from saeuron.canvas import WEIGHTS20, classifier
from saeuron.canvas.__main__ import app
from saeuron.canvas.batches import Prompts, draw_labels, draw_times
from saeuron.canvas.card import CARD, FIGURES, TRAINING, write_card
from saeuron.canvas.evaluation import recognised
from saeuron.canvas.glyphs import glyph, signed_distance, squared_distance
from saeuron.canvas.growth import grow
from saeuron.canvas.hundred import GLYPHS
from saeuron.canvas.model import Architecture, build_pipeline, build_tokenizer
from saeuron.canvas.phrases import STYLED_PARAPHRASES, UNSTYLED_PARAPHRASES, misspellings
from saeuron.canvas.renderer import masks, render
from saeuron.canvas.shapes import templates
from saeuron.canvas.training import TrainConfig, Trainer, export, saved_config, train
from saeuron.canvas.vocabularies import CANVAS, CANVAS20, UNUSUAL, VOCABULARIES, Vocabulary, vocabulary_named
from saeuron.canvas.vocabulary import OBJECTS, STYLE_CLASSES, STYLES, sentences
from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from saeuron.prompts import from_file

CPU = torch.device("cpu")
SPLITS = ("train", "validation", "test")
TINY = Architecture(channels=(16, 32), groups=8, heads=2, text_width=32, text_layers=1, tokens=24)
FEW = Vocabulary("few", CANVAS.objects[18:22], CANVAS.descriptions[18:22])
CONFIG = TrainConfig(
    architecture=TINY, vocabulary="few", images=32, batch=8, warmup=2, decay=0.0, unstyled=0.4, early=True,
    unusual=0.5, bfloat16=True,
)  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipe():
    return build_pipeline(TINY, 0, CANVAS)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """A vocabulary of four objects, boat, cat, sun and cloud, under the name `few`."""
    monkeypatch.setitem(VOCABULARIES, "few", FEW)


# Shapes


@pytest.mark.parametrize("seed", range(4))
def test_the_distance_transform_is_exact(seed):
    inside = np.random.default_rng(seed).random((13, 17)) < (0.02, 0.1, 0.5, 0.9)[seed]
    inside[3, 5], inside[4, 5] = True, False
    points = np.argwhere(inside)
    grid = np.indices(inside.shape).transpose(1, 2, 0)
    nearest = ((grid[:, :, None] - points) ** 2).sum(-1).min(-1)
    assert np.array_equal(squared_distance(inside), nearest)
    signed = signed_distance(inside)
    assert np.array_equal(signed < 0, inside)
    assert np.array_equal(signed[~inside], np.sqrt(nearest[~inside].astype(np.float32)) - 0.5)


def test_a_glyph_fills_the_frame_and_thicker_is_larger_inside():
    code, _ = GLYPHS["hexagon"]
    thin, thick = glyph(code, 160, 2.4), glyph(code, 160, 2.4, thicken=0.1)
    assert thin.dtype == np.float32
    for template in (thin, thick):
        # The longer side spans [-1, 1]: 2 of 4.8 units on 160 pixels.
        spans = [np.flatnonzero((template < 0).any(axis)) for axis in (0, 1)]
        assert max(len(span) for span in spans) == pytest.approx(160 * 2 / 4.8, abs=2)
        assert all(abs(span.mean() - 79.5) <= 1 for span in spans)
    code, _ = GLYPHS["scales"]
    assert (glyph(code, 160, 2.4, thicken=0.1) < 0).mean() > 1.3 * (glyph(code, 160, 2.4) < 0).mean()


def test_the_hundred_objects_are_the_twenty_and_eighty_glyphs():
    assert CANVAS.objects[:20] == OBJECTS
    assert set(CANVAS.objects[20:]) == set(GLYPHS)
    distance = templates(CANVAS.objects)
    assert distance.shape == (100, 1, 160, 160)
    assert torch.equal(distance[:20], templates())
    share = (distance < 0).float().mean((1, 2, 3))
    assert share.min() > 0.02
    border = torch.cat([distance[..., 0, :], distance[..., -1, :], distance[..., 0], distance[..., -1]], -1)
    assert border.min() > 0


@pytest.mark.parametrize("style", range(len(STYLE_CLASSES)), ids=STYLE_CLASSES)
def test_all_hundred_differ_in_every_style(style):
    names = CANVAS.objects
    images = torch.cat([render(torch.tensor([o]), torch.tensor([style]), seeded(1), names) for o in range(100)])
    flat = images.flatten(1)
    assert torch.pdist(flat).min() / flat.shape[1] ** 0.5 > 0.02


def test_the_twenty_are_drawn_as_before():
    objects, styles = torch.arange(20).repeat(13), torch.arange(13).repeat_interleave(20)
    assert torch.equal(render(objects, styles, seeded(2)), render(objects, styles, seeded(2), CANVAS.objects))


def test_a_mask_is_where_an_unstyled_picture_has_the_colour_of_its_object():
    objects = torch.arange(len(CANVAS.objects))
    styles = torch.full_like(objects, STYLE_CLASSES.index("unstyled"))
    pictures, covered = render(objects, styles, seeded(4), CANVAS.objects), masks(objects, seeded(4), CANVAS.objects)
    assert covered.shape == (len(objects), 1, 32, 32) and covered[:, :, 0, 0].max() == 0
    for picture, mask in zip(pictures, covered[:, 0], strict=True):
        paper = picture[:, mask == 0].mean(1)[:, None, None]
        ink = picture[:, mask == 1].mean(1)[:, None, None]
        torch.testing.assert_close(picture, paper + (ink - paper) * mask, atol=1e-5, rtol=0)


# Words


def test_the_vocabulary_of_canvas_is_what_it_was():
    splits = ("train", "validation", "test")
    styles = (None, *STYLES)
    asked = [text for split in splits for o in OBJECTS for style in styles for text in sentences(split, o, style)]
    assert CANVAS20.all_sentences() == asked
    assert CANVAS20.kinds == ("plain",)
    with pytest.raises(ConfigError, match=r"'canvas7': there are canvas, canvas20"):
        vocabulary_named("canvas7")


def test_a_description_never_says_the_name():
    assert len(set(CANVAS.descriptions)) == len(CANVAS.objects) == 100
    for name, description in zip(CANVAS.objects, CANVAS.descriptions, strict=True):
        assert name not in description.split()
    said = CANVAS.sentences("test", "pisces", "neon", "description")
    assert "In neon style, a drawing of sign of the fish." in said
    assert not any("pisces" in text.lower() for text in said)


def test_wrong_spellings_are_disjoint_and_no_words():
    words = {w for text in CANVAS.all_sentences() for w in re.findall("[a-z]+", text.lower())}
    seen = {}
    for name in CANVAS.objects:
        for split in SPLITS:
            found = misspellings(name, split, CANVAS.objects)
            assert found, (name, split)
            for spelling in found:
                assert spelling not in words
                assert seen.setdefault(spelling, (name, split)) == (name, split)
    assert len(seen) > 900


@pytest.mark.parametrize("kind", CANVAS.kinds)
def test_the_splits_of_every_kind_are_disjoint(kind):
    found = [set(CANVAS.sentences(split, "king", "neon", kind)) for split in SPLITS]
    assert all(found)
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])


@pytest.mark.parametrize("templates_", [STYLED_PARAPHRASES, UNSTYLED_PARAPHRASES])
def test_paraphrases_are_not_plain_sentences(templates_):
    plain = {t for style in (None, "neon") for split in SPLITS for t in CANVAS.sentences(split, "king", style)}
    assert not plain & {t.format(object="king", style="neon") for split in SPLITS for t in templates_[split]}


def test_every_word_is_one_token_and_no_sentence_is_cut_not_even_a_wrong_one():
    tokenizer = build_tokenizer(24, CANVAS)
    words = sorted({w for t in CANVAS.all_sentences() for w in re.findall(r"[a-z]+|[.,]", t.lower())})
    ids = tokenizer(words, add_special_tokens=False).input_ids
    assert [word for word, i in zip(words, ids, strict=True) if len(i) != 1] == []
    assert len({i[0] for i in ids}) == len(words)
    texts = [
        text
        for kind in CANVAS.kinds
        for split in SPLITS
        for name in CANVAS.objects
        for text in CANVAS.sentences(split, name, "watercolour", kind)
    ]
    encoded = tokenizer(texts).input_ids
    assert max(len(i) for i in encoded) <= 24
    # The last token is the end, which also stands for what is unknown.
    assert not any(tokenizer.unk_token_id in i[:-1] for i in encoded)


# Growth


def test_growth_copies_what_is_known_and_new_words_lie_among_the_objects():
    old = build_pipeline(TINY.model_copy(update={"tokens": 16}), 0)
    new = grow(old, CANVAS, TINY, 1)
    for name, value in old.unet.state_dict().items():
        assert torch.equal(value, new.unet.state_dict()[name]), name
    before, after = old.text_encoder.state_dict(), new.text_encoder.state_dict()
    token = next(n for n in before if n.endswith("token_embedding.weight"))
    position = next(n for n in before if n.endswith("position_embedding.weight"))
    ids, new_ids = old.tokenizer.get_vocab(), new.tokenizer.get_vocab()
    for word in ("cat</w>", "style</w>", "<|endoftext|>"):
        assert torch.equal(after[token][new_ids[word]], before[token][ids[word]])
    assert torch.equal(after[position][:16], before[position])
    assert (after[position][16:] == before[position][15]).all()
    objects = before[token][[ids[f"{name}</w>"] for name in OBJECTS]]
    fresh = after[token][[new_ids[f"{name}</w>"] for name in GLYPHS]]
    assert (fresh.mean(0) - objects.mean(0)).abs().max() < 0.6 * objects.std(0).max()
    assert fresh.std(0).mean() / objects.std(0).mean() == pytest.approx(1, abs=0.15)
    assert torch.pdist(fresh).min() > 0
    others = [n for n in before if n not in (token, position)]
    assert all(torch.equal(before[n], after[n]) for n in others)


# Training


def test_labels_and_times_follow_their_shares():
    objects, styles = draw_labels(CANVAS, 20_000, seeded(), unstyled=0.4)
    assert objects.unique().tolist() == list(range(100))
    counts = styles.bincount(minlength=13) / 20_000
    assert counts[12] == pytest.approx(0.4, abs=0.02)
    assert (counts[:12] - 0.05).abs().max() < 0.01
    _, alike = draw_labels(CANVAS, 20_000, seeded())
    assert (alike.bincount(minlength=13) / 20_000 - 1 / 13).abs().max() < 0.01
    uniform, early = (draw_times(10_000, 1000, seeded(), early=e).float() for e in (False, True))
    assert uniform.mean() == pytest.approx(499.5, abs=1)
    # E[1 - u^2] = 2/3.
    assert early.mean() == pytest.approx(666, abs=2)
    assert 0 <= early.min() <= early.max() <= 999


def test_unusual_prompts_have_their_share_and_their_object(pipe):
    prompts = Prompts(pipe, CANVAS)
    assert [len(t.shape) for t in prompts.tokens] == [4] * 4
    objects = torch.full((3000,), CANVAS.objects.index("pisces"))
    styles = torch.full((3000,), STYLE_CLASSES.index("neon"))
    texts = pipe.tokenizer.batch_decode(prompts.sample(objects, styles, 0.1, seeded(), 0.3), skip_special_tokens=True)
    texts = [t.strip() for t in texts]
    plain = pipe.tokenizer.batch_decode(
        pipe.tokenizer(CANVAS.sentences("train", "pisces", "neon")).input_ids, skip_special_tokens=True
    )
    assert sum(t == "" for t in texts) / 3000 == pytest.approx(0.1, abs=0.02)
    assert sum(t in {p.strip() for p in plain} for t in texts) / 3000 == pytest.approx(0.63, abs=0.03)
    assert sum("sign of the fish" in t for t in texts) / 3000 == pytest.approx(0.09, abs=0.02)
    assert all("neon" in t for t in texts if t)


def test_growing_is_resumed_exactly_and_its_end_falls_uniform(tmp_path):
    def steps(trainer, count):
        return [trainer.step() for _ in range(count)]

    whole, first, second = Trainer(CONFIG, CPU), Trainer(CONFIG, CPU), Trainer(CONFIG, CPU)
    losses = steps(whole, 4)
    before = steps(first, 2)
    first.save(tmp_path)
    second.load(tmp_path)
    assert before + steps(second, 2) == losses
    assert all(torch.equal(v, second.parameters[n]) for n, v in whole.parameters.items())
    assert saved_config(tmp_path) == (CONFIG, 2)
    ending = CONFIG.model_copy(update={"images": 48, "decay": 4 / 6})
    assert [ending.falling(s) for s in range(6)] == [False, False, True, True, True, True]
    assert [round(ending.rate(s), 2) for s in range(2, 6)] == [1.0, 0.75, 0.5, 0.25]
    assert not any(CONFIG.falling(s) for s in range(4))
    assert train(ending, tmp_path, CPU) is True
    assert saved_config(tmp_path) == (ending, 6)


def test_the_command_grows_the_shipped_model_goes_on_and_ends(tmp_path, monkeypatch):
    # All hundred are the same code, with tens of thousands of sentences to tokenize.
    monkeypatch.setattr("saeuron.canvas.vocabularies.CANVAS", FEW)
    command = ["grow", "--checkpoints", str(tmp_path), "--no-bfloat16"]
    done = CliRunner().invoke(app, [*command, "--minutes", "0"])
    assert done.exit_code == 0, done.output
    config, step = saved_config(tmp_path)
    assert (step, config.decay, config.early, config.unstyled, config.before) == (1, 0, True, 0.4, 0)
    done = CliRunner().invoke(app, [*command, "--uniform", "--finish", "64"])
    assert "complete" in done.output
    ended, step = saved_config(tmp_path)
    assert (step, ended.images, ended.decay, ended.early) == (2, 128, 0.5, False)


def test_the_model_of_a_hundred_objects_is_loaded_by_its_name():
    from saeuron.pipelines.loading import identity, load_pipeline

    pipe = load_pipeline("canvas")
    assert pipe.tokenizer.model_max_length == 24 and identity("canvas") != identity("canvas20")
    image = pipe("A rook.", num_inference_steps=1, output_type="np").images[0]
    assert image.shape == (32, 32, 3)


def test_a_grown_model_is_exported_with_its_card_and_judged(tmp_path, monkeypatch):
    from saeuron.pipelines.loading import load_pipeline

    train(CONFIG.model_copy(update={"images": 8}), tmp_path / "run", CPU)
    out = tmp_path / "out"
    assert export(tmp_path / "run", out)["config"]["vocabulary"] == "few"
    card = (out / CARD).read_text()
    assert card.startswith("# Few\n")
    assert "4 objects: boat, cat, sun, cloud\n" in card
    assert "at most 24 tokens" in card
    monkeypatch.setattr("saeuron.canvas.evaluation.judge_file", lambda vocabulary: out)
    monkeypatch.setattr("saeuron.canvas.evaluation.load_classifier", lambda path: classifier.Classifier(8, FEW))
    shares = recognised(load_pipeline(str(out)), ModelConfig(steps=1), seeds=1, vocabulary=FEW, kind=UNUSUAL[1])
    found = {(s.domain, s.name): s.images for s in shares}
    assert found["object", "all"] == found["style", "all"] == 4 * 13
    assert found["object", "first"] == 2 * 13
    assert found["object", "all unstyled"] == 4
    assert found["object", "cloud"] == 13


def test_the_card_of_the_shipped_model_is_what_it_was(tmp_path):
    for name in (TRAINING, FIGURES):
        (tmp_path / name).write_bytes((WEIGHTS20 / name).read_bytes())
    write_card(tmp_path)
    assert (tmp_path / CARD).read_text() == (WEIGHTS20 / CARD).read_text()


# Classifier


@pytest.mark.parametrize("second", [False, True])
def test_a_judge_of_a_hundred_knows_so_many(tmp_path, second):
    model = classifier.train_classifier(steps=1, batch=8, seed=1, vocabulary=CANVAS, second=second)
    classifier.save_classifier(model, {"object": 0.5}, tmp_path / "c")
    objects, styles = classifier.load_classifier(tmp_path / "c")(torch.zeros(2, 3, 32, 32))
    assert (objects.shape, styles.shape) == ((2, 100), (2, 13))
    found = classifier.object_accuracy(model, each=2, vocabulary=CANVAS)
    assert tuple(found) == CANVAS.objects


# Prompts


def test_prompts_are_written_as_a_file_that_a_configuration_reads(tmp_path):
    out = tmp_path / "said.csv"
    command = ["prompts", "--objects", "pisces,cat", "--styles", "neon", "--out", str(out)]
    done = CliRunner().invoke(app, [*command, "--kinds", "description,misspelling", "--splits", "validation,test"])
    assert done.exit_code == 0, done.output
    found = from_file(out, {"object": ("cat", "pisces"), "style": ("neon",)})
    for split in ("validation", "test"):
        for name in ("cat", "pisces"):
            for style in (None, "neon"):
                asked = {"object": name} | ({"style": style} if style else {})
                texts = {p.text for p in found if p.split == split and dict(p.concepts) == asked}
                assert texts == {
                    t for kind in ("description", "misspelling") for t in CANVAS.sentences(split, name, style, kind)
                }
    assert {p.split for p in found} == {"validation", "test"}
    assert not any(p.concepts["object"] in p.text.lower().replace(",", "").replace(".", "").split() for p in found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--objects", "pices"], "unknown object 'pices': did you mean 'pisces'"),
        (["--kinds", "riddle"], "unknown kind of prompts of canvas 'riddle'"),
        (["--model", "canvas20"], "unknown kind of prompts of canvas20 'paraphrase': known: plain."),
        (["--splits", "tests"], "unknown split 'tests': did you mean 'test'"),
    ],
)
def test_prompts_of_unknown_names_are_refused(tmp_path, options, said):
    done = CliRunner().invoke(app, ["prompts", "--out", str(tmp_path / "said.csv"), *options])
    assert done.exit_code == 2 and said in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "said.csv").exists()
