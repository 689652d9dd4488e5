"""Real pictures: renders and folders, what is compared, and mistakes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saeuron.blindspots.real import Folder, Rendered, check, fitted
from saeuron.blindspots.samples import FromFolder, FromRenderer, asked, source
from saeuron.canvas.vocabularies import CANVAS20
from saeuron.errors import BadPrompts, ConfigError, UnknownName
from saeuron.prompts import Prompt

PROMPTS = [
    Prompt(f"A {o} in {s}.", "test", {"object": o, "style": s}) for o in ("cat", "moon") for s in ("neon", "dots")
]


def folder(tmp_path: Path, count: int = 12, captions: str | None = None) -> Path:
    rng = np.random.default_rng(1)
    for i in range(count):
        Image.fromarray(rng.integers(256, size=(20, 30, 3), dtype=np.uint8)).save(tmp_path / f"p{i:02d}.png")
    (tmp_path / "notes.md").write_text("no picture")
    if captions is not None:
        (tmp_path / "captions.csv").write_text(captions)
    return tmp_path


TABLE = "file,text,object\n" + "".join(
    f"p{i:02d}.png,A {'cat' if i % 2 else 'dog'} {i}.,{'cat' if i % 2 else ''}\n" for i in range(10)
)


def test_renders_are_what_prompts_ask_for_and_other_seeds_are_other_pictures() -> None:
    drawn = Rendered(CANVAS20)
    first, again, other = (drawn.draw(PROMPTS, seed) for seed in (1, 1, 2))
    assert [p.labels for p in first] == [p.concepts for p in PROMPTS]
    assert [p.name for p in first] == ["0000 cat neon", "0001 cat dots", "0002 moon neon", "0003 moon dots"]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, other, strict=True))
    assert first[0].pixels.dtype == np.uint8 and first[0].pixels.shape == (32, 32, 3)
    assert drawn.labels(Prompt("A cat.", "test", {"object": "cat"})) == {"object": "cat", "style": "unstyled"}


def test_what_the_renderer_cannot_draw() -> None:
    drawn = Rendered(CANVAS20)
    with pytest.raises(BadPrompts, match=r"cannot draw object 'zebra' of the prompt 'A zebra\.'"):
        drawn.labels(Prompt("A zebra.", "test", {"object": "zebra"}))
    with pytest.raises(BadPrompts, match="cannot draw mood 'sad'"):
        drawn.labels(Prompt("A sad cat.", "test", {"object": "cat", "mood": "sad"}))
    with pytest.raises(BadPrompts, match="asks for no object"):
        drawn.labels(Prompt("Neon.", "test", {"style": "neon"}))
    with pytest.raises(ConfigError, match="renders have 32 x 32 pixels, the model draws 64 x 64"):
        FromRenderer(drawn).check_size((64, 64))


def test_one_picture_of_each_combination_then_a_second() -> None:
    more = [*PROMPTS, Prompt("The cat in neon.", "test", {"object": "cat", "style": "neon"}), Prompt("A.", "train", {})]
    found = asked(more, 9, 3)
    assert len({tuple(r.prompt.concepts.items()) for r in found[:4]}) == 4
    neon = [r for r in found if r.prompt.concepts == {"object": "cat", "style": "neon"}]
    assert {r.prompt.text for r in neon[:2]} == {"A cat in neon.", "The cat in neon."}
    assert len({r.key for r in found}) == 9
    with pytest.raises(BadPrompts, match="no test prompts"):
        asked([Prompt("A.", "train")], 2, 0)


def test_rendered_samples_have_new_pictures_for_names_and_for_the_control() -> None:
    found = FromRenderer(Rendered(CANVAS20))
    requests = found.requests(PROMPTS, 8, 1)
    drawn = found.sample(requests, 12, (32, 32), 1)
    assert drawn.paired and drawn.fresh and len(drawn.real) == 8 and len(drawn.chosen) == len(drawn.judged) == 12
    assert [p.labels for p in drawn.real] == [{**r.prompt.concepts} for r in requests]
    assert [p.labels for p in drawn.control[1]] == [p.labels for p in drawn.real]
    assert drawn.learned == 8 and len(drawn.further) == 32
    sides = [drawn.real, drawn.chosen, drawn.judged, drawn.further, drawn.control[1]]
    assert len({picture.pixels.tobytes() for side in sides for picture in side}) == sum(map(len, sides))


def test_a_folder_with_captions_is_its_own_prompts(tmp_path: Path) -> None:
    found = source(str(folder(tmp_path, captions=TABLE)))
    assert isinstance(found, FromFolder)
    requests = found.requests([], 100, 1)
    drawn = found.sample(requests, 0, (16, 16), 1)
    assert len(requests) == 10 and drawn.paired and drawn.labelled and not drawn.fresh
    assert [p.text for p in drawn.real] == [r.prompt.text for r in requests]
    assert {p.name for p in drawn.chosen} | {p.name for p in drawn.judged} == {p.name for p in drawn.real}
    assert {p.labels.get("object") for p in drawn.real} == {"cat", None}
    learned = {p.name for p in drawn.real[: drawn.learned]}
    assert len(learned) == 5 and not drawn.further and not learned & {p.name for p in drawn.judged}
    assert [sum(p.name in learned for p in side) for side in drawn.control] in ([2, 3], [3, 2])
    assert drawn.real[0].pixels.shape == (16, 16, 3)
    few = found.requests([], 8, 1)
    assert few == requests[:8]


def test_captions_without_domains_give_words_and_no_captions_give_nothing(tmp_path: Path) -> None:
    plain = "file,text\n" + "".join(f"p{i:02d}.png,A {'cat' if i % 2 else 'dog'}.\n" for i in range(12))
    found = FromFolder(Folder(folder(tmp_path, captions=plain)))
    requests = found.requests([], 12, 1)
    assert {r.index for r in requests} == {*range(6)} and len({r.key for r in requests}) == 12
    assert {*found.sample(requests, 0, (8, 8), 1).real[0].labels} <= {"cat", "dog"}
    (tmp_path / "captions.csv").unlink()
    bare = FromFolder(Folder(tmp_path))
    drawn = bare.sample(bare.requests(PROMPTS, 10, 1), 0, (8, 8), 1)
    assert not drawn.paired and not drawn.labelled and len(drawn.real) == 10


def test_pictures_are_cut_about_their_middle() -> None:
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 255
    assert (fitted(Image.fromarray(wide), (10, 10)) == 255).all()
    assert fitted(Image.fromarray(wide), (20, 60)).shape == (20, 60, 3)


def test_content_changes_with_a_picture_and_with_a_caption(tmp_path: Path) -> None:
    before = Folder(folder(tmp_path, captions=TABLE)).content
    assert Folder(tmp_path).content == before
    (tmp_path / "captions.csv").write_text(TABLE.replace("A cat 1.", "A hat 1."))
    changed = Folder(tmp_path).content
    Image.new("RGB", (4, 4)).save(tmp_path / "p03.png")
    assert len({before, changed, Folder(tmp_path).content}) == 3


MISTAKES = {
    "text,object\nA cat.,cat\n": "has no column 'file'; expected file and text",
    "file,text\np01.png,\n": "row 1: no text; expected the name of a picture and what it shows",
    "file,text\np01.pgn,A cat.\n": r"row 1: no picture 'p01.pgn'; did you mean 'p01.png'\?",
    "file,text\np01.png,A cat.\np01.png,A dog.\n": "row 2: 'p01.png' stands twice",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_tables_that_cannot_be_used(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadPrompts, match=MISTAKES[text]):
        _ = Folder(folder(tmp_path, captions=text)).files


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    check("canvas")
    check(str(tmp_path))
    with pytest.raises(UnknownName, match="unknown source of real pictures 'canvs': did you mean 'canvas'"):
        check("canvs")
    with pytest.raises(ConfigError, match=r"no such folder: './none'; expected canvas or canvas20, or a folder"):
        check("./none")
    with pytest.raises(ConfigError, match=r"holds no picture; expected files that end in \.png"):
        _ = Folder(tmp_path).files
    few = FromFolder(Folder(folder(tmp_path, 7)))
    with pytest.raises(ConfigError, match="has 7 pictures that can be compared; expected at least 8"):
        few.requests(PROMPTS, 10, 0)
    (tmp_path / "p08.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"p08.png cannot be read as a picture: .*; mend it, or take it out"):
        few.folder.pictures(Folder(tmp_path).files, (8, 8))
