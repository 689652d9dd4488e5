"""Pages: well-formed, whole in themselves, and saying what they were given."""

import base64
import importlib.resources
import io
import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from PIL import Image

from saeuron.pages import plots
from saeuron.pages.contents import (
    RANGES,
    ConceptScore,
    Example,
    Latent,
    Named,
    Naming,
    NamingMeans,
    SAEReport,
    StepFigures,
)
from saeuron.pages.document import Gallery, heat_colours, number, overlay, percent, render
from saeuron.pages.sae import page
from saeuron.pages.sheet import sheet

EMPTY = {"meta", "br", "img", "hr", "link", "input"}


class Balanced(HTMLParser):
    """Reads a page and notes what is opened, closed and linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.stack, self.seen, self.links, self.ids, self.text = [], [], [], [], []
        self.attributes, self.values = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        for name, value in attrs:
            self.attributes.append(name)
            self.values.append(value or "")
            if name in ("href", "src"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
        if tag not in EMPTY:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(text: str) -> Balanced:
    found = Balanced()
    found.feed(text)
    found.close()
    assert not found.stack
    return found


def picture(seed: int, size=(32, 32)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def latent(index: int, *, examples=3, scored=True, **fields) -> Latent:
    heat = np.zeros((4, 4), np.uint8)
    heat[1, 2] = 255
    shown = [Example(f"k{i}", f'A "cat" & <{i}>.', picture(i), heat, 3.0 - i, 999, 1, 2) for i in range(examples)]
    values = {"neon": [0.1, 0.3, 0.2], "dots & lines": [-0.1, 0.0, 0.1], "grain": [-0.3, -0.2, -0.1]}
    scores = [ConceptScore("style", name, [999, 499, 0], found) for name, found in values.items()]
    known = {
        "density": 0.02, "image_density": 0.4, "mean": 0.1, "maximum": 3.0, "max_cosine": 0.5, "nearest": 7,
        "stability": None, "timesteps": [999, 499, 0], "profile": [0.0, 0.2, 0.1],
    }  # fmt: skip
    return Latent(latent=index, **{**known, **fields}, scores=scores if scored else [], examples=shown)


def split(made: Latent) -> Latent:
    """With maps over thirds of the steps."""
    third = np.full((4, 4), 90, np.uint8)
    return replace(made, examples=[replace(e, thirds=[third] * 3) for e in made.examples])


def report(**fields) -> SAEReport:
    error = {"fvu": 0.2, "l0": 12.0, "linear": 0.4, "norm": 0.5, "fvu_linear": 0.08}
    figures = {
        "images": 64, "prompts": 40, "half": "conditional", "read": "output", "grid": [4, 4],
        "timesteps": [999, 499, 0],
        "halves": {
            "conditional": {"rows": 3072, "fvu": 0.1234, "relative": 0.02, "l0": 12.5},
            "unconditional": {"rows": 3072, "fvu": 0.5, "relative": 0.03, "l0": 3.0},
        },
        "dead": 2, "always_on": 1, "max_cosine": 0.3,
        "dark_matter": {
            "fit_rows": 100, "test_rows": 90, "encoder": error, "pursuit": {**error, "fvu": 0.15, "fvu_linear": 0.06},
        },
        "loss": {"images": 8, "timesteps": 3, "recovered": 0.75, "halves": {"conditional": 0.8, "unconditional": 0.7}},
    }  # fmt: skip
    steps = [
        StepFigures(t, half, 100, 0.1 + t / 5000, 0.05, 10.0, *losses)
        for t, losses in ((999, (1e-9, 1e-9, 1.001e-9)), (499, (1.0, 1.25, 2.0)), (0, (None, None, None)))
        for half in ("conditional", "unconditional")
    ]
    known = {
        "sae_id": "sae_v2_0123", "hookpoint": "unet.mid",
        "config": {"variant": "topk", "lr": 0.001, "topk": {"multi": 0.5}},
        "figures": figures, "steps": steps, "density": np.array([0, 0, 0.95, 0.1, 0.01]),
        "max_cosine": np.array([0.1, 0.2, 0.3, -0.1, 0.5]), "stability": None, "against": None, "chance": None,
        "dead": [0, 1], "always_on": [2], "latents": [latent(3), latent(4)], "protocol": "p",
    }  # fmt: skip
    return SAEReport(**{**known, **fields})


class TestPage:
    def test_is_well_formed_and_whole_in_itself(self) -> None:
        text = page(report())
        found = parsed(text)
        assert "script" not in found.seen and "link" not in found.seen and "iframe" not in found.seen
        assert all(link.startswith(("#", "data:image/")) for link in found.links)
        assert not re.search(r"url\((?!data:)", text) and "@import" not in text
        outside = {u for u in re.findall(r"https?://[^\s\"'<)]+", text) if u != "http://www.w3.org/2000/svg"}
        assert not outside
        anchors = {link[1:] for link in found.links if link.startswith("#")}
        assert anchors <= set(found.ids) and len(set(found.ids)) == len(found.ids)
        assert {"latent-3", "latent-4"} <= anchors

    def test_says_what_was_measured(self) -> None:
        words = " ".join("".join(parsed(page(report())).text).split())
        for said in (
            "SAE at unet.mid", "sae_v2_0123", "64 generated images of 40 test prompts", "0.123", "2 of 5", "75.0 %",
            "recovers 25.0 % of the encoder's error", "fitted on 100 rows, measured on 90 rows", "multi 0.5",
            "Dead latents: 2", "0, 1", "Always-on latents: 1",
        ):  # fmt: skip
            assert said in words, said

    def test_a_share_of_next_to_nothing_is_not_shown(self) -> None:
        # At 999 zero costs a thousandth of the loss; at 499 (2 - 1.25) / (2 - 1).
        rows = re.findall(r"<tr>(.*?)</tr>", page(report()).split("Every timestep and half")[1].split("</table>")[0])
        cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows[1:]]
        assert [c[-1] for c in cells if c[0] == "999"] == ["-", "-"]
        assert [c[-1] for c in cells if c[0] == "499"] == ["75.0 %", "75.0 %"]
        assert not [c for c in cells if c[0] == "0"]
        assert [c[-1] for c in cells if c[0] == "all"] == ["80.0 %", "70.0 %"]

    def test_pursuit_that_finds_nothing_better(self) -> None:
        figures = report().figures
        dark = figures["dark_matter"]
        worse = {**dark, "pursuit": {**dark["pursuit"], "fvu": 0.21}}
        text = page(report(figures={**figures, "dark_matter": worse}))
        assert "finds no better codes" in text and "recovers -" not in text

    def test_words_are_escaped(self) -> None:
        text = page(report())
        assert "<0>" not in text and "&lt;0&gt;" in text and "dots &amp; lines" in text

    def test_hostile_names_stay_text(self) -> None:
        def named(name: str) -> Balanced:
            scores = [ConceptScore(name, name, [999, 499, 0], [0.3, 0.2, 0.1])]
            heat = np.zeros((4, 4), np.uint8)
            shown = replace(latent(3), scores=scores, examples=[Example("k", name, picture(0), heat, 1.0, 999, 0, 0)])
            means = NamingMeans(name, "trained", 0.5, 0.5, 0.5, 0.5, 0.5, 1, 8)
            best = Named(name, name, 3, 0.5, 0.5, 0.5, 0.5, None, f"#{name}")
            names = {"hookpoint": name, "sae_id": name, "against": name, "config": {name: {"a": name}}}
            names["naming"] = Naming("proof", [means], [best], 0.9)
            return parsed(page(report(**names, latents=[shown], stability=np.ones(5), chance=0.1)))

        hostile = """<script>alert("1")</script>'" onload='x' {{ 7 * 7 }}</title></style>"""
        same_length = "n" * len(hostile)
        found, harmless = named(hostile), named(same_length)
        assert found.seen == harmless.seen and found.attributes == harmless.attributes
        # Title, heading, id, what it names, configuration, stability, tables, plots, caption show it as given.
        assert "".join(found.text).count(hostile) == "".join(harmless.text).count(same_length) == 17
        assert sum(hostile in value for value in found.values) == 3

    def test_pictures_that_contradict_the_score_are_marked(self) -> None:
        def asking(*names: str) -> str:
            shown = [replace(e, concepts={"style": n}) for e, n in zip(latent(3).examples, names, strict=True)]
            return page(report(latents=[replace(latent(3), examples=shown)]))

        borne_out, against = asking("neon", "neon", "dots & lines"), asking("neon", "dots & lines", "grain")
        assert '<span class="soft">asked for in 2 of its first 3 pictures' in borne_out
        assert '<span class="bad">asked for in 1 of its first 3 pictures' in against
        assert "asked for in" not in page(report())

    def test_a_picture_without_a_map(self) -> None:
        shown = [replace(e, heat=None, rank=40) if i else e for i, e in enumerate(latent(3).examples)]
        text = page(report(latents=[replace(latent(3), examples=shown)]))
        parsed(text)
        assert text.count('class="over"') == 1 and text.count("40th: ") == 2

    def test_maps_over_thirds(self) -> None:
        maps = [np.zeros((4, 4), np.uint8) for _ in range(3)]
        maps[0][2, 3], maps[1][0, 1] = 128, 51
        first, *rest = latent(3).examples
        text = page(report(latents=[replace(latent(3), examples=[replace(first, thirds=maps), *rest]), latent(4)]))
        parsed(text)
        assert re.findall(r'alt="(\w+ third: [^"]*)"', text) == [
            "noisy third: on average at most 50 % of its largest value, in row 2, column 3",
            "middle third: on average at most 20 % of its largest value, in row 0, column 1",
            "clean third: next to nothing",
        ]
        small = text.split('<div class="thirds">')[1].split("</figure>")[0]
        assert re.findall(r"</div>(\w+ third)</div>", small) == list(RANGES)
        shown = [Image.open(io.BytesIO(base64.b64decode(d))) for d in re.findall(r"base64,([^\"]*)\"", small)]
        assert [np.array_equal(np.asarray(i), heat_colours(m)) for i, m in zip(shown, maps, strict=True)] == [True] * 3
        # Only where there are some, in the strip and in words.
        assert text.count('<div class="strip wide">') == text.count('<div class="strip">') == 1
        assert "its mean over the steps of each third" in text
        assert "its mean over the steps of each third" not in page(report())

    @pytest.mark.parametrize("steps", [1, 2])
    def test_thirds_without_steps_are_not_shown(self, steps: int) -> None:
        heat = np.full((4, 4), 9, np.uint8)
        for thirds in ([heat] * steps, [heat] * steps + [None] * (3 - steps)):
            shown = [replace(e, thirds=thirds) for e in latent(3).examples]
            text = page(report(latents=[replace(latent(3), examples=shown)]))
            assert [text.count(f'alt="{name}: ') for name in RANGES] == [3] * steps + [0] * (3 - steps)

    def test_a_picture_is_there_once(self) -> None:
        text = page(report())
        assert len(re.findall(r"background-image: url\(data:image/png", text)) == 3
        # Two latents, three examples, each plain and under its map.
        assert len(re.findall(r'class="im hard i\d"', text)) == 12
        first = re.search(r"\.i0 \{ background-image: url\(data:image/png;base64,([^)]*)\)", text)
        assert first is not None
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first[1]))))
        assert np.array_equal(shown, picture(0))

    def test_compared_with_another_sae(self) -> None:
        stability = np.array([0.2, 0.95, 1.0, 0.5, 0.35])
        shown = report(stability=stability, against="sae_v2_other", chance=0.31, latents=[latent(3, stability=0.5)])
        text = " ".join(page(shown).split())
        assert "sae_v2_other" in text and "0.600" in text and "40.0 %" in text and "stability 0.50" in text
        assert "not measured" not in text
        # Over those that fire: (1 + 0.5 + 0.35) / 3.
        assert "0.617 over the latents that fire; 0.31 would be chance" in text

    def test_what_was_not_scored_and_what_never_fires(self) -> None:
        text = page(report(protocol=None, latents=[latent(0, examples=0, scored=False, density=0.0, maximum=0.0)]))
        parsed(text)
        assert "was not scored yet" in text and "never fires" in text and "Score of each concept" not in text

    def test_one_half_and_too_few_rows(self) -> None:
        base = report()
        none = {"fvu": 0.2, "l0": 12.0, "linear": None, "norm": None, "fvu_linear": None}
        figures = {
            **base.figures,
            "halves": {"conditional": base.figures["halves"]["conditional"]},
            "dark_matter": {"fit_rows": 5, "test_rows": 5, "encoder": none, "pursuit": none},
        }
        text = page(report(figures=figures, steps=[s for s in base.steps if s.half == "conditional"]))
        parsed(text)
        assert "Too few rows for a fit" in text and "FVU, unconditional" not in text

    def test_light_and_readable_on_a_phone(self) -> None:
        text = page(report())
        assert "color-scheme: light" in text and 'name="viewport"' in text and "overflow-x: auto" in text
        assert text.count("<table>") == len(re.findall(r'<div class="scroll"[^>]*><table>', text))
        # Or a long name would make the page wider than the phone.
        assert re.search(r"^body \{[^}]*overflow-wrap: anywhere;", text, re.M)


