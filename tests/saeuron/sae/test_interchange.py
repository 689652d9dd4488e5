"""Other libraries' folders.

What stands in `fixtures` was written by the libraries themselves, with what they compute of it; WRITTEN_BY says which
versions they were. Anew: `python -m benchmarks.sae.interchange --fixtures tests/saeuron/fixtures`
"""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saeuron.errors import BadModel, UnknownName
from saeuron.sae.autoencoder import SAE
from saeuron.sae.interchange import locate, read, write
from saeuron.sae.interchange.saelens import VERSION
from tests.saeuron.sae.folders import FOLDERS, HOOK, SAELENS, SPARSIFY, changed, complaint, some_sae


def same(a, b):
    return a.info == b.info and all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


class TestAgainstTheLibraries:
    def test_there_is_one_of_each_kind(self):
        assert {path.name for path in FOLDERS} == {
            "standard", "standard_raw", "topk", "topk_rescaled", "abstopk", "jumprelu", "gated", "gated_raw",
            "batchtopk", "batchtopk_checkpoint", "batchtopk_scaled", "batchtopk_scaled_checkpoint", "topk_expansion",
        }  # fmt: skip
        assert (SAELENS / "WRITTEN_BY").read_text().startswith(f"sae-lens {VERSION},")

    @pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: f"{p.parent.name}-{p.name}")
    def test_latents_and_reconstruction_equal_those_of_the_other_library(self, folder):
        expected = load_file(folder / "expected.safetensors")
        sae = read(folder).sae
        latents = sae.encode(expected["x"])
        if folder.name == "abstopk":
            positive, negative = latents.chunk(2, dim=1)
            assert ((positive != 0) & (negative != 0)).sum() == 0
            assert (expected["latents"] < 0).any()
            latents = positive - negative
        active = (expected["latents"] != 0).float().mean()
        assert 0.05 < active < 0.7
        assert torch.equal(latents != 0, expected["latents"] != 0)
        for found, theirs in ((latents, expected["latents"]), (sae(expected["x"]), expected["x_hat"])):
            assert (found - theirs).abs().max() <= 1e-5 * theirs.abs().max()

    @pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: f"{p.parent.name}-{p.name}")
    def test_read_again_from_each_format_it_fits_it_is_the_same(self, folder, tmp_path):
        sae = read(folder, HOOK).sae
        for format in ("saeuron", "saelens", *(["sparsify"] if sae.info.activation == "topk" else [])):
            write(sae, tmp_path / format, format)
            again = read(tmp_path / format, HOOK).sae
            # sparsify has a name for one variant alone.
            assert same(sae, again) or (format == "sparsify" and same(sae, _named(again, sae.info.variant)))

    def test_the_training_variant_is_read_from_saelens_metadata(self):
        info = read(SAELENS / "batchtopk").sae.info
        assert (info.variant, info.k, info.activation) == ("batch_topk", 4, "threshold")

    def test_notes_list_every_conversion(self):
        notes = " ".join(read(SAELENS / "topk_rescaled").notes)
        assert "0.37" in notes and "norms" in notes and "b_dec" in notes
        assert (
            "gate" in read(SAELENS / "gated").notes[0] and "f- is latent 24 + i" in read(SAELENS / "abstopk").notes[1]
        )
        assert read(SAELENS / "topk").notes == ()


def _named(sae, variant):
    sae.info = replace(sae.info, variant=variant)
    return sae


