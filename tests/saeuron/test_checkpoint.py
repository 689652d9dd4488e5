import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from saeuron.checkpoint import load_tensors, pack_optimizer, prefixed, save_tensors, stripped, unpack_optimizer
from saeuron.errors import BadWeights

TENSORS = {
    "a": torch.randn(3, 4),
    "b": torch.arange(5),
    "half": torch.randn(2).bfloat16(),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "turned": torch.randn(4, 3).T,
    "nothing": torch.zeros(0, 3),
}
METADATA = {"step": 3, "lr": 0.1 + 0.2, "nested": {"list": [1, 2.5, None]}}


def test_tensors_and_numbers_come_back(tmp_path):
    save_tensors(tmp_path / "deep" / "er" / "x.safetensors", TENSORS, METADATA)
    tensors, metadata = load_tensors(tmp_path / "deep" / "er" / "x.safetensors")
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(tensors[name], value)


def test_the_bytes_depend_on_the_contents_alone(tmp_path):
    save_tensors(tmp_path / "one", TENSORS, METADATA)
    save_tensors(tmp_path / "two", dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    save_tensors(tmp_path / "two", TENSORS, {**METADATA, "step": 4})
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()


def test_the_bytes_are_those_of_another_process(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from saeuron.checkpoint import save_tensors;"
        "save_tensors(Path(sys.argv[1]), {n: torch.arange(4) for n in 'badc'}, {n: 1 for n in 'hgfe'})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True)
    save_tensors(tmp_path / "here", {n: torch.arange(4) for n in "badc"}, dict.fromkeys("hgfe", 1))
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_tensors_that_share_memory_are_saved_each(tmp_path):
    shared = torch.randn(3)
    save_tensors(tmp_path / "x", {"one": shared, "two": shared}, {})
    tensors, _ = load_tensors(tmp_path / "x")
    assert torch.equal(tensors["one"], shared)
    assert torch.equal(tensors["two"], shared)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    save_tensors(tmp_path / "x", TENSORS, METADATA)
    before = (tmp_path / "x").read_bytes()
    with pytest.raises(TypeError):
        save_tensors(tmp_path / "x", TENSORS, {"bad": object()})

    def full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("saeuron.files.os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        save_tensors(tmp_path / "x", {"other": torch.zeros(2)}, {})
    assert (tmp_path / "x").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_file_of_another_library_has_no_metadata(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "plain")
    save_file({"a": torch.ones(2)}, tmp_path / "tagged", metadata={"format": "pt"})
    assert load_tensors(tmp_path / "plain")[1] == load_tensors(tmp_path / "tagged")[1] == {}


@pytest.mark.parametrize("text", ["{", "[1]", "[]", "null", "[" * 100_000])
def test_metadata_that_are_no_object(tmp_path, text):
    save_file({"a": torch.zeros(1)}, tmp_path / "a", {"json": text})
    with pytest.raises(BadWeights, match="holds metadata that are not a JSON object; restore it"):
        load_tensors(tmp_path / "a")


def test_bad_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        load_tensors(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"not safetensors at all")
    with pytest.raises(BadWeights, match="not a readable safetensors file"):
        load_tensors(tmp_path / "x")


def _model(memory_format):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 1)).to(memory_format=memory_format)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_an_optimizer_goes_on_exactly_whatever_the_memory_format(tmp_path, memory_format):
    # A fused optimizer walks memory: moments in another layout than their parameter would be mixed up.
    batches = torch.randn(6, 2, 3, 5, 5, generator=torch.Generator().manual_seed(1))

    def train(model, optimizer, some):
        for x in some:
            optimizer.zero_grad()
            model(x.contiguous(memory_format=memory_format)).square().sum().backward()
            optimizer.step()

    whole, optimizer = _model(memory_format)
    train(whole, optimizer, batches)
    first, optimizer = _model(memory_format)
    train(first, optimizer, batches[:3])
    tensors = prefixed("weights", first.state_dict()) | pack_optimizer(optimizer, "adam")
    save_tensors(tmp_path / "x", tensors, {})

    tensors, _ = load_tensors(tmp_path / "x")
    second, optimizer = _model(memory_format)
    second.load_state_dict(stripped("weights", tensors))
    unpack_optimizer(optimizer, "adam", tensors)
    train(second, optimizer, batches[3:])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_prefixes_do_not_run_into_each_other():
    tensors = prefixed("a", {"x": torch.ones(1)}) | prefixed("ab", [("y", torch.zeros(1))])
    assert tensors.keys() == {"a.x", "ab.y"}
    assert stripped("a", tensors).keys() == {"x"}
    assert stripped("ab", tensors).keys() == {"y"}