class TestPlots:
    @given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
    def test_ticks_are_round_and_span(self, low: float, width: float) -> None:
        found = plots.ticks(low, low + width)
        tolerance = 1e-6 * (abs(low) + width)
        assert found[0] <= low + tolerance and found[-1] >= low + width - tolerance
        assert 2 <= len(found) <= 8
        steps = np.diff(found)
        assert np.allclose(steps, steps[0], rtol=1e-3)

    def test_ticks_of_nothing(self) -> None:
        assert plots.ticks(0, 0)[0] < 0 < plots.ticks(0, 0)[-1]

    def test_curves_stand_where_their_values_are(self) -> None:
        text = plots.lines([900, 500, 100], [("a", [0.0, 1.0, None]), ("b", [1.0, 0.5, 0.0])], "T & t")
        root = ElementTree.fromstring(text)
        space = "{http://www.w3.org/2000/svg}"
        one, two = [
            [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
            for line in root.iter(f"{space}polyline")
        ]
        assert len(one) == 2 and len(two) == 3
        assert one[0][0] == two[0][0] < two[1][0] < two[2][0]
        # Down is less: 0 lies lowest, 1 highest, 0.5 half way.
        assert one[0][1] == two[2][1] > two[1][1] > one[1][1] == two[0][1]
        assert two[1][1] == pytest.approx((two[0][1] + two[2][1]) / 2, abs=0.1)
        assert root.attrib["aria-label"] == "T & t"

    def test_curves_that_are_far_apart_share_an_axis_of_powers(self) -> None:
        near = plots.lines([9, 5], [("a", [1e-9, 1.0]), ("b", [1e-9, 2.0])], "T")
        far = plots.lines([9, 5], [("a", [0.01, 0.1]), ("b", [1000.0, 100.0])], "T")
        assert ">1.5<" in near and ">1e3<" not in near
        assert ">0.01<" in far and ">1e3<" in far
        space = "{http://www.w3.org/2000/svg}"
        one, two = [
            [float(p.split(",")[1]) for p in line.attrib["points"].split()]
            for line in ElementTree.fromstring(far).iter(f"{space}polyline")
        ]
        # Equal factors are equal heights: 0.01 to 0.1, and 100 to 1000.
        assert one[0] - one[1] == pytest.approx(two[1] - two[0], abs=0.2) and one[0] - one[1] > 20
        assert plots.lines([9, 5], [("a", [0.0, 0.1]), ("b", [1e3, 1e3])], "T").count(">1e-") == 0

    def test_a_histogram_counts(self) -> None:
        values = [0.0, 0.1, 0.1, 0.9, 1.0]
        root = ElementTree.fromstring(plots.histogram(values, "H", "x", bins=10, span=(0.0, 1.0)))
        counts = [int(t.text.rpartition(": ")[2]) for t in root.iter("{http://www.w3.org/2000/svg}title")]
        assert counts == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]

    @pytest.mark.parametrize("values", [[], [0.5], [2.0, 2.0]])
    def test_a_histogram_of_hardly_anything(self, values: list[float]) -> None:
        assert ElementTree.fromstring(plots.histogram(values, "H", "x")).tag.endswith("svg")

    def test_bars_go_both_ways_from_zero(self) -> None:
        root = ElementTree.fromstring(plots.bars([("up", 0.3), ("down", -0.1)], "B"))
        space = "{http://www.w3.org/2000/svg}"
        up, down = [r.attrib for r in root.iter(f"{space}rect")]
        assert float(up["width"]) == pytest.approx(3 * float(down["width"]), rel=0.01)
        assert float(up["x"]) == pytest.approx(float(down["x"]) + float(down["width"]), abs=0.11)
        assert up["fill"] != down["fill"]

    def test_numbers_are_short(self) -> None:
        found = [plots.label(v) for v in (0.1, 12.0, 1200.0, 20000.0, 1e-6, 0.25, -0.5)]
        assert found == ["0.1", "12", "1.2e3", "2e4", "1e-6", "0.25", "-0.5"]