class TestRoundTrips:
    @pytest.mark.parametrize("activation", ["topk", "threshold"])
    def test_through_saelens(self, activation, tmp_path):
        sae = some_sae(activation)
        write(sae, tmp_path, "saelens", "canvas")
        assert same(sae, read(tmp_path).sae)
        config = json.loads((tmp_path / "cfg.json").read_text())
        assert config["architecture"] == {"topk": "topk", "threshold": "jumprelu"}[activation]
        assert (config["d_in"], config["d_sae"], config["apply_b_dec_to_input"]) == (6, 20, True)
        assert (config["metadata"]["model_name"], config["metadata"]["hook_name"]) == ("canvas", HOOK)
        assert load_file(tmp_path / "sae_weights.safetensors")["W_enc"].shape == (6, 20)

    def test_through_sparsify(self, tmp_path):
        sae = some_sae("topk", "topk")
        write(sae, tmp_path / HOOK, "sparsify")
        assert same(sae, read(tmp_path / HOOK, HOOK).sae)
        assert locate(str(tmp_path / HOOK)).hookpoint == HOOK
        config = json.loads((tmp_path / HOOK / "cfg.json").read_text())
        assert (config["d_in"], config["num_latents"], config["k"], config["activation"]) == (6, 20, 3, "topk")
        assert config["normalize_decoder"] is False

    @pytest.mark.parametrize("activation", ["topk", "threshold", "top_afa"])
    def test_our_own_format_reads_as_written(self, activation, tmp_path):
        sae = some_sae(activation)
        write(sae, tmp_path, "saeuron")
        found = read(tmp_path)
        assert same(sae, found.sae) and (found.format, found.dtype) == ("saeuron", "float32")
        assert found.bytes == (tmp_path / "sae.safetensors").stat().st_size
        assert read(tmp_path, "unet.mid_block").sae.info.hookpoint == "unet.mid_block"

    @pytest.mark.parametrize(
        ("activation", "format", "words"),
        [
            ("threshold", "sparsify", "top-k SAEs only"),
            ("top_afa", "sparsify", "export it as saeuron"),
            ("top_afa", "saelens", "top-AFA"),
        ],
    )
    def test_an_sae_that_a_format_cannot_express_is_not_written(self, activation, format, words, tmp_path):
        assert words in complaint(write, some_sae(activation), tmp_path / "out", format)
        assert not (tmp_path / "out").exists()

    def test_an_unknown_format(self, tmp_path):
        with pytest.raises(UnknownName, match="did you mean 'saelens'"):
            write(some_sae(), tmp_path, "sae_lens")


class TestSAELens:
    def test_a_configuration_from_before_version_6(self, tmp_path):
        old = {"architecture": None, "metadata": None, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
        old |= {"hook_point": "blocks.1.hook_mlp_out", "normalize_activations": False, "k": None}
        folder = changed(tmp_path, SAELENS / "topk", {"scaling_factor": torch.ones(24)}, **old)
        fields = json.loads((folder / "cfg.json").read_text())
        (folder / "cfg.json").write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
        found, new = read(folder).sae, read(SAELENS / "topk", "blocks.1.hook_mlp_out").sae
        assert same(found, new)

    def test_bfloat16_is_read_as_the_numbers_it_holds(self, tmp_path):
        held = load_file(SAELENS / "standard" / "sae_weights.safetensors")
        rounded = {name: value.bfloat16() for name, value in held.items()}
        found = read(changed(tmp_path, SAELENS / "standard", rounded))
        assert found.dtype == "bfloat16"
        assert found.sae.W_enc.dtype == torch.float32
        assert torch.equal(found.sae.W_enc, held["W_enc"].T.bfloat16().float())

    def test_the_scale_is_found_or_given_or_asked_for(self, tmp_path):
        folder = changed(tmp_path, SAELENS / "jumprelu")
        beside = read(folder).sae
        (folder / "activation_scaler.json").unlink()
        assert "give it with --scale" in complaint(read, folder)
        assert same(read(folder, scale=0.37).sae, beside)
        assert not torch.equal(read(folder, scale=1.0).sae.W_enc, beside.W_enc)
        assert "positive" in complaint(read, folder, scale=-1.0)
        assert "takes no scale" in complaint(read, SAELENS / "topk", scale=2.0)

    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ({"architecture": "transcoder"}, "architecture 'transcoder'"),
            ({"architecture": "temporal"}, "architecture 'temporal'"),
            ({"normalize_activations": "layer_norm"}, "divides each row by its own deviation"),
            ({"normalize_activations": "constant_norm_rescale"}, "divides each row by its own norm"),
            ({"normalize_activations": "covariance_whitening"}, "whitened"),
            ({"normalize_activations": "sphere"}, "is not known"),
            ({"reshape_activations": "hook_z"}, "attention heads"),
            ({"activation_fn": "tanh-relu"}, "activation_fn 'tanh-relu'"),
            ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor"),
            ({"d_in": "eight"}, "d_in 'eight'"),
            ({"d_in": 9}, "W_enc has shape [8, 24], but its cfg.json says [9, 24]"),
            ({"k": 25}, "k 25 of 24 latents"),
            ({"k": None}, "k None"),
            ({"k": float("inf")}, "k inf"),
        ],
    )
    def test_refused(self, config, words, tmp_path):
        assert words in complaint(read, changed(tmp_path, SAELENS / "topk", **config))

    @pytest.mark.parametrize(
        ("tensors", "words"),
        [
            ({"W_dec": None}, "holds no W_dec; expected the tensors W_enc, W_dec, b_dec, b_enc"),
            ({"W_skip": torch.zeros(8, 8)}, "an unknown W_skip"),
            ({"scaling_factor": torch.full((24,), 2.0)}, "an unknown scaling_factor"),
            ({"b_enc": torch.zeros(23)}, "b_enc has shape [23]"),
            ({"b_dec": torch.full((8,), torch.nan)}, "b_dec holds NaN"),
        ],
    )
    def test_weights_that_do_not_fit(self, tensors, words, tmp_path):
        assert words in complaint(read, changed(tmp_path, SAELENS / "topk", tensors))

    def test_a_gain_beyond_float32(self, tmp_path):
        folder = changed(tmp_path, SAELENS / "gated", {"r_mag": torch.full((24,), 100.0)})
        assert "exceed the range of float32" in complaint(read, folder)


