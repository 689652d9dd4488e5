"""`saeuron sae`, on a workspace with one capture and one SAE made by hand. A mistake is one line and exit code 2."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import save_file

from flows import work
from flows.check import check_saes
from flows.config import load
from flows.sae import given
from saeuron.config import RunConfig
from saeuron.errors import BadModel, ConfigError
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.interchange import BadSAE, read, write
from storage import Workspace
from storage.catalog.query import run_query
from storage.dense.activations import encode
from storage.dense.shards import write_shard
from storage.verify import damage
from tasks.capture import CaptureJob
from tasks.exchange.interchange import Found, content, export
from tasks.registry import runs
from tasks.train import TrainJob
from tests.end_to_end.process import TINY, Done, run_here

HOOK, OTHER, WIDTH = "unet.up_blocks.0.attentions.1", "unet.up_blocks.1.attentions.0", 160
FIXTURES = Path(__file__).parents[2] / "saeuron" / "sae" / "fixtures"


def some_sae(seed: int = 0, activation: Any = "threshold", width: int = WIDTH, hookpoint: str = HOOK) -> SAE:
    sae = SAE(SAEInfo("batch_topk", width, 2 * width, 8, hookpoint, activation), seed).requires_grad_(False)
    if activation == "threshold":
        sae.threshold.fill_(1.5)
    return sae


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    opened = Workspace.open(tmp_path_factory.mktemp("saes") / "w")
    config = load(str(TINY))
    runs.remember(opened, config)
    capture = CaptureJob(
        workspace=opened.root,
        model=config.model,
        model_id="0123456789abcdef0123",
        config=config.capture,
        prompts_id=f"prompts_v1_{20 * '0'}",
        images_id="some",
        hookpoint=HOOK,
    )
    array = np.random.default_rng(0).standard_normal((3, 100, WIDTH)).astype(np.float16)
    write_shard(opened.folder(capture.id) / HOOK / "00000.tar", [("a", {"npy": encode(array)})], {})
    hook = {"hookpoint": HOOK, "shards": 1, "rows": 300, "bytes": 1, "width": WIDTH}
    about = {"model_id": capture.model_id, **hook, "images": 1, "steps": 3, "half": "conditional"}
    opened.commit(capture.id, config=capture.identity, inputs={}, summary=about, seconds=1)
    job = TrainJob(workspace=opened.root, config=config.train, hookpoint=HOOK, capture_id=capture.id)
    sae = some_sae()
    sae.save(job.folder)
    figures = {"fvu": 0.25, "l0": 7.5, "dead": 0.125, "rows": 7680, "seconds": 2.0}
    summary = {"hookpoint": HOOK, "variant": "batch_topk", "width": WIDTH, "n_latents": 2 * WIDTH, "k": 8, **figures}
    opened.commit(job.id, config=job.identity, inputs={"capture": capture.id}, summary=summary, seconds=2)
    return opened.root


@pytest.fixture
def workspace(template: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(template, tmp_path / "w"))


@pytest.fixture
def trained(workspace: Workspace) -> str:
    return workspace.artifacts("sae")[0].id


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """An SAE of another seed, as SAELens would have it."""
    write(some_sae(1), tmp_path / "foreign", "saelens")
    return tmp_path / "foreign"


def sae(workspace: Workspace, *words: str | Path) -> Done:
    return run_here("sae", *words, "-w", workspace.root)


def good(done: Done) -> str:
    assert done.code == 0, done.err
    last = done.out.rstrip().splitlines()[-1]
    assert last.startswith("next: saeuron ")
    return done.out


def bad(done: Done) -> str:
    assert done.code == 2 and not done.out
    return done.complaint


class TestInfo:
    def test_by_the_beginning_of_its_id_by_its_hookpoint_or_by_its_folder(
        self, workspace: Workspace, trained: str
    ) -> None:
        by_id = good(sae(workspace, "info", trained[:10]))
        assert good(sae(workspace, "info", HOOK)) == by_id
        lines = dict(line.split(maxsplit=1) for line in by_id.splitlines()[:-1] if not line.startswith("decoder"))
        assert lines["sae"] == trained and lines["hookpoint"] == HOOK and lines["k"] == "8" and lines["FVU"] == "0.2500"
        assert lines["thresholds"] == "1.5 to 1.5" and lines["dead"] == "12.5%" and lines["activation"] == "threshold"
        assert "decoder norms  1 (1 to 1)" in by_id
        assert all(len(line) <= 80 for line in by_id.splitlines() if not line.startswith("next"))
        by_folder = good(sae(workspace, "info", workspace.folder(trained)))
        assert "saeuron sae import" in by_folder and "FVU" not in by_folder

    def test_as_json(self, workspace: Workspace) -> None:
        fields = json.loads(sae(workspace, "info", HOOK, "--json").out)
        assert (fields["width"], fields["n_latents"], fields["k"], fields["format"]) == (160, 320, 8, "saeuron")
        assert fields["decoder_norm"]["mean"] == pytest.approx(1) and fields["dtype"] == "float32"

    def test_of_another_library_without_a_workspace(self, tmp_path: Path) -> None:
        done = run_here("sae", "info", FIXTURES / "saelens" / "gated", "-w", tmp_path / "none")
        assert "note: the gate is folded" in good(done) and "saelens" in done.out
        assert not (tmp_path / "none").exists()

    def test_the_scale_that_is_missing_can_be_given(self, workspace: Workspace, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(FIXTURES / "saelens" / "jumprelu", tmp_path / "j"))
        (folder / "activation_scaler.json").unlink()
        assert "--scale" in bad(sae(workspace, "info", folder))
        assert "the factor 2 is folded" in good(sae(workspace, "info", folder, "--scale", "2"))

    def test_what_is_not_there(self, workspace: Workspace, trained: str) -> None:
        assert f"did you mean '{HOOK}'" in bad(sae(workspace, "info", HOOK[:-1]))
        assert "unknown SAE 'sae_v2_xyz'" in bad(sae(workspace, "info", "sae_v2_xyz"))
        assert "cannot fetch SAE 'some/thing' from the hub" in bad(sae(workspace, "info", "some/thing"))

    @pytest.mark.parametrize(
        ("fixture", "fields", "words"),
        [
            ("saelens/topk", {"architecture": ["topk"]}, "has architecture ['topk']; expected a string."),
            (
                "saelens/topk",
                {"normalize_activations": {}},
                "normalize_activations {}; expected a string or true or false",
            ),
            (
                "saelens/topk",
                {"metadata": {"hook_name": "../../outside"}},
                "hookpoint '../../outside'; expected a module's",
            ),
            ("sparsify/topk", {"k": "4"}, "has k '4'; expected a number."),
            ("saeuron", {"k": 2.5}, "k 2.5; expected a whole number"),
            ("saeuron", {"variant": 3}, "variant 3; expected a string"),
            ("saeuron", {"hookpoint": 5}, "hookpoint 5; expected a string"),
            ("saeuron", [1], "metadata that are not a JSON object"),
        ],
    )
    def test_fields_that_no_sae_has(
        self, workspace: Workspace, tmp_path: Path, fixture: str, fields: Any, words: str
    ) -> None:
        folder = tmp_path / "odd"
        if fixture == "saeuron":
            given = some_sae()
            said = fields if isinstance(fields, list) else vars(given.info) | fields
            save_file(given.state_dict(), mkdir(folder) / "sae.safetensors", {"json": json.dumps(said)})
            (folder / "cfg.json").write_text(json.dumps(vars(given.info)))
        else:
            _with(Path(shutil.copytree(FIXTURES / fixture, folder)), **fields)
        assert words in bad(sae(workspace, "info", folder))

    def test_damage(self, workspace: Workspace, trained: str, foreign: Path) -> None:
        path = foreign / "sae_weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        assert "not a readable safetensors file" in bad(sae(workspace, "info", foreign))
        path.rename(foreign / "ae.pt").write_bytes(pickle.dumps(1))
        assert "pickle" in bad(sae(workspace, "info", foreign / "ae.pt"))


class TestImport:
    def test_is_an_artifact_like_a_trained_one(self, workspace: Workspace, trained: str, foreign: Path) -> None:
        out = good(sae(workspace, "import", foreign))
        (made,) = [m for m in workspace.artifacts("sae") if m.id != trained]
        assert f"as {made.id}" in out and f"saeuron sae report {made.id} --against {trained}" in out
        assert damage(workspace, made.id, deep=True) == []
        assert {f.name for f in made.files} == {"cfg.json", "sae.safetensors"}
        loaded, expected = SAE.load(workspace.folder(made.id)), some_sae(1)
        assert loaded.info == expected.info and content(loaded) == content(expected)
        rows = run_query(workspace, "select * from saes order by fvu nulls last").to_pylist()
        assert [row["sae_id"] for row in rows] == [trained, made.id]
        assert rows[1] == {
            **rows[0], "sae_id": made.id, "assigned": [],
            **dict.fromkeys(("capture_id", "fvu", "l0", "dead", "rows", "seconds")),
        }  # fmt: skip

    def test_the_same_weights_are_the_same_artifact(self, workspace: Workspace, foreign: Path, tmp_path: Path) -> None:
        first = json.loads(sae(workspace, "import", foreign, "--json").out)["id"]
        write(some_sae(1), tmp_path / "ours", "saeuron")
        assert json.loads(sae(workspace, "import", tmp_path / "ours", "--json").out)["id"] == first
        write(some_sae(2), tmp_path / "others", "saeuron")
        assert json.loads(sae(workspace, "import", tmp_path / "others", "--json").out)["id"] != first
        elsewhere = sae(
            workspace, "import", tmp_path / "ours", "--hookpoint", "unet.up_blocks.0.attentions.0", "--json"
        )
        assert json.loads(elsewhere.out)["id"] != first

    def test_a_folder_named_by_its_hookpoint_says_where_it_belongs(self, workspace: Workspace, tmp_path: Path) -> None:
        write(some_sae(1, "topk", hookpoint=""), tmp_path / HOOK, "sparsify")
        assert f"at {HOOK}" in good(sae(workspace, "import", tmp_path / HOOK))
        shutil.move(tmp_path / HOOK, tmp_path / "mine")
        assert "does not say where it belongs; give --hookpoint" in bad(sae(workspace, "import", tmp_path / "mine"))

    def test_from_the_hub_the_commit_is_remembered(
        self, workspace: Workspace, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        snapshot = tmp_path / ("ab" * 20)
        shutil.copytree(foreign, snapshot / "inner")
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, revision, allow_patterns: str(snapshot))
        made = json.loads(sae(workspace, "import", "owner/name:inner", "--json").out)
        assert (made["source"], made["revision"], made["format"]) == ("owner/name:inner", "ab" * 20, "saelens")
        sae(workspace, "export", made["id"], "--format", "saelens", "--out", tmp_path / "out")
        card = (tmp_path / "out" / "README.md").read_text()
        assert f"saeuron sae import owner/name@{'ab' * 20}:inner --hookpoint {HOOK}\n" in card

    def test_a_run_brings_what_its_configuration_names_by_its_place(
        self, workspace: Workspace, trained: str, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        snapshot = tmp_path / ("cd" * 20)
        shutil.copytree(foreign, snapshot / "inner")
        asked = []

        def download(repo: str, revision: str | None, allow_patterns: Any) -> str:
            asked.append((repo, revision))
            return str(snapshot)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        by_id = load(str(TINY), [f"saes={json.dumps({HOOK: trained})}"])
        assert given.brought(by_id, workspace.root) is by_id
        found = []
        for place in (str(foreign), "hub:owner/name:inner", "hub:owner/name@v1:inner"):
            config = load(str(TINY), [f"saes={json.dumps({HOOK: place})}"])
            brought = given.brought(config, workspace.root)
            assert brought.model_copy(update={"saes": {}}) == config.model_copy(update={"saes": {}})
            found.append(brought.saes[HOOK])
            check_saes(brought, workspace)
        # The same weights are the same artifact, beside the trained one.
        assert found[0] == found[1] == found[2] != trained and {*found, trained} == {
            m.id for m in workspace.artifacts("sae")
        }
        assert asked == [("owner/name", None), ("owner/name", "v1")]

        # A deployment's run brings them as well: what it checks next are ids.
        def far_enough(config: RunConfig, *rest: Any) -> None:
            raise ConfigError(config.saes[HOOK])

        monkeypatch.setattr(work, "check_all", far_enough)
        with pytest.raises(ConfigError, match=found[0]):
            work.do(work.Work(config, None), workspace, "cpu", 1)
        # One place for every hookpoint.
        everywhere = load(str(TINY), ["saes=hub:owner/name@v1"])
        assert everywhere.saes == dict.fromkeys(everywhere.hookpoints, "hub:owner/name@v1")
        none = load(str(TINY), [f"saes={json.dumps({HOOK: 'hub:owner/name@'})}"])
        with pytest.raises(BadModel, match="no revision after @ in 'owner/name@'"):
            given.brought(none, workspace.root)
        before = workspace.folders()
        words = ["run", TINY, "-w", workspace.root, "--set", f"saes={json.dumps({HOOK: str(foreign)})}"]
        assert f"First: saeuron sae import {foreign} --hookpoint {HOOK}" in bad(run_here(*words, "--plan"))
        wide = json.dumps({OTHER: str(foreign)})
        said = bad(run_here("run", TINY, "-w", workspace.root, "--set", f"saes={wide}"))
        assert "expects activations of width 160, the hookpoint gives 96" in said
        assert workspace.folders() == before

    def test_mistakes(self, workspace: Workspace, foreign: Path, tmp_path: Path) -> None:
        before = workspace.folders()
        assert "expects activations of width 160, the hookpoint gives 96" in bad(
            sae(workspace, "import", foreign, "--hookpoint", OTHER)
        )
        assert f"did you mean '{HOOK}'" in bad(sae(workspace, "import", foreign, "--hookpoint", HOOK + "1"))
        assert "no such folder" in bad(sae(workspace, "import", tmp_path / "none"))
        assert "architecture 'x'" in bad(sae(workspace, "import", _with(foreign, architecture="x")))
        assert "no such model" in bad(sae(workspace, "import", foreign, "--model", "./none"))
        assert workspace.folders() == before

    def test_where_nothing_was_run_the_model_is_named(self, tmp_path: Path, foreign: Path) -> None:
        root = tmp_path / "new"
        assert "is not a workspace" in bad(run_here("sae", "import", foreign, "-w", root))
        assert "saeuron sae info sae_v2_" in good(run_here("sae", "import", foreign, "--model", "canvas", "-w", root))
        assert len(Workspace.open(root, create=False).artifacts("sae")) == 1


def mkdir(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _with(folder: Path, **fields: Any) -> Path:
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


class TestExport:
    def test_it_reads_as_what_it_was(self, workspace: Workspace, trained: str, tmp_path: Path) -> None:
        for format in ("saeuron", "saelens"):
            out = tmp_path / format
            text = good(sae(workspace, "export", trained, "--format", format, "--out", out))
            assert all(f"wrote {p}" in text for p in out.rglob("*") if p.is_file())
            found = read(out / HOOK)
            assert found.format == format and found.sae.info == some_sae().info
            assert content(found.sae) == content(some_sae())
            # Once more, over itself.
            assert good(sae(workspace, "export", trained, "--format", format, "--out", out)) == text

    def test_the_card_says_where_it_comes_from(self, workspace: Workspace, trained: str, tmp_path: Path) -> None:
        sae(workspace, "export", HOOK, "--format", "saelens", "--out", tmp_path / "out")
        card = (tmp_path / "out" / "README.md").read_text()
        front = yaml.safe_load(card.split("---\n")[1])
        assert front["library_name"] == "sae_lens" and "arxiv:2501.18052" in front["tags"]
        for words in (
            trained, HOOK, "`canvas20` (content 0123456789abcdef0123)", "batch_topk", "| width D | 160 |", "0.2500",
            "12.50%", "7.50", "saeuron run run.yaml --workspace DIR", f'SAE.load_from_disk("{HOOK}")', "| rows | 300 |",
            "| half of the guidance batch | conditional |", "steps: 30", "arXiv 2501.18052", "## Limits",
            "Its model is canvas20, a small pipeline", "do not carry over to Stable Diffusion",
        ):  # fmt: skip
            assert words in card, words
        assert str(tmp_path) not in card
        config = load(str(tmp_path / "out" / "run.yaml"))
        assert config == runs.remembered(workspace)

    def test_a_configuration_that_is_gone_is_not_made_up(self, workspace: Workspace, tmp_path: Path) -> None:
        runs.remember(workspace, load(str(TINY), ["train.steps=31"]))
        sae(workspace, "export", HOOK, "--format", "saeuron", "--out", tmp_path / "out")
        card = (tmp_path / "out" / "README.md").read_text()
        assert "no longer holds the configuration" in card and "steps: 30" in card
        assert not (tmp_path / "out" / "run.yaml").exists()

    def test_of_an_imported_one(self, workspace: Workspace, foreign: Path, tmp_path: Path) -> None:
        folder = _with(foreign, apply_b_dec_to_input=False)
        name = json.loads(sae(workspace, "import", folder, "--json").out)["id"]
        good(sae(workspace, "export", name, "--format", "saeuron", "--out", tmp_path / "out"))
        card = (tmp_path / "out" / "README.md").read_text()
        assert f"saeuron sae import foreign --hookpoint {HOOK}" in card and str(tmp_path) not in card
        assert "W_enc b_dec is added to b_enc" in card and "not measured here" in card

    def test_from_a_folder_under_another_name(self, workspace: Workspace, foreign: Path, tmp_path: Path) -> None:
        words = ("export", foreign, "--format", "saeuron", "--out", tmp_path / "out", "--hookpoint", OTHER)
        good(sae(workspace, *words))
        assert read(tmp_path / "out" / OTHER).sae.info == replace(some_sae(1).info, hookpoint=OTHER)

    @pytest.mark.parametrize("hookpoint", ["../../outside", "..", "{tmp}/outside"])
    def test_nothing_is_written_beside_out(
        self, workspace: Workspace, foreign: Path, tmp_path: Path, hookpoint: str
    ) -> None:
        hookpoint, out = hookpoint.format(tmp=tmp_path), mkdir(tmp_path / "a") / "out"
        before = sorted(tmp_path.rglob("*"))
        named = _with(foreign, metadata={"hook_name": hookpoint})
        words = ("--format", "saeuron", "--out", out)
        assert "expected a module's dotted name" in bad(sae(workspace, "export", named, *words))
        assert "expected a module's dotted name" in bad(
            sae(workspace, "export", HOOK, *words, "--hookpoint", hookpoint)
        )
        imported = read(foreign, HOOK)
        imported.sae.info = replace(imported.sae.info, hookpoint=hookpoint)
        with pytest.raises(BadSAE, match="cannot be a folder in"):
            export(workspace.root, Found("it", imported), "saeuron", out)
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_link_in_out_is_not_followed(self, workspace: Workspace, trained: str, tmp_path: Path) -> None:
        out, outside = mkdir(tmp_path / "out"), mkdir(tmp_path / "outside")
        (out / HOOK).symlink_to(outside)
        assert "cannot be a folder in" in bad(sae(workspace, "export", trained, "--format", "saeuron", "--out", out))
        assert not list(outside.iterdir()) and list(out.iterdir()) == [out / HOOK]

    def test_out_may_be_a_link_itself(self, workspace: Workspace, trained: str, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(mkdir(tmp_path / "elsewhere"))
        good(sae(workspace, "export", trained, "--format", "saeuron", "--out", tmp_path / "link"))
        assert read(tmp_path / "elsewhere" / HOOK).sae.info == some_sae().info

    def test_refused(self, workspace: Workspace, trained: str, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert "top-k SAEs only" in bad(sae(workspace, "export", trained, "--format", "sparsify", "--out", out))
        assert not out.exists()
        out.mkdir()
        (out / "mine.txt").write_text("mine")
        assert "holds other things (mine.txt)" in bad(
            sae(workspace, "export", trained, "--format", "saelens", "--out", out)
        )
        assert [p.name for p in out.iterdir()] == ["mine.txt"]
        (out / "mine.txt").rename(out / "README.md")
        assert "holds other things (README.md)" in bad(
            sae(workspace, "export", trained, "--format", "saelens", "--out", out)
        )
        (out / "README.md").unlink()
        good(sae(workspace, "export", trained, "--format", "saelens", "--out", out))
        assert "holds other things (sae_weights.safetensors)" in bad(
            sae(workspace, "export", trained, "--format", "saeuron", "--out", out)
        )
        assert "did you mean" in bad(sae(workspace, "export", HOOK[1:], "--format", "saelens", "--out", out))
