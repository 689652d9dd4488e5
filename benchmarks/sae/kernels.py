"""The kernels in Triton one by one, at the shape of a full-size step (D 1280, N 20480, k 32, batch 4096).

    python -m benchmarks.sae.kernels --compile     # needs no GPU: what the compiler makes of them for a Hopper GPU
    python -m benchmarks.sae.kernels               # needs one: how long each takes

--compile says for each kernel how many registers a thread takes, how many bytes of local memory (what spills), and how
many of its loads are 16 bytes wide. Times are medians, beside what torch's own operators take for the same, and the
share of a kernel's time in which a copy would have moved the bytes it cannot do without.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import Figure, parser, show
from saeuron.sae.config import SAEConfig
from saeuron.sae.ranks import ALONE
from saeuron.sae.sparse import TORCH, Pattern
from saeuron.sae.update import TritonUpdate, Update
from saeuron.sae.variants import make

HOPPER = 90
"""Compute capability 9.0."""
_TYPES = {"pairs": "i32", "bags": "i32", "rows": "i32", "width": "i32", "k": "i32", "size": "i32"}
_FLOATS = ("rate", "root", "gain1", "beta2", "gain2", "epsilon")
_INDICES = ("latents", "starts")


def main() -> None:
    """Compile or measure; print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--compile", action="store_true", help="resources, without a GPU")
    arguments.add_argument("--width", type=int, default=1280, metavar="D")
    arguments.add_argument("--latents", type=int, default=20480, metavar="N")
    arguments.add_argument("--k", type=int, default=32)
    arguments.add_argument("--batch", type=int, default=4096)
    options = arguments.parse_args()
    if options.compile:
        figures = resources(options.width)
    elif torch.cuda.is_available():
        figures = times(options.width, options.latents, options.k, options.batch)
    else:
        arguments.error(
            "there is no GPU here; what can be said without one: python -m benchmarks.sae.kernels --compile"
        )
    show(figures, options.json)


def resources(width: int) -> list[Figure]:
    """Registers, local memory and wide loads of every kernel, for tables of float32 and bfloat16."""
    from saeuron.sae import triton_kernels as kernels

    block = 1 << (width - 1).bit_length()
    figures: list[Figure] = []
    for half in ("fp32", "bf16"):
        for places in ("i32", "i64"):
            figures += _compiled(
                kernels._bags, {"table": half, "indices": places}, {"PAIRS": 8, "BLOCK": min(512, block)}
            )
            figures += _compiled(
                kernels._dots, {"right": half, "latents": places}, {"PAIRS": 16, "BLOCK": min(256, block)}
            )
        figures += _compiled(kernels._largest, {"pre": half, "indices": "i32"}, {"GROUPS": 64, "EACH": 64})
    # The gradient of b_enc, the second stage of a row's largest, and parameters without unit rows or of one dimension.
    figures += _compiled(kernels._bags, {"table": "fp32", "indices": "i64"}, {"PAIRS": 8, "BLOCK": 1, "width": 1})
    figures += _compiled(kernels._largest, {"pre": "fp32", "indices": "i32"}, {"GROUPS": 32, "EACH": 8})
    for unit in (True, False):
        figures += _compiled(kernels._project, {}, {"UNIT": unit, "BLOCK": block})
        figures += _compiled(kernels._adam, {}, {"UNIT": unit, "BLOCK": block})
    figures += _compiled(kernels._adam, {}, {"UNIT": False, "BLOCK": 1024})
    return figures