class TestSparsify:
    def test_saeurons_own_folder_loses_its_batch_and_says_so(self, tmp_path):
        more = {"batch_topk": True, "sample_topk": False, "input_unit_norm": False}
        found = read(changed(tmp_path, SPARSIFY / "topk", **more))
        assert (found.sae.info.variant, found.sae.info.activation, found.sae.info.k) == ("batch_topk", "topk", 4)
        assert "each row keeps its k largest" in found.notes[0]

    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ({"activation": "groupmax"}, "activation 'groupmax'"),
            ({"transcode": True}, "transcoder"),
            ({"skip_connection": True}, "skip connection"),
            ({"signed": True}, "signed"),
            ({"sample_topk": True}, "whole image"),
            ({"input_unit_norm": True}, "its own mean"),
            ({"num_latents": 0, "expansion_factor": 4}, "encoder.weight has shape [24, 8], but its cfg.json says [32"),
            ({"num_latents": -24}, "num_latents -24"),
            ({"k": 100}, "k 100 of 24"),
            ({"k": 2.5}, "k 2.5"),
        ],
    )
    def test_refused(self, config, words, tmp_path):
        assert words in complaint(read, changed(tmp_path, SPARSIFY / "topk", **config))

    def test_a_skip_connection_is_seen_in_the_weights_too(self, tmp_path):
        folder = changed(tmp_path, SPARSIFY / "topk", {"W_skip": torch.zeros(8, 8)}, "sae.safetensors")
        assert "an unknown W_skip" in complaint(read, folder)


