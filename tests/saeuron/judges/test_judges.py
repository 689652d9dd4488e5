import numpy as np
import pytest
import torch

from saeuron import judges
from saeuron.canvas import classifier
from saeuron.canvas.renderer import render
from saeuron.canvas.vocabularies import CANVAS, CANVAS20
from saeuron.canvas.vocabulary import OBJECTS, STYLE_CLASSES
from saeuron.errors import ConfigError, UnknownName
from saeuron.judges import JUDGES, Judgement, check, choices, create


class Fake(torch.nn.Module):
    """Logit 1 for object round(mean of red) and style round(mean of green), as indices; checks its input's range."""

    def forward(self, x):
        assert x.dtype == torch.float32
        assert x.shape[1:] == (3, 32, 32)
        assert -1 <= x.min() <= x.max() <= 1
        levels = ((x.mean((2, 3)) + 1) * 127.5).round().long()
        one_hot = torch.nn.functional.one_hot
        return one_hot(levels[:, 0], len(OBJECTS)).float(), one_hot(levels[:, 1], len(STYLE_CLASSES)).float()


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(classifier, "load_classifier", lambda path: Fake())


def pictures(*levels, side=32):
    images = np.zeros((len(levels), side, side, 3), np.uint8)
    for image, (red, green) in zip(images, levels, strict=True):
        image[..., 0], image[..., 1] = red, green
    return images


def sure(labels):
    """The softmax of one logit of 1 among zeros."""
    return pytest.approx(np.e / (np.e + labels - 1))


def test_an_unknown_judge_names_the_nearest():
    with pytest.raises(UnknownName, match="unknown judge 'canvass': did you mean 'canvas'"):
        create("canvass", "style")
    with pytest.raises(
        UnknownName, match="unknown judge 'oracle': known: canvas, canvas20, canvas_second, classifier, clip, none"
    ):
        create("oracle:delphi", "style")


@pytest.mark.parametrize("name", ["canvas", "canvas20", "canvas_second", "none"])
def test_what_a_judge_does_not_take_is_refused(name):
    with pytest.raises(ConfigError, match=f"the judge '{name}' takes no argument, got 'x'; expected judge: {name}"):
        create(f"{name}:x", "style")
    with pytest.raises(ConfigError, match="uses no sentences; leave judge_templates out"):
        create(name, "style", ("a {label}",))


def test_the_canvas_judge_reads_its_domains_head(fake):
    images = pictures((0, 12), (19, 0))
    judge = create("canvas20", "object")
    assert judge(images, OBJECTS) == [Judgement(OBJECTS[0], sure(20)), Judgement(OBJECTS[19], sure(20))]
    judge = create("canvas20", "style")
    assert judge(images, STYLE_CLASSES) == [
        Judgement(STYLE_CLASSES[12], sure(13)),
        Judgement(STYLE_CLASSES[0], sure(13)),
    ]


def test_the_canvas_judge_chooses_among_the_labels_it_is_given(fake):
    judge = create("canvas20", "object")
    labels = (OBJECTS[7], OBJECTS[3], OBJECTS[5])
    found = judge(pictures((3, 0), (7, 0), (4, 0)), labels)
    assert found[:2] == [Judgement(OBJECTS[3], sure(3)), Judgement(OBJECTS[7], sure(3))]
    # None of them stands out: the score says so.
    assert found[2].label in labels and found[2].score == pytest.approx(1 / 3)
    with pytest.raises(UnknownName, match="label of the judge 'canvas20' 'boats': did you mean 'boat'"):
        judge(pictures((3, 0)), ("boats",))


def test_the_canvas_judge_refuses_images_of_another_size(fake):
    with pytest.raises(ConfigError, match=r"32 x 32 pixels, these have 64 x 64; use judge: clip:MODEL or none"):
        create("canvas20", "object")(pictures((3, 0), side=64), OBJECTS)


def test_the_canvas_judge_knows_two_domains():
    with pytest.raises(UnknownName, match=r"domain of the judge 'canvas20' 'styles'.*'style'.*judge: none"):
        create("canvas20", "styles")


