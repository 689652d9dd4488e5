from dataclasses import replace

import pytest
import torch

from saeuron.checkpoint import load_tensors, save_tensors
from saeuron.errors import BadWeights
from saeuron.methods.removal import Removal
from saeuron.methods.saeuron import build_edit
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
    removal = Removal(
        "c", "d", "saeuron", {}, (build_edit(random_sae(width=width, n=n), random_profile(n=n), 3, -1.0),)
    )
    removal.save(tmp_path / "r")
    # 4 steps select at most 12 latents: an encoder and a decoder row each, of 4096 in the SAE.
    assert (tmp_path / "r").stat().st_size < 12 * 2 * width * 4 + 4000


def test_edits_that_share_an_sae_can_be_saved(tmp_path):
    edit = replace(build_edit(random_sae(), random_profile(), 5, -2.0), half="conditional")
    Removal("c", "d", "saeuron", {}, (edit, replace(edit, half="unconditional"))).save(tmp_path / "r")
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


@pytest.mark.parametrize(("format", "todo"), [(5, "update saeuron"), (3, "make it again with `saeuron run`")])
def test_another_format_is_refused(tmp_path, format, todo):
    example().save(tmp_path / "r")
    tensors, metadata = load_tensors(tmp_path / "r")
    save_tensors(tmp_path / "r", tensors, {**metadata, "format": format})
    with pytest.raises(BadWeights, match=f"has removal format {format}, this version reads 4; {todo}"):
        Removal.load(tmp_path / "r")