class TestDocument:
    def test_a_name_that_a_template_lacks_is_an_error(self) -> None:
        with pytest.raises(UndefinedError, match="'report' is undefined"):
            render("sae.html", gallery=Gallery())

    def test_templates_are_installed_with_the_package(self) -> None:
        templates = importlib.resources.files("saeuron.pages") / "templates"
        names = {file.name for file in templates.iterdir() if file.is_file()}
        explorer = {file.name for file in (templates / "explore").iterdir()}
        assert {"base.html", "concepts.html", "explore.js", "explore.css"} < explorer
        assert names == {
            "base.html",
            "parts.html",
            "sae.html",
            "report.html",
            "removal_parts.html",
            "style.css",
            "cards.md",
            "sae_card.md",
            "removal_card.md",
        }
        project = Path(__file__).parents[3]
        globs = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["saeuron"]
        packaged = {path.name for pattern in globs for path in (project / "saeuron").glob(pattern)}
        assert names | explorer <= packaged

    def test_what_is_not_there_is_a_dash(self) -> None:
        assert number(None) == percent(None) == "-" and number(0.12345) == "0.123" and percent(0.5) == "50.0 %"

    def test_large_pictures_are_made_small(self) -> None:
        gallery = Gallery()
        assert gallery.add("k", picture(1, (320, 640))) == gallery.add("k", picture(1, (320, 640))) == "im i0"
        assert gallery.add("small", picture(1)) == "im hard i1"
        data = re.search(r"data:image/jpeg;base64,([^)]*)\)", gallery.style)
        assert data is not None
        assert Image.open(io.BytesIO(base64.b64decode(data[1]))).size == (320, 160)
        assert "--ratio: 640 / 320" in gallery.style

    def test_heat_is_clear_at_zero_and_red_at_the_top(self) -> None:
        colours = heat_colours(np.array([[0, 128, 255]], np.uint8))
        assert colours.shape == (1, 3, 4) and colours[0, 0, 3] == 0
        assert colours[0, 1, 3] < colours[0, 2, 3] == 185
        assert colours[0, 2, 0] == 255 and colours[0, 2, 1] == 0 and colours[0, 1, 1] > 80
        data = re.search(r"base64,(.*)", overlay(np.array([[0, 255]], np.uint8)))
        assert data is not None
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data[1])))), colours[:, [0, 2]])

    def test_a_map_of_many_cells_is_scaled_down_to_means(self) -> None:
        heat = np.kron(np.arange(64, dtype=np.uint8).reshape(4, 16), np.full((4, 4), 3, np.uint8))
        assert overlay(heat, 16) == overlay(heat[::4, ::4]) != overlay(heat) == overlay(heat, 64)
        assert overlay(heat[:1, :32], 16) == overlay(heat[:1, :32:2], 16)