def test_each_model_has_a_judge_with_its_own_objects_and_weights():
    large, small = create("canvas", "object"), create("canvas20", "object")
    assert (large.labels, small.labels) == (CANVAS.objects, CANVAS20.objects)
    assert create("canvas", "style").labels == create("canvas20", "style").labels == STYLE_CLASSES
    assert large.identity.startswith("canvas-") and large.identity != small.identity


def test_the_second_judge_is_another_network():
    first, second = (create(name, "object") for name in ("canvas", "canvas_second"))
    assert second.labels == first.labels and second.identity.startswith("canvas_second-")
    networks = [classifier.load_classifier(classifier.judge_file(CANVAS, second)) for second in (False, True)]
    assert [type(network) for network in networks] == [classifier.Classifier, classifier.Residual]


def test_the_judges_recognise_what_is_drawn():
    for name, vocabulary in (("canvas", CANVAS), ("canvas_second", CANVAS), ("canvas20", CANVAS20)):
        asked = ("cat", "key", "moon")
        objects = torch.tensor([vocabulary.objects.index(name) for name in asked])
        drawn = render(objects, torch.full((3,), 12), torch.Generator().manual_seed(0), vocabulary.objects)
        images = ((drawn + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        judge = create(name, "object")
        assert [found.label for found in judge(images, judge.labels)] == list(asked)


def test_the_canvas_judge_is_its_weights(monkeypatch, tmp_path):
    known = create("canvas20", "object").identity
    assert known == create("canvas20", "style").identity and known.startswith("canvas20-")
    other = tmp_path / "other"
    other.write_bytes(classifier.judge_file(CANVAS20).read_bytes() + b" ")
    monkeypatch.setattr(classifier, "judge_file", lambda vocabulary, second: other)
    assert create("canvas20", "object").identity != known


def test_without_a_judge_nothing_is_said():
    judge = create("none", "place")
    assert judge(pictures((3, 0), (4, 0)), ("here", "there")) == [Judgement(None, None)] * 2
    assert judge.identity == "none" and judge.labels is None


def test_a_concept_without_a_label_is_refused_and_nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(classifier, "load_classifier", lambda path: pytest.fail("loaded"))
    check("canvas20", "object", ("cat", "boat"))
    with pytest.raises(UnknownName, match=r"label of the judge 'canvas20' 'cats': did you mean 'cat'.*clip:MODEL"):
        check("canvas20", "object", ("boat", "cats"))
    check("none", "object", ("cats",))


def test_a_judge_of_images_of_another_size_is_refused_before_there_are_any():
    check("canvas20", "style", ("neon",), (), (32, 32))
    check("none", "style", ("neon",), (), (8, 8))
    with pytest.raises(ConfigError, match=r"reads images of 32 x 32 pixels, and this model makes 8 x 16; use judge"):
        check("canvas20", "style", ("neon",), (), (8, 16))


def test_labels_are_all_that_a_judge_knows_or_else_the_concepts_sorted():
    assert choices(create("canvas20", "style"), ("neon",)) == STYLE_CLASSES
    assert choices(create("none", "style"), ("neon", "dots", "neon")) == ("dots", "neon")


def test_a_judge_from_outside_is_registered_by_name(monkeypatch):
    monkeypatch.setattr(judges, "JUDGES", dict(JUDGES))

    class Loud:
        labels = ("loud", "quiet")

        def __init__(self, argument, domain, templates, device):
            self.identity = f"loud-{argument}-{domain}-{'+'.join(templates)}-{device}"

        def __call__(self, images, labels):
            return [Judgement(labels[0], 1.0) for _ in images]

    judges.register("loud", Loud)
    judge = create("loud:very:much", "noise", ("{label}",), "cpu")
    assert judge.identity == "loud-very:much-noise-{label}-cpu"
    assert judge(pictures((1, 1)), judge.labels) == [Judgement("loud", 1.0)]
    with pytest.raises(UnknownName, match="label of the judge 'loud' 'louder'"):
        check("loud", "noise", ("louder",))
    with pytest.raises(ConfigError, match="a judge named 'loud' is registered already"):
        judges.register("loud", Loud)
    with pytest.raises(ConfigError, match="cannot be named 'a:b'"):
        judges.register("a:b", Loud)