def _compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> list[Figure]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, aligned = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in _TYPES or name in _FLOATS:
            signature[name] = _TYPES.get(name, "fp32")
        else:
            signature[name] = "*" + types.get(name, "i64" if name in _INDICES or name == "indices" else "fp32")
        if signature[name].startswith("*") or (signature[name] == "i32" and name in ("width", "size")):
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", HOPPER, 32), options={"num_warps": 4})
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        said = [subprocess.check_output([tool, how, file.name], text=True) for how in ("-res-usage", "-sass")]
    loads = len(re.findall(r"\bLDG", said[1]))
    way = ", ".join([*(types.values() or ["fp32"]), *(f"{k} {v}" for k, v in constants.items())])
    name = f"{kernel.__name__.strip('_')} ({way})"
    registers, spilled = (int(re.findall(rf"{what}:(\d+)", said[0])[-1]) for what in ("REG", "STACK"))
    return [
        Figure(f"{name}: registers", registers, "a thread", 255, registers / 255),
        Figure("  spilled", spilled, "bytes"),
        Figure("  loads of 16 bytes", len(re.findall(r"LDG\.E\S*\.128", said[1])), "of all", loads),
    ]


def times(width: int, latents: int, k: int, batch: int) -> list[Figure]:
    """Every kernel beside torch's operators, and the rate of a copy."""
    from triton.testing import do_bench

    from saeuron.sae.triton_kernels import TRITON

    def took(call: Callable[[], Any]) -> float:
        return float(do_bench(call, return_mode="median"))

    torch.manual_seed(0)
    device = "cuda"
    big = torch.empty(1 << 29, device=device)
    rate = 2 * 4 * (1 << 28) / took(lambda: big[: 1 << 28].copy_(big[1 << 28 :]))
    pre = torch.randn(batch, latents, device=device)
    places = TRITON.row_top_k(pre, k)[1].flatten()
    pattern = Pattern(torch.arange(batch, device=device).repeat_interleave(k), places, (batch, latents))
    long = places.long()
    alike = Pattern(pattern.rows, long, pattern.shape)
    order, starts = pattern.by_latent
    rows, values = pattern.rows[order], torch.randn(batch * k, device=device)
    x, W = torch.randn(batch, width, device=device), torch.randn(latents, width, device=device)
    half, rounded = W.bfloat16(), pre.bfloat16()
    pairs, weights = batch * k * width, latents * width
    figures = [Figure("copy, read and written", rate / 1e6, "GB/s")]
    cases: list[tuple[str, Callable[[], Any], Callable[[], Any], float]] = [
        ("row top k, bf16", lambda: TRITON.row_top_k(rounded, k), lambda: TORCH.row_top_k(rounded, k), 2 * pre.numel()),
        ("row top k, fp32", lambda: TRITON.row_top_k(pre, k), lambda: TORCH.row_top_k(pre, k), 4 * pre.numel()),
        *(
            case
            for name, table, size in (("bf16", half, 2), ("fp32", W, 4))
            for case in (
                (
                    f"decode, {name}",
                    lambda table=table: TRITON.bags(table, places, pattern.row_starts, values),
                    lambda: TORCH.bags(W, long, pattern.row_starts, values),
                    size * min(pairs, weights) + 4 * x.numel(),
                ),
                (
                    f"gradient of the values, {name}",
                    lambda table=table: TRITON.dots(pattern, x, table),
                    lambda: TORCH.dots(alike, x, W),
                    size * min(pairs, weights) + 4 * x.numel(),
                ),
            )
        ),
        (
            "gradient of a weight matrix",
            lambda: TRITON.bags(x, rows, starts, values),
            lambda: TORCH.bags(x, rows, starts, values),
            4 * (weights + x.numel()),
        ),
    ]
    config = SAEConfig(variant="topk", expansion=latents // width, k=k, batch=batch)
    ours, reference = ((make(config, width).to(device)) for _ in range(2))
    for variant in (ours, reference):
        for parameter in variant.parameters():
            parameter.grad = torch.randn_like(parameter)
    updates = TritonUpdate(ours, config, ALONE), Update(reference, config, ALONE)
    cases.append(("update", lambda: updates[0].step(1e-4), lambda: updates[1].step(1e-4), 28 * 2 * weights))
    for name, ours_call, theirs, size in cases:
        a, b = took(ours_call), took(theirs)
        figures += [
            Figure(f"{name} (baseline: torch)", a, "ms", b, a / b),
            Figure("  share of a copy's rate", size / rate / a, "ratio"),
        ]
    return figures


if __name__ == "__main__":
    main()
