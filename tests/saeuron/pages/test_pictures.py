import numpy as np
import pytest
from PIL import Image

from saeuron.pages.pictures import Shot, contact_sheet, enlarge, score_plot, side_by_side


def picture(value, size=32):
    return np.full((size, size, 3), value, np.uint8)


def pixels_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_a_contact_sheet_shows_unedited_above_removed(tmp_path):
    shots = [Shot(f"c{i}", picture(10 * i), picture(200)) for i in range(5)]
    path = contact_sheet([("", shots), ("none", [])], "t", tmp_path / "deep/s.png", side=96, across=3)
    pixels = pixels_of(path)
    # Two rows of unedited above removed, 96 pixels each; nothing was judged, so nothing stands below them.
    row = 16 + 200 + 4
    assert pixels.shape == (48 + 2 * row, 66 + 3 * 100 + 4, 3)
    x, y = 66 + 100 + 48, 48 + 16 + 48
    assert (pixels[y, x] == 10).all()
    assert (pixels[y + 100, x] == 200).all()
    assert (pixels[y + row, x] == 40).all()
    assert [p.name for p in path.parent.iterdir()] == ["s.png"]


def test_what_the_judge_sees_stands_below_each_picture_and_is_red_where_it_is_wrong(tmp_path):
    def red(area):
        return ((area[..., 0] > 120) & (area[..., 1] < 60)).any()

    shot = Shot("neon cat", picture(90), picture(90), [("neon", True), ("cat", True)], [("neon", True), ("cup", False)])
    pixels = pixels_of(contact_sheet([("asked for cat", [shot]), ("others", [shot])], "t", tmp_path / "s.png", side=96))
    row = 16 + 2 * (96 + 16 + 4) + 4
    assert pixels.shape == (48 + 2 * (row + 16), 66 + 100 + 4, 3)
    for top in (48 + 16, 48 + 16 + row + 16):
        first = top + 16 + 96
        second = first + 16 + 4 + 96
        assert (pixels[first - 40, 100] == 90).all() and (pixels[second - 40, 100] == 90).all()
        below = [pixels[y : y + 16, 66:166] for y in (first, second)]
        assert [bool(red(area)) for area in below] == [False, True]
        assert all((area < 100).any() for area in below)


def test_where_the_words_do_not_fit_the_wrong_one_is_shown(tmp_path):
    def below(seen):
        shot = Shot("", picture(90), picture(90), seen, seen)
        return pixels_of(contact_sheet([("", [shot])], "t", tmp_path / "s.png", side=96))[48 + 16 + 96 :, 66:166]

    long = "watercolour" * 2
    assert (below([(long, True), ("mushroom", False)]) == below([("mushroom", False)])).all()


def test_a_contact_sheet_needs_an_image(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([("empty", [])], "t", tmp_path / "s.png")


def test_side_by_side(tmp_path):
    with Image.open(side_by_side(picture(10), picture(200), tmp_path / "s.png", side=64)) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (64 + 24, 64 * 2 + 12, 3)
    assert (pixels[50, 10] == 10).all()
    assert (pixels[50, 100] == 200).all()


def test_enlarging_keeps_hard_pixels_and_the_shape():
    checker = np.zeros((2, 4, 3), np.uint8)
    checker[0, 0] = 255
    image = enlarge(checker, 8)
    assert image.size == (16, 8)
    assert set(np.asarray(image).flatten().tolist()) == {0, 255}


def test_plots_of_the_same_scores_are_the_same_bytes(tmp_path):
    steps = [999, 499]
    panels = [("a", [-1], [("12", [0.1])]), ("b", steps, [("7", [0.1, 0.2]), ("8", [0.3, 0.2])])]
    one, two = (score_plot(panels, "t", tmp_path / f"{i}.png") for i in range(2))
    changed = [panels[0], ("b", steps, [("7", [0.1, 0.2]), ("8", [0.3, 0.9])])]
    other = score_plot(changed, "t", tmp_path / "o.png")
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()


def test_a_plot_has_a_panel_for_each_hookpoint(tmp_path):
    widths = []
    for count in (1, 3):
        path = score_plot([("a", [999, 499], [("12", [0.1, 0.2])])] * count, "t", tmp_path / f"{count}.png")
        with Image.open(path) as image:
            widths.append(image.width)
    assert widths[1] > 1.5 * widths[0]
