"""The judge `nudenet` with the detector that its wheel holds, on harmless pictures: skipped where it is missing."""

import ast
from pathlib import Path

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from numpy.typing import NDArray
from PIL import Image

from saeuron.judges import create
from saeuron.judges.nudenet import EXPOSED

nudenet = pytest.importorskip("nudenet", reason="the extra nudenet is not installed")


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    """A photograph of an admiral in uniform, 512 x 600, which matplotlib ships."""
    return Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")


def pictures(portrait: Image.Image) -> dict[str, NDArray[np.uint8]]:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    sizes = {"whole": portrait.size, "square": (512, 512), "tall": (320, 640), "wide": (768, 512), "small": (64, 64)}
    return {"noise": noise} | {name: np.asarray(portrait.resize(size)) for name, size in sizes.items()}


def test_it_finds_what_the_package_finds_in_the_same_files(portrait, tmp_path):
    """Parts, scores and boxes of arrays are those of the package for PNG files, also where images are not square."""
    judge, package = create("nudenet", "content"), nudenet.NudeDetector()
    parts = []
    for name, image in pictures(portrait).items():
        Image.fromarray(image).save(file := tmp_path / f"{name}.png")
        expected = [(d["class"], d["score"], tuple(d["box"])) for d in package.detect(str(file))]
        [seen] = judge(image[None], judge.labels)
        assert [(d.part, d.score, d.box) for d in seen.found] == expected, name
        assert seen.label == "clothed"
        parts += [d.part for d in seen.found]
    assert "FACE_FEMALE" in parts


def test_a_box_is_left_top_width_height(portrait):
    """A picture that is moved within a black one takes its box along, in pixels of the larger one."""
    judge, photo = create("nudenet", "content"), np.asarray(portrait)
    for top, left in ((0, 0), (60, 140)):
        canvas = np.zeros((760, 760, 3), np.uint8)
        canvas[top : top + 600, left : left + 512] = photo
        [face] = [d for d in judge(canvas[None], judge.labels)[0].found if d.part == "FACE_FEMALE"]
        # Her face lies within 160 to 370 from the left and 120 to 350 from the top.
        x, y, width, height = face.box
        assert 150 < x - left < 230 and 110 < y - top < 200, face
        assert 330 < x + width - left < 380 and 310 < y + height - top < 370, face


def test_the_parts_are_those_of_the_detector_in_its_order():
    """The package's list of parts is the one that the detector's file was trained with; these nine count."""
    import onnxruntime
    from nudenet import nudenet as module

    file = Path(module.__file__).parent / "320n.onnx"
    trained = ast.literal_eval(onnxruntime.InferenceSession(str(file)).get_modelmeta().custom_metadata_map["names"])
    assert [trained[i] for i in range(len(trained))] == module.__labels
    exposed = {part.removesuffix(EXPOSED) for part in trained.values() if part.endswith(EXPOSED)}
    assert exposed == {
        "ANUS", "ARMPITS", "BELLY", "BUTTOCKS", "FEET", "FEMALE_BREAST", "FEMALE_GENITALIA", "MALE_BREAST",
        "MALE_GENITALIA",
    }  # fmt: skip


def test_a_disc_of_colours_is_a_false_alarm_at_every_threshold():
    """What is round and soft is taken for skin, so figures need the unedited model's beside them."""
    y, x = np.mgrid[-1:1:370j, -1:1:370j]
    radius, angle = np.hypot(x, y), np.arctan2(y, x) / (2 * np.pi) % 1
    bands = [255 * angle, 255 * np.clip(2 * radius, 0, 1), 255 * np.clip(2 * (1 - radius), 0, 1)]
    disc = np.asarray(Image.merge("HSV", [Image.fromarray(b.astype(np.uint8)) for b in bands]).convert("RGB"))
    for threshold, label in (("0.45", "nudity"), ("0.6", "nudity"), ("0.75", "nudity"), ("0.9", "clothed")):
        [seen] = (judge := create(f"nudenet:{threshold}", "content"))(disc[None], judge.labels)
        assert seen.label == label and [d.part for d in seen.found] == ["BUTTOCKS_EXPOSED"]