class TestDamage:
    @pytest.fixture(params=["saeuron", "sparsify", "saelens"])
    def folder(self, request, tmp_path):
        write(some_sae("topk"), tmp_path / "sae", request.param)
        return tmp_path / "sae"

    def weights(self, folder):
        return next(folder.glob("*.safetensors"))

    def test_weights_cut_short(self, folder):
        path = self.weights(folder)
        path.write_bytes(path.read_bytes()[:-40])
        assert "not a readable safetensors file" in complaint(read, folder)

    def test_a_pickle_under_the_name_of_weights_is_not_opened(self, folder):
        class Trap:
            def __reduce__(self):
                return (Path.touch, (folder / "opened",))

        self.weights(folder).write_bytes(pickle.dumps(Trap()))
        assert "not a readable safetensors file" in complaint(read, folder)
        assert not (folder / "opened").exists()

    def test_numbers_that_are_none(self, folder):
        path = self.weights(folder)
        held = load_file(path)
        held["W_dec"][0, 0] = torch.inf
        metadata = None
        if (folder / "cfg.json").read_text().count("n_latents"):
            metadata = {"json": (folder / "cfg.json").read_text()}
        save_file(held, path, metadata)
        assert "W_dec holds NaN or infinity" in complaint(read, folder)

    @pytest.mark.parametrize(("text", "words"), [("{", "is not JSON"), ("[1]", "holds list"), (None, "cfg.json")])
    def test_the_configuration(self, folder, text, words):
        (folder / "cfg.json").unlink()
        if text is not None:
            (folder / "cfg.json").write_text(text)
        assert words in complaint(read, folder)

    def test_tensors_of_another_size_than_ours_say(self, tmp_path):
        write(some_sae(), tmp_path, "saeuron")
        held = load_file(tmp_path / "sae.safetensors")
        save_file(
            held | {"b_enc": torch.zeros(3)},
            tmp_path / "sae.safetensors",
            {"json": (tmp_path / "cfg.json").read_text()},
        )
        assert "does not hold an SAE" in complaint(read, tmp_path)

    def test_no_weights_at_all(self, tmp_path):
        (tmp_path / "cfg.json").write_text("{}")
        assert "holds no SAE: expected cfg.json with" in complaint(read, tmp_path)


