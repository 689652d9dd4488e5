"""The network of published Frechet distances, with random weights of its layout."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from saeuron import extractors
from saeuron.errors import BadModel, ConfigError, UnknownName
from saeuron.extractors.inception import Inception, convert
from saeuron.extractors.network import Network, pixels
from tests.end_to_end.process import run_here
from tests.tiny_clip import save_tiny_clip


def weights() -> dict[str, torch.Tensor]:
    """Random weights that keep activations alive through all layers."""
    draws = torch.Generator().manual_seed(0)
    found = {}
    for name, value in Network().state_dict().items():
        if name.endswith("conv.weight"):
            found[name] = torch.randn(value.shape, generator=draws) * (2 / value[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            found[name] = 0.5 + torch.rand(value.shape, generator=draws)
        elif name.endswith("tracked"):
            found[name] = value
        else:
            found[name] = 0.1 * torch.randn(value.shape, generator=draws) + name.endswith("bn.weight")
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inception")
    torch.save(weights(), folder / "inception.pth")
    return convert(folder / "inception.pth", folder / "inception.safetensors")


def pictures(side: int = 299) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    shapes = [np.stack([rows * k % 256, columns * 3 % 256, (rows + columns) // k % 256], -1) for k in (1, 2, 5)]
    return np.stack(shapes).astype(np.uint8)


# What torch-fidelity 0.4.0 gives with these weights and pictures: its and this network agreed to the last bit.
THEIRS = {
    0: [0.0, 0.0, 0.0],
    900: [0.26780465245246887, 0.2660158574581146, 0.28389328718185425],
    1500: [0.16249828040599823, 0.12027092278003693, 0.27071666717529297],
    2047: [4.251725673675537, 4.137561798095703, 5.098400592803955],
}
MEANS, SPREADS = (
    [0.9386845827102661, 0.9020940065383911, 1.0989041328430176],
    [1.2393015623092651, 1.195730209350586, 1.4560743570327759],
)


def test_features_are_those_of_torch_fidelity(file: Path) -> None:
    found = Inception(str(file)).features(pictures())
    assert found.shape == (3, 2048) and found.dtype == np.float32
    for i, values in THEIRS.items():
        np.testing.assert_allclose(found[:, i], values, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.mean(1), MEANS, rtol=1e-4)
    np.testing.assert_allclose(found.std(1), SPREADS, rtol=1e-4)


def test_against_torch_fidelity_itself(file: Path) -> None:
    theirs = pytest.importorskip("torch_fidelity", reason="needs torch-fidelity")
    network = theirs.FeatureExtractorInceptionV3("n", ["2048"], str(file.with_suffix(".pth")))
    (expected,) = network(torch.from_numpy(pictures()).permute(0, 3, 1, 2))
    np.testing.assert_allclose(Inception(str(file)).features(pictures()), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_resizing_is_pillow_s_on_float_channels() -> None:
    image = pictures(64)[0]
    (made,) = pixels(image[None]).numpy()
    for c in range(3):
        channel = Image.fromarray(image[..., c].astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(made[c], (np.clip(np.asarray(channel), 0, 255) - 128) / 128)
    assert made.min() == -1 and made.max() <= 127 / 128


def test_its_name_is_by_content(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({**load_file(file), "fc.bias": torch.ones(1008)}, other)
    mine, theirs = (extractors.create(f"inception:{each}").extractor for each in (file, other))
    assert mine != theirs and mine.endswith(", pool 2048, bicubic 299 x 299 as clean-fid")


def test_a_judge_is_an_extractor_too(tmp_path: Path) -> None:
    clip = extractors.create(f"clip:{save_tiny_clip(tmp_path / 'clip')}")
    assert "clip-" in clip.extractor and len(clip.features(pictures(32))) == 3


def test_mistakes_are_one_line(file: Path, tmp_path: Path) -> None:
    for spec, error, said in (
        ("inception", ConfigError, "needs a file of weights"),
        (
            "inception:weights.pth",
            ConfigError,
            "is no .safetensors file; make one of the checkpoint: saeuron inception",
        ),
        ("inception:none.safetensors", BadModel, "no such file: none.safetensors; make it of the published"),
        ("incepton:x", UnknownName, "did you mean 'inception'"),
        ("none", ConfigError, "the judge 'none' has no features; expected inception:FILE or clip:MODEL"),
    ):
        with pytest.raises(error, match=re.escape(said)) as found:
            extractors.create(spec)
        assert "\n" not in str(found.value)
    for change, said in (
        (lambda w: w.pop("fc.bias"), "fc.bias is none, expected [1008]"),
        (lambda w: w.update({"Conv2d_1a_3x3.bn.bias": torch.ones(3)}), "Conv2d_1a_3x3.bn.bias is [3], expected [32]"),
        (lambda w: w.update({"head": torch.ones(3)}), "it has head besides"),
    ):
        wrong = dict(load_file(file))
        change(wrong)
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(BadModel, match="is no Inception network of Frechet distances") as bad:
            Inception(str(tmp_path / "wrong.safetensors")).features(pictures(32))
        assert said in str(bad.value)


def test_converting_reads_weights_alone(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("ran",)

    torch.save({"a": Code()}, tmp_path / "code.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pth")
    for name, out, said in (
        ("code.pth", "x.safetensors", "cannot be read as weights alone"),
        ("other.pth", "x.safetensors", "is no Inception network of Frechet distances"),
        ("none.pth", "x.safetensors", "no such file"),
        ("other.pth", "x.pth", "expected a file name that ends in .safetensors"),
    ):
        done = run_here("inception", tmp_path / name, "--out", tmp_path / out)
        assert done.code == 2 and said in done.complaint and "ran" not in done.out
    assert not (tmp_path / "x.safetensors").exists()
    torch.save(weights(), tmp_path / "inception.pth")
    done = run_here("inception", tmp_path / "inception.pth", "--out", tmp_path / "inception.safetensors")
    assert done.code == 0 and "next: saeuron run --set features=inception:" in done.out.replace("'", "")
