from dataclasses import replace

import pytest
import torch

from saeuron.checkpoint import load_tensors, save_tensors
from saeuron.errors import BadWeights
from saeuron.methods.saeuron import Removal, build_edit
from tests.saeuron.methods.removals import VARIANTS, assert_same_edit, example, random_profile, random_sae, rows


@pytest.mark.parametrize("variant", VARIANTS)
def test_saving_and_loading_keeps_every_bit(tmp_path, variant):
    removal = example(variant)
    removal.save(tmp_path / "one.safetensors")
    again = Removal.load(tmp_path / "one.safetensors")
    assert (again.concept, again.domain, again.provenance) == ("neon", "style", removal.provenance)
    assert len(again.edits) == 2
    for one, two in zip(removal.edits, again.edits, strict=True):
        assert_same_edit(one, two)
        assert torch.equal(one.delta(rows(), 700), two.delta(rows(), 700))
    again.save(str(tmp_path / "two.safetensors"))
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_removal_is_a_file_of_its_rows(tmp_path):
    width, n = 64, 4096
    removal = Removal("c", "d", (build_edit(random_sae(width=width, n=n), random_profile(n=n), 3, -1.0),))
    removal.save(tmp_path / "r")
    # 4 steps select at most 12 latents: an encoder and a decoder row each, of 4096 in the SAE.
    assert (tmp_path / "r").stat().st_size < 12 * 2 * width * 4 + 4000


def test_edits_that_share_an_sae_can_be_saved(tmp_path):
    edit = replace(build_edit(random_sae(), random_profile(), 5, -2.0), half="conditional")
    Removal("c", "d", (edit, replace(edit, half="unconditional"))).save(tmp_path / "r")
    one, two = Removal.load(tmp_path / "r").edits
    assert (one.half, two.half) == ("conditional", "unconditional")
    assert_same_edit(one, replace(two, half="conditional"))


def test_files_that_are_no_removal_are_refused(tmp_path):
    random_sae().save(tmp_path)
    with pytest.raises(BadWeights, match="is not a removal; expected a file written by"):
        Removal.load(tmp_path / "sae.safetensors")
    (tmp_path / "text").write_text("no weights at all")
    with pytest.raises(BadWeights, match="not a readable safetensors file"):
        Removal.load(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        Removal.load(tmp_path / "missing")


def test_a_newer_format_is_refused(tmp_path):
    example().save(tmp_path / "r")
    tensors, metadata = load_tensors(tmp_path / "r")
    save_tensors(tmp_path / "r", tensors, {**metadata, "format": 3})
    with pytest.raises(BadWeights, match="has removal format 3, this version reads 2"):
        Removal.load(tmp_path / "r")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_removal_of_format_1_edits_as_it_did(tmp_path, variant):
    sae = random_sae(variant)
    sae.threshold.fill_(0.3)
    removal = Removal("cat", "object", (build_edit(sae, random_profile(), 5, -2.0),))
    removal.save(tmp_path / "r")
    tensors, metadata = load_tensors(tmp_path / "r")
    [record] = metadata["edits"]
    del record["activation"]
    record["k"] = record["k"] if variant == "topk" else 0
    tensors["0.threshold"] = torch.tensor(0.3)
    save_tensors(tmp_path / "old", tensors, {**metadata, "format": 1})
    [old], [new] = Removal.load(tmp_path / "old").edits, removal.edits
    assert old.activation == new.activation
    assert torch.equal(old.delta(rows(), 749), new.delta(rows(), 749))
    assert old.delta(rows(), 749).abs().sum() > 0
