"""Folders of SAEs for tests: what other libraries wrote, and what goes wrong with it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saeuron.errors import UserError
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.interchange import BadSAE

FIXTURES = Path(__file__).parent / "fixtures"
SAELENS, SPARSIFY = FIXTURES / "saelens", FIXTURES / "sparsify"
FOLDERS = sorted(path.parent for path in FIXTURES.rglob("cfg.json"))
HOOK = "unet.up_blocks.1.attentions.1"


def some_sae(activation="threshold", variant="batch_topk", width=6, n=20, k=3, seed=0):
    sae = SAE(SAEInfo(variant, width, n, k, HOOK, activation), seed).requires_grad_(False)
    noise = torch.Generator().manual_seed(seed)
    for tensor in sae.state_dict().values():
        tensor.normal_(generator=noise)
    if activation != "threshold":
        sae.threshold.zero_()
    return sae


def changed(tmp_path, fixture, tensors=None, weights="sae_weights.safetensors", **config):
    """A copy of a fixture, some fields of its configuration and some of its tensors changed; None takes one away."""
    folder = Path(shutil.copytree(fixture, tmp_path / "changed"))
    fields = json.loads((folder / "cfg.json").read_text()) | config
    (folder / "cfg.json").write_text(json.dumps(fields))
    if tensors:
        held = load_file(folder / weights) | tensors
        save_file({k: v.contiguous() for k, v in held.items() if v is not None}, folder / weights)
    return folder


def complaint(call, *arguments, **named):
    with pytest.raises(BadSAE) as found:
        call(*arguments, **named)
    assert isinstance(found.value, UserError)
    message = str(found.value)
    assert "\n" not in message and len(message) < 400
    return message
