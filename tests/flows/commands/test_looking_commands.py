"""`saeuron hookpoints` and `saeuron doctor`."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from flows.upkeep import doctor
from saeuron.pipelines.patching import Pair, Share
from tests.end_to_end.process import run_here


def test_hookpoints_are_listed_in_80_columns(tiny_model_folder: Path) -> None:
    done = run_here("hookpoints", tiny_model_folder)
    assert done.code == 0 and max(map(len, done.out.splitlines()[:-1])) <= 80, done.err
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line.startswith("unet.")}
    assert rows["unet.up_blocks.1.attentions.1"] == ["8x8", "16", "2.0"]
    assert f"next: saeuron hookpoints {tiny_model_folder} --rank CONCEPT" in done.out
    places = json.loads(run_here("hookpoints", tiny_model_folder, "--json").out)
    assert {p["hookpoint"] for p in places} >= {*rows}


def test_hookpoints_at_another_size(tiny_model_folder: Path) -> None:
    places = json.loads(run_here("hookpoints", tiny_model_folder, "--json", "--size", "32x64").out)
    assert {p["hookpoint"]: p["shape"] for p in places}["unet.up_blocks.1.attentions.1"] == [16, 8, 16]


def test_a_ranking_stands_beside_its_control(tiny_model_folder: Path) -> None:
    words = ("hookpoints", tiny_model_folder, "--rank", "cat", "--instead", "moon", "--steps", "2", "--threads", "1")
    done = run_here(*words)
    assert done.code == 0 and max(map(len, done.out.splitlines())) <= 80, done.err
    lines = done.out.splitlines()
    assert lines[0] == "cat: share of the change in the prediction, %, 2 pairs of prompts"
    listed = [float(line.split()[1]) for line in lines if line.startswith("unet.")]
    assert listed == sorted(listed, reverse=True) and listed[0] == 100  # the last block
    (all_of_it,) = (line for line in lines if "where text enters, at once" in line)
    assert all_of_it.split()[-3:] == ["100.0"] * 3
    assert any(line.startswith("control: these, from a prompt without the concept") for line in lines)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ((), [("An image of cat.", "An image of moon.", "The moon."), ("The cat.", "The moon.", "An image of moon.")]),
        (
            ("A {concept} {x}.", "{0} {concept} {"),
            [("A cat {x}.", "A moon {x}.", "{0} moon {"), ("{0} cat {", "{0} moon {", "A moon {x}.")],
        ),
    ],
)
def test_sentences_name_the_concept_and_keep_other_braces(
    given: tuple[str, ...],
    asked: list[tuple[str, ...]],
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str, ...]] = []

    def shares(pipe: object, pairs: list[Pair], groups: list[list[str]], *args: object, **about: object) -> list[Share]:
        seen.extend(map(tuple, pairs))
        return [Share(tuple(group), 0.5, 0.4, 0.6, {}, len(pairs)) for group in groups]

    monkeypatch.setattr("saeuron.pipelines.patching.shares", shares)
    words = [word for text in given for word in ("--prompt", text)]
    done = run_here("hookpoints", tiny_model_folder, "--rank", "cat", "--instead", "moon", *words)
    assert done.code == 0, done.err
    assert seen == asked * 2  # the shares, and the control


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rank", "cat"], "--rank cat needs --instead OTHER"),
        (["--rank", "cat", "--instead", "cat"], "--rank cat needs --instead OTHER"),
        (["--size", "32*64"], "--size '32*64': expected a height and a width"),
        (["--size", "33"], "33 x 33 pixels"),
        (["--instead", "cat"], "--instead and --prompt are of --rank CONCEPT"),
        (
            ["--rank", "cat", "--instead", "moon", "--prompt", "A {concept}."],
            "--prompt is there once; give two or more",
        ),
        (["--rank", "cat", "--instead", "moon", "--prompt", "A cat."], "--prompt 'A cat.': expected a sentence with"),
        (
            ["--rank", "cat", "--instead", "moon", "--prompt", "A {concept}.", "--prompt", "A {x}."],
            "--prompt 'A {x}.': expected a sentence with {concept} once in it",
        ),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, tiny_model_folder: Path) -> None:
    done = run_here("hookpoints", tiny_model_folder, *words)
    assert done.code == 2 and said in done.complaint and not done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rank", "neno", "--instead", "sketch"], "unknown concept 'neno': did you mean 'neon'? (of canvas)"),
        (["--rank", "neon", "--instead", "skech"], "unknown concept 'skech': did you mean 'sketch'? (of canvas)"),
        (["--rank", "neon", "--instead", "cat"], "--instead cat is an object, neon a style; name another style"),
        (["--rank", "cat", "--instead", "neon"], "--instead neon is a style, cat an object; name another object"),
    ],
)
def test_canvas_ranks_only_what_it_draws(words: list[str], said: str) -> None:
    done = run_here("hookpoints", "canvas", *words)
    assert done.code == 2 and said in done.complaint and not done.out


def test_a_model_that_is_not_there() -> None:
    done = run_here("hookpoints", "./nowhere")
    assert done.code == 2 and "no such model: './nowhere'" in done.complaint


class TestDoctor:
    def test_all_is_well(self, tmp_path: Path, tiny_model_folder: Path) -> None:
        done = run_here("doctor", tiny_model_folder, "-w", tmp_path / "new" / "place")
        assert done.code == 0, done.out
        assert max(len(line) for line in done.out.splitlines() if str(tmp_path.parent) not in line) <= 80
        found = {line[6:15].strip() for line in done.out.splitlines() if line[:4].strip()}
        assert {"python", "packages", "devices", "threads", "memory", "disk", "hub cache", "hub", "model"} <= found
        assert "StableDiffusionPipeline, images of 32 x 32" in " ".join(done.out.split())
        assert not (tmp_path / "new").exists()

    def test_what_is_missing_exits_with_1_and_says_what_to_do(
        self, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
        shutil.rmtree(folder / "text_encoder")
        usage = namedtuple("usage", "total used free")(10, 9, 1)
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
        monkeypatch.setattr(doctor, "requires", lambda name: ["torch>=99", "no-such-thing", "s3fs; extra == 's3'"])
        done = run_here("doctor", folder, "-w", tmp_path, "--json")
        bad = {(f["what"], f["todo"]) for f in json.loads(done.out) if f["verdict"] == "bad"}
        assert done.code == 1
        assert ("packages", "pip install 'torch>=99'") in bad and ("packages", "pip install 'no-such-thing'") in bad
        assert ("disk", "make room (saeuron gc --dry-run), or name another place with -w") in bad and len(bad) == 4
        (about,) = (f["found"] for f in json.loads(done.out) if f["what"] == "model")
        assert "has no text_encoder/config.json" in about

    def test_nothing_asks_the_network_without_a_model(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError("the network was asked")

        monkeypatch.setattr("socket.socket.connect", refuse)
        assert run_here("doctor", "-w", tmp_path).code == 0
        done = run_here("doctor", "nobody/nothing", "-w", tmp_path)
        assert done.code == 1 and "cannot fetch model 'nobody/nothing'" in " ".join(done.out.split())