class TestSheet:
    @pytest.mark.parametrize(
        "made", [latent(3), latent(3, examples=0, scored=False), latent(3, examples=9), split(latent(3, examples=9))]
    )
    def test_is_a_picture(self, made: Latent, tmp_path: Path) -> None:
        path = sheet(made, "latent 3", tmp_path / "pictures" / "latent.png")
        found = np.asarray(Image.open(path).convert("RGB"))
        assert found.shape[0] > 400 and found.shape[1] > 600
        # Not an empty page; with examples, the red of the maps is on it.
        assert found.std() > 10
        red = (found[..., 0] > 200) & (found[..., 1] < 60) & (found[..., 2] < 60)
        assert (red.sum() > 50) == bool(made.examples)
        assert [p.name for p in path.parent.iterdir()] == ["latent.png"]

    def test_thirds_stand_in_a_row_of_their_own(self, tmp_path: Path) -> None:
        def pixels(made: Latent) -> np.ndarray:
            return np.asarray(Image.open(sheet(made, "latent 3", tmp_path / "latent.png")).convert("RGB")).astype(int)

        without, with_thirds = pixels(latent(3)), pixels(split(latent(3)))
        assert with_thirds.shape[0] > without.shape[0] + 60 and with_thirds.shape[1] == without.shape[1]
        # Their colour: a third of the scale, over grey.
        yellow = [((p[..., 0] - p[..., 2] > 60) & (p[..., 1] - p[..., 2] > 20)).sum() for p in (without, with_thirds)]
        assert yellow[1] > yellow[0] + 9 * 500


def test_scores_of_a_concept() -> None:
    score = ConceptScore("style", "neon", [9, 8, 7, 6], [0.1, 0.4, 0.2, 0.1])
    assert score.mean == pytest.approx(0.2) and score.peak == (0.4, 8)
    assert score.by_range == pytest.approx([0.25, 0.2, 0.1])
    assert ConceptScore("style", "neon", [9], [0.1]).by_range == [0.1, None, None]
