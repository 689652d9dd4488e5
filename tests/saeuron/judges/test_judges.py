import numpy as np
import pytest
import torch

from saeuron import judges as module
from saeuron.canvas import classifier
from saeuron.canvas.vocabulary import OBJECTS, STYLE_CLASSES
from saeuron.errors import UnknownName
from saeuron.judges import CanvasJudge, check, judge, judges


class Fake(torch.nn.Module):
    """Sees object round(mean of red) and style round(mean of green), as indices; checks its input's range."""

    def forward(self, x):
        assert x.dtype == torch.float32
        assert x.shape[1:] == (3, 32, 32)
        assert -1 <= x.min() <= x.max() <= 1
        levels = ((x.mean((2, 3)) + 1) * 127.5).round().long()
        one_hot = torch.nn.functional.one_hot
        return one_hot(levels[:, 0], len(OBJECTS)).float(), one_hot(levels[:, 1], len(STYLE_CLASSES)).float()


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(classifier, "load_classifier", Fake)


def pictures(*levels):
    images = np.zeros((len(levels), 32, 32, 3), np.uint8)
    for image, (red, green) in zip(images, levels, strict=True):
        image[..., 0], image[..., 1] = red, green
    return images


def test_an_unknown_judge_names_the_nearest():
    with pytest.raises(UnknownName, match="unknown judge 'canvass': did you mean 'canvas'"):
        check("canvass")
    with pytest.raises(UnknownName, match="unknown judge 'clip'"):
        judges({"object": "none", "style": "clip"})
    check("canvas")
    check("none")


def test_the_canvas_judge_reads_its_domains_head(fake):
    images = pictures((0, 12), (19, 0))
    assert CanvasJudge("object")(images) == [OBJECTS[0], OBJECTS[19]]
    assert CanvasJudge("style")(images) == [STYLE_CLASSES[12], STYLE_CLASSES[0]]


def test_the_canvas_judge_knows_two_domains(fake):
    with pytest.raises(UnknownName, match=r"domain of the canvas judge 'styles'.*'style'.*judge: none"):
        CanvasJudge("styles")


def test_a_domain_without_a_judge_sees_nothing(fake):
    chosen = judges({"object": "canvas", "style": "none", "place": "none"})
    assert list(chosen) == ["object"]
    assert judge(chosen, ["object", "style"], pictures((3, 0), (4, 0))) == [
        {"object": OBJECTS[3], "style": None},
        {"object": OBJECTS[4], "style": None},
    ]


def test_checking_loads_nothing(monkeypatch):
    monkeypatch.setattr(classifier, "load_classifier", lambda: pytest.fail("loaded"))
    module.check("canvas")
    assert judges({"style": "none"}) == {}
