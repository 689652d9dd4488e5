"""Benchmarks' files as they are published: headers are theirs, sentences are harmless ones of ours."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from saeuron.config import DomainConfig, EvaluateConfig, PromptFile, PromptsConfig
from saeuron.errors import UserError
from saeuron.evaluation import images
from saeuron.prompts import Prompt, build, from_file, sizes

DOMAINS = {"unsafe": ("storm", "calm"), "style": ("neon",)}
STORM = {"unsafe": "storm"}
I2P = (
    "prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
    "prompt_toxicity,lexica_url,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model"
)
ESD_I2P = "," + I2P.replace("sd_seed", "evaluation_seed").replace("sd_guidance_scale", "evaluation_guidance")
BIG = 3_784_122_114
"""I2P's seeds have 32 bits and more."""


def i2p(text: str, categories: str, nudity: float = 0.0, seed: int = BIG, guidance: int = 7, width: int = 512) -> str:
    return (
        f'"{text}","{categories}",1,50.0,{nudity},50.0,20.0,0.17,https://x.org/0,{seed},{guidance},{width},512,sd-v1-4'
    )


ROWS = (
    i2p("a sea, in a storm", "violence, shocking", 60, 7),
    i2p("a quiet sea", "sexual", 10, guidance=12),
    i2p("a quiet sea", "shocking", 80, 9, width=448),
)


def write(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_i2p_brings_its_seeds_and_guidance(tmp_path: Path) -> None:
    own = write(tmp_path / "i2p_benchmark.csv", I2P, *ROWS)
    found = from_file(own, DOMAINS)
    assert [(p.text, p.split, p.seed, p.guidance, p.source) for p in found] == [
        ("a sea, in a storm", "test", 7, 7.0, "i2p_benchmark"),
        ("a quiet sea", "test", BIG, 12.0, "i2p_benchmark"),
        ("a quiet sea", "test", 9, 7.0, "i2p_benchmark"),
    ]
    assert len({p.id for p in found}) == 3  # one sentence with two seeds is two prompts
    assert found[1].id != Prompt("a quiet sea", "test").id
    assert sizes(own) == {(512, 512): 2, (512, 448): 1}
    # ESD's copy of it, with pandas' index and a case number; and the same as Parquet, as hubs have it.
    copy = write(tmp_path / "unsafe.csv", f"{ESD_I2P},case_number", *(f"{n},{row},{n}" for n, row in enumerate(ROWS)))
    assert from_file(copy, DOMAINS) == found
    with own.open(newline="") as file:
        parquet.write_table(pa.Table.from_pylist(list(csv.DictReader(file))), tmp_path / "i2p.parquet")
    assert from_file(tmp_path / "i2p.parquet", DOMAINS) == found


def test_some_of_its_rows_for_a_concept(tmp_path: Path) -> None:
    own = str(write(tmp_path / "i2p.csv", I2P, *ROWS))
    one = from_file(PromptFile(path=own, concepts=STORM, only={"categories": "shocking"}), DOMAINS)
    assert [(p.seed, dict(p.concepts)) for p in one] == [(7, STORM), (9, STORM)]
    assert [p.seed for p in from_file(PromptFile(path=own, above={"nudity_percentage": 60}), DOMAINS)] == [9]
    bare = from_file(PromptFile(path=own, ignore=("seed", "guidance", "size"), limit=2, split="train"), DOMAINS)
    assert len(bare) == 2 and {(p.seed, p.guidance, p.split) for p in bare} == {(None, None, "train")}
    assert not sizes(PromptFile(path=own, ignore=("size",)))


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        # Ring-A-Bell's; P4D's and ESD's COCO are alike.
        ("rab.csv", "prompt,case_number,evaluation_seed\nsea habits #,0,41\n", [("sea habits #", 41, None)]),
        (
            "coco_30k.csv",
            "image_id,source,prompt,evaluation_seed\n000000203564,coco-30k,A bicycle.,41337\n",
            [("A bicycle.", 41337, None)],
        ),
        (
            "p4d.csv",
            ",case_number,source,prompt,evaluation_seed,evaluation_guidance\n4,10,coco-30k,A gray cat.,4057,7.5\n",
            [("A gray cat.", 4057, 7.5)],
        ),
        (
            "mma.csv",
            "target_prompt,adv_prompt,sanitized_adv_prompt,success_against_sanitization_defense,clean_prompt\n"
            "a storm,stxrm waves,waves,True,a house\n",
            [("stxrm waves", None, None)],
        ),
        ("p.jsonl", '{"prompt": "sea rain"}\n', [("sea rain", None, None)]),
        (
            "captions_val2017.json",
            json.dumps({"info": {}, "annotations": [{"image_id": 1, "id": 2, "caption": "A bicycle\nreplica. "}]}),
            [("A bicycle replica.", None, None)],
        ),
    ],
)  # fmt: skip
def test_attacks_and_captions(tmp_path: Path, name: str, content: str, wanted: list[tuple[object, ...]]) -> None:
    path = tmp_path / name
    path.write_text(content)
    found = from_file(path, DOMAINS)
    assert [(p.text, p.seed, p.guidance) for p in found] == wanted
    assert {(p.split, p.source) for p in found} == {("test", path.stem)}


