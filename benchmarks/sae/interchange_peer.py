"""The half of `benchmarks.sae.interchange` that runs in another library's environment: it knows nothing of ours.

    python -m benchmarks.sae.interchange_peer sae-lens make FOLDER WIDTH LATENTS ROWS
    python -m benchmarks.sae.interchange_peer sae-lens run FOLDER

`make` writes one folder for each kind of SAE that the library saves, by its own `save`, and beside the weights
`expected.safetensors`: rows x and what the library itself computes of them, latents and x_hat. `run` loads each folder
below FOLDER and computes the same of `rows.safetensors` there.
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

K = 4
SCALE = 0.37
"""The factor of `expected_average_only_in`."""


def rows(count: int, width: int) -> Tensor:
    """Inputs, [count, width], with a mean."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, width, generator=generator) + torch.linspace(-1, 1, width)


@torch.no_grad()
def randomise(sae: Any) -> None:
    """Every parameter a random one; decoder rows of unequal norms, thresholds that some latents pass."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in sorted(sae.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        spread = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
        parameter.copy_(noise.abs() if name == "threshold" else spread * noise)


def expect(folder: Path, x: Tensor, latents: Tensor, x_hat: Tensor) -> None:
    """Write down what the library computed."""
    found = {"x": x, "latents": latents.detach().float(), "x_hat": x_hat.detach().float()}
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / "expected.safetensors")


def lens_run(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and x_hat, by SAELens."""
    latents = sae.encode(x)
    return latents, sae.decode(latents)


def lens_make(top: Path, width: int, n: int, x: Tensor) -> None:
    """The inference classes of SAELens, and checkpoints of its BatchTopK training."""
    from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    base = {"d_in": width, "d_sae": n, "metadata": {"hook_name": "unet.mid_block"}}
    raw, scaled = {"apply_b_dec_to_input": False}, {"normalize_activations": "expected_average_only_in"}
    kinds: dict[str, dict[str, Any]] = {
        "standard": {"architecture": "standard"},
        "standard_raw": {"architecture": "standard", **raw},
        "topk": {"architecture": "topk", "k": K},
        "topk_rescaled": {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True, **raw, **scaled},
        "abstopk": {"architecture": "abstopk", "k": K, **raw},
        "jumprelu": {"architecture": "jumprelu", **scaled},
        "gated": {"architecture": "gated"},
        "gated_raw": {"architecture": "gated", **raw},
    }
    for name, kind in kinds.items():
        sae = SAE.from_dict({**base, **kind})
        randomise(sae)
        sae.save_model(top / name)
        if "normalize_activations" in kind:
            scaler(top / name)
            sae.fold_activation_norm_scaling_factor(SCALE)
        expect(top / name, x, *lens_run(sae, x))
    for name, more in (("batchtopk", {}), ("batchtopk_scaled", scaled)):
        trained = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=width, d_sae=n, k=K, **more))
        randomise(trained)
        trained.topk_threshold.fill_(0.4)
        trained.save_model(top / f"{name}_checkpoint")
        if more:
            scaler(top / f"{name}_checkpoint")
            trained.fold_activation_norm_scaling_factor(SCALE)
        # What SAELens itself makes of a checkpoint for inference.
        trained.save_inference_model(top / name)
        found = lens_run(SAE.load_from_disk(top / name), x)
        for folder in (top / f"{name}_checkpoint", top / name):
            expect(folder, x, *found)


def scaler(folder: Path) -> None:
    """The file in which SAELens keeps the factor beside a checkpoint."""
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": SCALE}))


def lens_load(folder: Path) -> Any:
    """An SAE, by SAELens."""
    from sae_lens import SAE

    return SAE.load_from_disk(folder)


def sparsify_run(sae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and x_hat, by sparsify."""
    out = sae(x)
    latents = x.new_zeros(len(x), sae.num_latents).scatter(1, out.latent_indices, out.latent_acts)
    return latents, out.sae_out


def sparsify_make(top: Path, width: int, n: int, x: Tensor) -> None:
    """The one class of sparsify, in two sizes."""
    from sparsify import SaeConfig, SparseCoder

    kinds = {"topk": SaeConfig(num_latents=n, k=K), "topk_expansion": SaeConfig(expansion_factor=2, k=2 * K)}
    for name, config in kinds.items():
        sae = SparseCoder(width, config)
        randomise(sae)
        sae.save_to_disk(top / name)
        expect(top / name, x, *sparsify_run(sae, x))


def sparsify_load(folder: Path) -> Any:
    """An SAE, by sparsify."""
    from sparsify import SparseCoder

    return SparseCoder.load_from_disk(folder)


Run = Callable[[Any, Tensor], tuple[Tensor, Tensor]]
LIBRARIES: dict[str, tuple[Callable[[Path, int, int, Tensor], None], Callable[[Path], Any], Run]] = {
    "sae-lens": (lens_make, lens_load, lens_run),
    "eai-sparsify": (sparsify_make, sparsify_load, sparsify_run),
}


@torch.no_grad()
def main() -> None:
    """Make, or run."""
    library, command, place, *sizes = sys.argv[1:]
    make, load, run = LIBRARIES[library]
    top = Path(place)
    if command == "make":
        width, n, count = map(int, sizes)
        make(top, width, n, rows(count, width))
        written = f"{library} {version(library)}, torch {torch.__version__}"
        (top / "WRITTEN_BY").write_text(written + "\n")
        return
    x = load_file(top / "rows.safetensors")["x"]
    for path in sorted(top.rglob("cfg.json")):
        expect(path.parent, x, *run(load(path.parent), x))


if __name__ == "__main__":
    main()
