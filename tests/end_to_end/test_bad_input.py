"""A user's mistakes: one line, exit code 2, before any model is loaded; the workspace stays as it was."""

import json
import shutil
import time
from pathlib import Path

import pytest

from saeuron.errors import WidthMismatch
from saeuron.methods.removal import Removal
from storage import Workspace
from tests.end_to_end.process import TINY, Cli, ids, run_here
from tests.saeuron.pipelines import tiny
from tests.saeuron.pipelines.test_source import ANSWERS


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here gets as far as a model or a run."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was loaded")

    # In this order: the patch imports `tasks.engine.model`, which must find the true function to put back.
    monkeypatch.setattr("tasks.engine.model.load_pipeline", refuse)
    monkeypatch.setattr("saeuron.pipelines.loading.load_pipeline", refuse)
    monkeypatch.setattr("tasks.registry.runs.start", refuse)


def refusing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A hub that answers with an error."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)


def settings(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


RUNS = {
    "concept": (settings("tune.concepts=[stirpes]"), "unknown concept 'stirpes': did you mean 'stripes'"),
    "hookpoint": (
        settings("domains.style.hookpoints=[unet.up_blocks.0.attention.1]"),
        "unknown hookpoint 'unet.up_blocks.0.attention.1': did you mean 'unet.up_blocks.0.attentions.1'",
    ),
    "hookpoint that is a list": (
        settings("domains.style.hookpoints=[unet.up_blocks]"),
        "unet.up_blocks is a list of modules and never runs itself; take one in it, such as unet.up_blocks.0.",
    ),
    "hookpoint in a text encoder": (
        settings('domains.style.hookpoints=["text_encoder.encoder.layer.0:input"]'),
        "unknown hookpoint 'text_encoder.encoder.layer.0:input': did you mean 'text_encoder.",
    ),
    "scheduler": (
        settings("model.scheduler=DDIMSheduler"),
        "unknown scheduler 'DDIMSheduler': did you mean 'DDIMScheduler'",
    ),
    "key": (settings("trian.k=4"), "unknown key 'trian'; did you mean 'train'"),
    "nested key": (settings("train.expanson=4"), "unknown key 'train.expanson'; did you mean 'expansion'"),
    "value": (settings("train.k=four"), "train.k: Input should be a valid integer"),
    "no value": (settings("train.k"), "expected KEY.KEY=VALUE"),
    "model folder": (settings("model.spec=./no/such/model"), "no such model: './no/such/model'"),
    "model name": (
        settings("model.spec=canvs"),
        "expected 'canvas' or 'canvas20', a folder with a diffusers pipeline, or a hub id",
    ),
    "not a model": (settings(f"model.spec={Path(__file__).parent}"), "is not a diffusers pipeline"),
    "size": (
        settings("model.size=[32, 33]"),
        "32 x 33 pixels (height, width) do not fit canvas20; its VAE and denoiser",
    ),
    "no size": (settings("model.size=0"), "--set model.size=0: model.size: expected a height and a width in pixels"),
    "device": (["--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
    "unknown device": (["--device", "gpu"], "device 'gpu' cannot be used here"),
    "dtype": (["--dtype", "float8"], "model.dtype: Input should be 'float32', 'float16' or 'bfloat16'"),
    "prompt file": (settings("prompts.files=[none.csv]"), "no such prompt file: none.csv"),
    "a judge whose labels miss a concept": (
        settings("domains.style.concepts=[stripes, neon, dots, charcoal]"),
        "unknown label of the judge 'canvas20' 'charcoal'",
    ),
    "a copy of UnlearnCanvas with files missing": (
        settings(f"prompts.unlearncanvas={Path(__file__).parent}"),
        "lacks 3 of 3 files of anchor prompts (sd_prompt_cat.txt, sd_prompt_moon.txt",
    ),
    "judge": (settings("domains.style.judge=canvass"), "unknown judge 'canvass': did you mean 'canvas'"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_mistake_in_a_run_is_one_line_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    words, said = RUNS[name]
    done = run_here("run", TINY, "-w", tmp_path / "w", *words)
    assert done.code == 2, done.err
    assert said in done.complaint and not done.out
    assert not (tmp_path / "w" / "artifacts").exists() and not (tmp_path / "w" / "run.json").exists()


def test_a_hub_id_that_is_not_there(tmp_path: Path) -> None:
    done = run_here("run", TINY, "-w", tmp_path / "w", "--set", "model.spec=nobody/nothing")
    assert "nobody/nothing" in done.complaint and not (tmp_path / "w" / "artifacts").exists()
    assert done.code == 2


@pytest.mark.parametrize("name", ["gated", "missing", "no network"])
def test_a_hub_that_refuses(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error, said = ANSWERS[name]
    refusing(monkeypatch, error)
    for more in ((), ("--plan",)):
        done = run_here("run", TINY, "-w", tmp_path / "w", "--set", "model.spec=some/model", *more)
        assert done.code == 2 and f"cannot fetch model 'some/model': {said}" in done.complaint, done.err
    assert not (tmp_path / "w" / "artifacts").exists()


@pytest.mark.parametrize("name", ["gated", "missing", "revision", "no network", "no pipeline"])
def test_a_doctor_says_what_the_hub_answers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error, said = ANSWERS[name]
    refusing(monkeypatch, error)
    done = run_here("doctor", "some/model@v9", "-w", tmp_path / "w", "--json")
    (found,) = (f for f in json.loads(done.out) if f["what"] == "model")
    assert done.code == 1 and found["verdict"] == "bad"
    assert f"cannot fetch model 'some/model@v9': {said}" in found["found"] and "\n" not in found["found"]
    assert "Traceback" not in done.err and not (tmp_path / "w").exists()
    # For people: the same in lines of 80 columns.
    shown = run_here("doctor", "some/model@v9", "-w", tmp_path / "w")
    assert shown.code == 1 and f"bad model {found['found']}"[:70] in " ".join(shown.out.split())


FOLDERS = {
    "no text encoder": "has no text encoder: its model_index.json names none, and StableDiffusionPipeline needs one",
    "no folder of one": "has no text_encoder/config.json; expected the whole folder of a diffusers pipeline",
    "only pickles": "has the weights of its unet only as .bin, a pickle, which is not loaded; load it yourself",
    "no weights": "has no weights of its unet: unet/ holds no .safetensors; fetch the model again",
    "no text-to-image": "has the class StableVideoDiffusionPipeline, which is not supported; expected StableDiffusion",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_no_whole_pipeline(name: str, tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    index = json.loads((folder / "model_index.json").read_text())
    match name:
        case "no text encoder":
            index["text_encoder"] = [None, None]
        case "no folder of one":
            shutil.rmtree(folder / "text_encoder")
        case "only pickles":
            (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
                folder / "unet" / "diffusion_pytorch_model.bin"
            )
        case "no weights":
            (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        case _:
            index["_class_name"] = "StableVideoDiffusionPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    done = run_here("run", TINY, "-w", tmp_path / "w", "--set", f"model.spec={folder}")
    assert done.code == 2 and str(folder) in done.complaint and FOLDERS[name] in done.complaint, done.err
    assert not (tmp_path / "w" / "artifacts").exists()


def test_guidance_that_is_an_input_has_no_halves(tmp_path: Path) -> None:
    folder = tiny.save("flux-dev", tmp_path / "model")
    words = ["run", TINY, "-w", tmp_path / "w", *settings(f"model.spec={folder}", "model.size=16")]
    done = run_here(*words, *settings("capture.half=unconditional"))
    assert done.code == 2 and "capture.half is 'unconditional', but guidance is an input of" in done.complaint, done.err
    for domain in ("style", "object"):
        words += settings(
            f"domains.{domain}.hookpoints=[transformer.transformer_blocks.0]", f"domains.{domain}.judge=none"
        )
    done = run_here(*words, *settings("method=negative_prompt"))
    assert done.code == 2 and "where a negative prompt has no effect; take another method" in done.complaint, done.err


def test_a_key_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: canvas\ndomains: {style: {concepts: [neon, dots], hookpoint: [a]}}\n")
    done = run_here("run", tmp_path / "mine.yaml", "-w", tmp_path / "w")
    assert done.code == 2
    assert "mine.yaml: unknown key 'domains.style.hookpoint'; did you mean 'hookpoints'" in done.complaint
    assert not (tmp_path / "w").exists()


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    done = run_here("run", "canvas_ful", "-w", tmp_path / "w")
    assert done.code == 2 and "did you mean 'canvas_full'" in done.complaint


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt", ".parquet"])
def test_an_empty_prompt_file(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"prompts{suffix}"
    file.touch()
    done = run_here("run", TINY, "-w", tmp_path / "w", "--set", f"prompts.files=[{file}]")
    assert done.code == 2 and str(file) in done.complaint
    assert not (tmp_path / "w" / "artifacts").exists()


def test_in_a_process_of_its_own_it_is_quick(cli: Cli, tmp_path: Path) -> None:
    start = time.monotonic()
    done = cli.run(tmp_path / "w", "--set", "train.k=four")
    assert done.code == 2 and done.complaint == done.err.strip()
    assert time.monotonic() - start < 30
    done = cli.run(tmp_path / "w", "--set", "tune.concepts=[stirpes]")
    assert done.code == 2 and "did you mean 'stripes'" in done.complaint
    assert [p.name for p in (tmp_path / "w").iterdir()] == ["workspace.json"]


class TestOnAWorkspace:
    """Where a run was made before."""

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["evaluate", "nenon"], "unknown concept 'nenon': did you mean 'neon'"),
            (["evaluate", "neon", "--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
            (["generate", "A cat.", "--remove", "stirpes"], "unknown removal 'stirpes': did you mean 'stripes'"),
            (
                ["generate", "A cat.", "--remove", "neon"],
                "concept 'neon' has no removal here; make one with: saeuron remove neon",
            ),
            (["generate", "A cat.", "--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
            (["generate", "A cat.", "--out", "cat.jpeg2"], "expected a file name that ends in .png"),
            (["generate", "A cat.", "--remove", "./none.safetensors"], "no such file: ./none.safetensors"),
            (["concept", "show", "ct"], "unknown concept 'ct': did you mean 'cat'"),
            (["concept", "add", "none.yaml"], "no such file: none.yaml"),
            (["run", "canvas20", "--tflops", "5"], "--tflops is of --plan"),
            (["locate", "neon", "--examples", "3"], "--examples 3: expected an even number"),
            (["sql", "select * from removal"], "removals"),
        ],
    )
    def test_names(self, workspace: Path, words: list[str], said: str) -> None:
        before = ids(workspace)
        done = run_here(*words, "-w", workspace)
        assert done.code == 2, done.err
        assert said in done.complaint and not done.out
        assert ids(workspace) == before and not (workspace / "concepts").exists()

    def test_a_removal_that_is_damaged(self, workspace: Path, tmp_path: Path) -> None:
        file = tmp_path / "cut.safetensors"
        file.write_bytes((workspace / "removals" / "cat.saeuron.safetensors").read_bytes()[:-100])
        done = run_here("generate", "A cat.", "--remove", file, "-w", workspace)
        assert done.code == 1 and str(file) in done.complaint


COMMANDS = {
    "evaluate": ["evaluate"],
    "list": ["concept", "list"],
    "show": ["concept", "show", "cat"],
    "sql": ["sql", "select 1"],
    "status": ["status"],
    "generate": ["generate", "A cat.", "--remove", "cat"],
}


class TestWorkspace:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_that_is_not_there(self, name: str, tmp_path: Path) -> None:
        done = run_here(*COMMANDS[name], "-w", tmp_path / "none")
        assert done.code == 2 and "is not a workspace: there is no such folder" in done.complaint
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize("name", [*COMMANDS, "run"])
    def test_of_a_newer_version(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "workspace.json").write_text('{"format": 9}')
        done = run_here(*COMMANDS.get(name, ["run", TINY]), "-w", tmp_path)
        assert done.code == 2
        assert "has format 9, expected 3: upgrade saeuron, or use another folder" in done.complaint
        assert [p.name for p in tmp_path.iterdir()] == ["workspace.json"]

    def test_a_folder_of_other_things(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        done = run_here("run", TINY, "-w", tmp_path)
        assert done.code == 2 and "it holds other things (thesis.tex)" in done.complaint

    @pytest.mark.parametrize("name", ["evaluate", "list", "show"])
    def test_where_nothing_has_been_run(self, name: str, tmp_path: Path) -> None:
        Workspace.open(tmp_path / "w")
        done = run_here(*COMMANDS[name], "-w", tmp_path / "w")
        assert done.code == 2 and "start with: saeuron run" in done.complaint

    def test_that_may_not_be_written(self) -> None:
        # A folder that not even root may write to.
        done = run_here("run", TINY, "-w", "/proc/self/workspace")
        assert done.code == 2
        assert "cannot use /proc/self/workspace: no such file or directory; name a" in done.complaint

    def test_an_empty_one_has_a_status(self, tmp_path: Path) -> None:
        Workspace.open(tmp_path / "w")
        done = run_here("status", "-w", tmp_path / "w")
        assert done.code == 0 and "damaged: none" in done.out


class TestWidth:
    def test_a_removal_for_another_width(self, tiny_pipe: object, workspace: Path) -> None:
        removal = Removal.load(workspace / "removals" / "cat.saeuron.safetensors")
        with removal.attached(tiny_pipe), pytest.raises(WidthMismatch) as error:
            tiny_pipe("A cat.", num_inference_steps=1)  # type: ignore[operator]
        message = str(error.value)
        assert "\n" not in message and "unet.up_blocks.0.attentions.1" in message
        assert str(removal.edits[0].W_dec.shape[1]) in message
        # Nothing stays behind.
        assert tiny_pipe("A cat.", num_inference_steps=1).images  # type: ignore[operator]