def test_lines_of_text_and_another_column(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("storm waves\n")
    told = PromptFile(path=str(tmp_path / "a.txt"), split="test", concepts=STORM)
    assert from_file(told, DOMAINS) == [Prompt("storm waves", "test", STORM)]
    mma = write(tmp_path / "m.csv", "target_prompt,adv_prompt,sanitized_adv_prompt", "a,b,c")
    assert [p.text for p in from_file(PromptFile(path=str(mma), text="sanitized_adv_prompt"), DOMAINS)] == ["c"]


@pytest.mark.parametrize(
    ("told", "row", "said"),
    [
        ({"only": {"category": "sexual"}}, ROWS[0], "unknown column 'category': did you mean 'categories'"),
        ({"only": {"categories": "hate"}}, ROWS[0], "leave none of its rows"),
        ({"above": {"categories": 3}}, ROWS[0], "row 1: categories 'violence, shocking'; expected a number"),
        ({"concepts": {"unsafe": "strom"}}, ROWS[0], "unknown unsafe 'strom': did you mean 'storm'"),
        ({"concepts": {"safety": "storm"}}, ROWS[0], "unknown domain 'safety'"),
        ({"text": "prompts"}, ROWS[0], "unknown column 'prompts'"),
        ({}, i2p("a", "b", seed=-1), r"row 1: seed '-1'; expected a whole number below 2\^63, or `ignore: \[seed\]`"),
        ({}, i2p("a", "b").replace(",7,", ",high,"), "row 1: guidance 'high'; expected a number"),
        ({}, i2p("", "b"), "row 1: no text; expected a column `prompt`"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, told: dict[str, object], row: str, said: str) -> None:
    path = write(tmp_path / "i2p.csv", I2P, row)
    with pytest.raises(UserError, match=said) as caught:
        from_file(PromptFile.model_validate({"path": str(path), **told}), DOMAINS)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_all_of_a_benchmark_is_evaluated(tmp_path: Path) -> None:
    own = write(tmp_path / "i2p.csv", I2P, *ROWS)
    captions = str(write(tmp_path / "c.csv", "caption", "A cup.", "A fork."))
    config = PromptsConfig(
        templates={"test": ("A {unsafe} sea.", "The {unsafe} sea.")},
        files=(PromptFile(path=str(own), concepts=STORM), captions),
    )
    domains = {name: DomainConfig(concepts=names, hookpoints=("-",)) for name, names in DOMAINS.items()}
    found = images(build(config, domains), EvaluateConfig(seeds=2))
    # One template of each cell and all captions with two seeds each, I2P's prompts with their own one, by guidance.
    assert [(r.prompt.source, r.index) for r in found[:4]] == [("", 0), ("", 1)] * 2
    listed = [(r.prompt.text, r.prompt.guidance, r.index) for r in found[4:]]
    assert sorted(listed[:4]) == [("A cup.", None, 0), ("A cup.", None, 1), ("A fork.", None, 0), ("A fork.", None, 1)]
    assert [(guidance, index) for _, guidance, index in listed[4:]] == [(7.0, 0), (7.0, 0), (12.0, 0)]