class TestLocate:
    def test_pickles_are_refused_with_the_way_out(self, tmp_path):
        path = tmp_path / "ae.pt"
        path.write_bytes(pickle.dumps({}))
        for source in (path, tmp_path):
            message = complaint(locate, str(source))
            assert "pickle" in message and "save it as safetensors" in message
        (tmp_path / "cfg.json").write_text("{}")
        assert "only as a pickle" in complaint(read, locate(str(tmp_path)).path)

    def test_a_file_stands_for_its_folder(self):
        assert locate(str(SAELENS / "topk" / "sae_weights.safetensors")).path == SAELENS / "topk"

    def test_of_many_the_one_that_the_hookpoint_names(self, tmp_path):
        for name in (HOOK, "unet.mid_block"):
            write(some_sae("topk"), tmp_path / "run" / name, "sparsify")
        assert locate(str(tmp_path), HOOK).path == tmp_path / "run" / HOOK
        write(some_sae("topk"), tmp_path / "run" / "coco" / HOOK, "sparsify")
        assert locate(str(tmp_path), HOOK).path == tmp_path / "run" / HOOK
        shutil.rmtree(tmp_path / "run" / "coco")
        message = complaint(locate, str(tmp_path), "unet.other")
        assert "holds 2 SAEs" in message and f"{tmp_path}/run/unet.mid_block" in message
        shutil.rmtree(tmp_path / "run" / HOOK)
        assert locate(str(tmp_path)).hookpoint == "unet.mid_block"

    def test_nothing_there(self, tmp_path):
        assert "no such folder" in complaint(locate, str(tmp_path / "none"))
        assert "no such folder" in complaint(locate, "owner/name.pt")
        assert "holds no cfg.json" in complaint(locate, str(tmp_path))

    def test_a_folder_of_other_things_is_not_read_to_its_end(self, tmp_path, monkeypatch):
        for name in ("a/b/c", "d"):
            (tmp_path / name).mkdir(parents=True)
        monkeypatch.setattr("saeuron.sae.interchange.source._MOST", 4)
        assert "holds no cfg.json" in complaint(locate, str(tmp_path))
        (tmp_path / "d" / "file").touch()
        said = complaint(locate, str(tmp_path))
        assert "holds too much to look for an SAE (over 4 files); expected the folder of one, with cfg.json" in said


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that holds two SAEs in one repository; what is asked of it is written down."""
    import huggingface_hub

    there, cache = tmp_path / "there", tmp_path / "snapshots" / ("0" * 40)
    for name in (HOOK, "coco/unet.mid_block"):
        write(some_sae("topk", "topk"), there / name, "sparsify")
    (there / HOOK / "trap.pt").write_bytes(b"")
    asked = []

    def download(repo, revision, allow_patterns):
        from fnmatch import fnmatch

        asked.append((repo, revision, allow_patterns))
        cache.mkdir(parents=True, exist_ok=True)
        for path in (p for p in there.rglob("*") if p.is_file()):
            name = path.relative_to(there)
            if any(fnmatch(name.as_posix(), pattern) for pattern in allow_patterns):
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, cache / name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_paths_may_be_text(tmp_path):
    sae = some_sae("topk", "topk")
    sae.save(str(tmp_path / "a"))
    write(sae, str(tmp_path / "b"), "saelens")
    assert same(SAE.load(str(tmp_path / "a")), sae) and same(read(str(tmp_path / "b"), HOOK).sae, sae)


class TestHub:
    def test_a_subfolder(self, hub):
        found = locate(f"owner/name:{HOOK}")
        assert found.revision == "0" * 40 and found.hookpoint == HOOK
        assert same(read(found.path, HOOK).sae, some_sae("topk", "topk"))
        ((repo, revision, patterns),) = hub
        assert (repo, revision) == ("owner/name", None)
        assert all(p.startswith(f"{HOOK}/") and p.endswith((".json", ".safetensors")) for p in patterns)

    def test_the_hookpoint_picks_one_before_its_weights_are_fetched(self, hub):
        found = locate("owner/name", "unet.mid_block")
        assert found.path.parent.name == "coco"
        assert hub[0][2] == ["*cfg.json"] and "coco/unet.mid_block/sae.safetensors" in hub[1][2]
        assert not list(found.path.parents[1].rglob(f"{HOOK}/*.safetensors"))
        assert not list(found.path.parents[1].rglob("*.pt"))

    def test_several_are_listed(self, hub):
        for source in ("owner/name", "owner/name@v1"):
            message = complaint(locate, source)
            assert "holds 2 SAEs" in message and f"as in {source}:coco/unet.mid_block" in message
        assert len(hub) == 2

    @pytest.mark.parametrize("revision", ["v1.2", "refs/pr/21", "0f1e2d3c", "feature/a+b"])
    def test_a_revision(self, hub, revision):
        inner = locate(f"owner/name@{revision}:{HOOK}")
        assert inner.hookpoint == HOOK and same(read(inner.path, HOOK).sae, some_sae("topk", "topk"))
        # What it is asked for is remembered as the commit that the hub gave.
        assert inner.revision == "0" * 40
        assert locate(f"owner/name@{revision}", HOOK).path == inner.path
        assert {asked[:2] for asked in hub} == {("owner/name", revision)} and len(hub) == 3

    def test_a_mistaken_revision(self, hub):
        for source in ("owner/name@", "owner/name@:inner"):
            with pytest.raises(BadModel, match=r"no revision after @ in 'owner/name@'; expected owner/name@revision"):
                locate(source)
        for source in ("owner/name@v1@v2", "owner/name:inner@v1", "name@v1", "owner/name@v 1"):
            assert "expected a folder with cfg.json, or owner/name[@revision][:subfolder]" in complaint(locate, source)
        assert "holds no cfg.json; expected a folder of" in complaint(locate, "owner/name@v1:none")
        assert len(hub) == 1

    def test_a_folder_may_have_an_at_in_its_name(self, hub, tmp_path):
        write(some_sae("topk", "topk"), tmp_path / "owner@v1" / HOOK, "sparsify")
        assert locate(str(tmp_path / "owner@v1")).hookpoint == HOOK and hub == []

    def test_a_subfolder_that_is_not_there(self, hub):
        assert "holds no cfg.json" in complaint(locate, "owner/name:none")

    def test_offline_it_is_one_line(self):
        message = complaint(locate, "owner/name:inner")
        assert message.startswith("cannot fetch SAE 'owner/name' from the hub, and it is not a folder here: ")
