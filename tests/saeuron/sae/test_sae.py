import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from saeuron.checkpoint import save_tensors
from saeuron.errors import BadWeights, WidthMismatch
from saeuron.sae.autoencoder import SAE, SAEInfo, unit_rows
from saeuron.sae.selection import kth_largest, largest, over_threshold, top_afa, top_k

VARIANTS = ("topk", "batch_topk")


def random_sae(variant="batch_topk", width=6, n=20, k=3, seed=0):
    activation = "topk" if variant == "topk" else "threshold"
    sae = SAE(SAEInfo(variant, width, n, k, "unet.mid", activation), seed)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sae.W_enc.normal_(generator=noise)
        sae.b_enc.normal_(generator=noise).mul_(0.3)
        sae.b_dec.normal_(generator=noise)
        sae.threshold.uniform_(0.2, 0.6, generator=noise)
    return sae.requires_grad_(False)


@st.composite
def pre_activations(draw):
    """[B, N] float32 of a random seed, some of them with many non-positive values."""
    rows, latents, seed = draw(st.integers(1, 6)), draw(st.integers(2, 12)), draw(st.integers(0, 10_000))
    noise = torch.randn(rows, latents, generator=torch.Generator().manual_seed(seed))
    return noise - draw(st.sampled_from([0.0, 1.5, -1.5]))


def slow_top_k(pre, k):
    out = np.zeros(pre.shape)
    for b, row in enumerate(pre):
        for i in sorted(range(len(row)), key=lambda i: -row[i])[:k]:
            out[b, i] = max(row[i], 0.0)
    return out


def batch_top_k(pre, k):
    """The k B largest of a batch in their places, as `largest` finds them."""
    where = largest(pre, k * len(pre))
    return torch.zeros_like(pre).index_put(where, pre[where])


def slow_batch_top_k(pre, k):
    ranked = sorted(((max(v, 0.0), b, i) for b, row in enumerate(pre) for i, v in enumerate(row)), reverse=True)
    out = np.zeros(pre.shape)
    for value, b, i in ranked[: k * len(pre)]:
        out[b, i] = value
    return out


@given(pre_activations(), st.integers(1, 12))
def test_top_k_is_the_slow_reference(pre, k):
    assume(k <= pre.shape[1])
    np.testing.assert_array_equal(top_k(pre, k).double().numpy(), slow_top_k(pre.double().numpy(), k))


@given(pre_activations(), st.integers(1, 14))
def test_batch_top_k_is_the_slow_reference(pre, k):
    np.testing.assert_array_equal(batch_top_k(pre, k).double().numpy(), slow_batch_top_k(pre.double().numpy(), k))


@given(pre_activations(), st.floats(0, 2, width=32))
def test_over_threshold_is_the_slow_reference(pre, threshold):
    slow = [[v if v > threshold and v > 0 else 0.0 for v in row] for row in pre.double().tolist()]
    for given_as in (threshold, torch.tensor(threshold)):
        np.testing.assert_array_equal(over_threshold(pre, given_as).double().numpy(), slow)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 2, 137, 600])
def test_kth_largest_is_the_kth_of_a_sort(dtype, k):
    values = torch.randn(20, 30, generator=torch.Generator().manual_seed(k)).round(decimals=1).to(dtype)
    found = kth_largest(values, k)
    assert found.dtype == dtype and found.shape == ()
    assert found == values.flatten().sort(descending=True).values[k - 1]


def test_batch_top_k_keeps_ties_and_counts_over_the_batch():
    pre = torch.tensor([[5.0, 4.0, 3.0], [1.0, -1.0, 3.0]])
    assert batch_top_k(pre, 1).tolist() == [[5, 4, 0], [0, 0, 0]]
    pre = torch.tensor([[5.0, 3.0, 1.0], [1.0, -1.0, 3.0]])
    assert batch_top_k(pre, 1).tolist() == [[5, 3, 0], [0, 0, 3]]


@pytest.mark.parametrize(("rows", "width"), [(7, 64), (5, 192), (4, 100)])
@pytest.mark.parametrize("shift", [0.0, -2.0])
def test_largest_is_exact_in_two_stages_ties_included(rows, width, shift):
    values = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)).round(decimals=1) + shift
    for count in (1, 3, rows * width // 65, rows * width // 3, rows * width):
        least = values.flatten().sort(descending=True).values[count - 1]
        expected = {(b, i) for b in range(rows) for i in range(width) if values[b, i] >= max(least, 1e-9)}
        found = list(zip(*(x.tolist() for x in largest(values, count)), strict=True))
        assert len(found) == len(set(found)) and set(found) == expected
        assert [b for b, _ in found] == sorted(b for b, _ in found)


def slow_top_afa(pre, norm):
    """Every prefix of the ranking tried in turn."""
    ranked = sorted((max(v, 0.0) ** 2, -i) for i, v in enumerate(pre))[::-1]
    best, prefix = abs(norm), []
    for length in range(1, len(ranked) + 1):
        distance = abs(math.sqrt(sum(c for c, _ in ranked[:length])) - norm)
        if distance < best:
            best, prefix = distance, ranked[:length]
    return [-i for c, i in prefix if c > 0]


@given(pre_activations(), st.floats(0.01, 5))
def test_top_afa_is_the_slow_reference(pre, norm):
    found = top_afa(pre.double(), torch.full((len(pre),), norm, dtype=torch.float64))
    for row, p in zip(found, pre.double().tolist(), strict=True):
        assert sorted(row.nonzero().flatten().tolist()) == sorted(slow_top_afa(p, norm))


def test_at_the_threshold_a_latent_is_silent():
    assert over_threshold(torch.tensor([0.5, 0.5001]), 0.5).tolist() == [0, pytest.approx(0.5001)]


def slow_encode(sae, x):
    w = {name: value.double().numpy() for name, value in sae.state_dict().items()}
    pre = np.array(
        [[sum(w["W_enc"][i] * (row - w["b_dec"])) + w["b_enc"][i] for i in range(len(w["b_enc"]))] for row in x]
    )
    return slow_top_k(pre, sae.info.k) if sae.info.variant == "topk" else pre * (pre > w["threshold"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_encode_and_decode_are_the_formula(variant):
    sae, x = random_sae(variant), torch.randn(30, 6)
    slow = slow_encode(sae, x.double().numpy())
    assert 0 < (slow > 0).mean() < 1
    np.testing.assert_allclose(sae.encode(x).numpy(), slow, atol=1e-5)
    x_hat = slow @ sae.W_dec.double().numpy() + sae.b_dec.double().numpy()
    np.testing.assert_allclose(sae(x).numpy(), x_hat, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_rows_latents_do_not_depend_on_the_other_rows(variant):
    sae, x = random_sae(variant), torch.randn(16, 6)
    among = sae.encode(x)
    others = 100 * torch.randn(16, 6)
    others[3] = x[3]
    assert torch.equal(sae.encode(others)[3], among[3])
    torch.testing.assert_close(torch.stack([sae.encode(row) for row in x]), among, rtol=0, atol=1e-5)
    torch.testing.assert_close(sae.encode(x.reshape(4, 4, 6)).flatten(0, 1), among, rtol=0, atol=1e-5)


def test_decoder_rows_start_with_unit_norm_and_the_seed_decides():
    info = SAEInfo("topk", 6, 20, 3)
    sae = SAE(info, 4)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20))
    assert torch.equal(sae.W_enc, sae.W_dec)
    assert sae.W_enc.data_ptr() != sae.W_dec.data_ptr()
    assert torch.equal(sae.W_dec, SAE(info, 4).W_dec)
    assert not torch.equal(sae.W_dec, SAE(info, 5).W_dec)


def test_weights_are_drawn_on_the_cpu_whatever_the_default_device():
    info = SAEInfo("topk", 6, 20, 3)
    with torch.device("meta"):
        rows, sae = unit_rows(info, 4), SAE(info, 4)
    assert rows.device.type == "cpu" and torch.equal(rows, SAE(info, 4).W_dec)
    assert {t.device.type for t in sae.state_dict().values()} == {"meta"}


def test_of_given_tensors_nothing_is_drawn_and_nothing_shared(monkeypatch):
    given = random_sae()
    tensors = {name: value.double() for name, value in given.state_dict().items()}
    monkeypatch.setattr("saeuron.sae.autoencoder.unit_rows", None)
    sae = SAE.of(given.info, tensors)
    for name, value in sae.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, given.state_dict()[name])
    again = SAE.of(given.info, given.state_dict())
    again.W_enc.zero_()
    assert given.W_enc.abs().min() > 0 and not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_saving_and_loading_gives_the_same_sae(tmp_path, variant):
    sae, x = random_sae(variant), torch.randn(30, 6)
    sae.save(tmp_path / "sae")
    again = SAE.load(tmp_path / "sae")
    assert again.info == sae.info
    assert all(torch.equal(v, again.state_dict()[name]) for name, v in sae.state_dict().items())
    assert torch.equal(again(x), sae(x))
    assert not any(p.requires_grad for p in again.parameters())
    assert json.loads((tmp_path / "sae" / "cfg.json").read_text()) == {
        "variant": variant, "width": 6, "n_latents": 20, "k": 3, "hookpoint": "unet.mid",
        "activation": sae.info.activation,
    }  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_of_version_0_1_had_one_threshold_and_told_the_activation_by_the_variant(tmp_path, variant):
    sae, x = random_sae(variant), torch.randn(30, 6)
    sae.threshold.fill_(0.4)
    old = {"variant": variant, "width": 6, "n_latents": 20, "k": 3, "hookpoint": "unet.mid"}
    save_tensors(tmp_path / "sae.safetensors", {**sae.state_dict(), "threshold": torch.tensor(0.4)}, old)
    again = SAE.load(tmp_path)
    assert again.info == sae.info
    assert torch.equal(again(x), sae(x))


def test_a_row_of_another_width():
    with pytest.raises(WidthMismatch, match=r"SAE for unet\.mid expects activations of width 6, the hookpoint gives 7"):
        random_sae().encode(torch.randn(2, 7))
    with pytest.raises(WidthMismatch, match="unnamed"):
        SAE(SAEInfo("topk", 6, 20, 3)).encode(torch.randn(2, 5))


@pytest.mark.parametrize("dump", [torch.save, lambda x, path: path.write_bytes(pickle.dumps({"W": 1}))])
def test_a_pickle_is_refused(tmp_path, dump):
    dump(random_sae().state_dict(), tmp_path / "sae.safetensors")
    with pytest.raises(BadWeights, match=r"not a readable safetensors file .*pickle.*restore it"):
        SAE.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    random_sae().save(tmp_path)
    path = tmp_path / "sae.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadWeights, match="cut short"):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"width": 7}, {"n_latents": 21}, {"unknown": 1}, {"activation": "relu"}, {"k": 21}, {"k": 0}],
    ids=lambda c: next(iter(c)),
)
def test_weights_that_do_not_fit_their_configuration(tmp_path, change):
    sae = random_sae("topk")
    info = {"variant": "topk", "width": 6, "n_latents": 20, "k": 3, "hookpoint": "", **change}
    save_tensors(tmp_path / "sae.safetensors", sae.state_dict(), info)
    with pytest.raises(BadWeights, match="does not hold an SAE"):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    "hookpoint",
    [
        "", "unet.up_blocks.1.attentions.1", "unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0",
        "blocks.5.hook_resid_post", "blocks.8.attn.hook_z", "hook_embed", "layers.5.mlp", "transformer.h.0",
        "unet.mid_block.lora_A.my-adapter",
        "unet.mid_block:input",
    ],
)  # fmt: skip
def test_every_module_is_a_hookpoint(hookpoint):
    info = {**vars(random_sae().info), "hookpoint": hookpoint}
    assert SAE.from_tensors(random_sae().state_dict(), info, "it").info.hookpoint == hookpoint


@pytest.mark.parametrize(
    "hookpoint",
    [
        "../../outside",
        "/outside",
        "..",
        ".",
        "a:output",
        ":input",
        "a/b:input",
        "a/b",
        "a\\b",
        "a..b",
        ".a",
        "a.",
        "a b",
        "a\n",
        "a\x00",
        "\ud800",
        "a/" * 500,
    ],
    ids=lambda text: ascii(text)[:12],
)
def test_an_unsafe_path_is_no_hookpoint(hookpoint):
    info = {**vars(random_sae().info), "hookpoint": hookpoint}
    with pytest.raises(BadWeights, match=r"hookpoint '.*expected a module's dotted name"):
        SAE.from_tensors(random_sae().state_dict(), info, "it")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"W_dec": None}, "no tensor W_dec; expected W_enc, W_dec, b_enc, b_dec, threshold"),
        ({"W_skip": torch.zeros(6)}, "an unknown tensor 'W_skip'; expected"),
        ({"b_enc": torch.zeros(3)}, "b_enc of shape [3]; expected [20]"),
        ({"threshold": torch.zeros(3)}, "threshold of shape [3]; expected [20]"),
    ],
)
def test_tensors_that_are_not_an_saes(change, words):
    tensors = {name: value for name, value in {**random_sae().state_dict(), **change}.items() if value is not None}
    with pytest.raises(BadWeights) as found:
        SAE.from_tensors(tensors, vars(random_sae().info), "it")
    assert str(found.value).startswith("it does not hold an SAE of this project: ") and words in str(found.value)


def test_shapes_are_checked_before_memory_is_allocated():
    for size in (10**12, 10**30):
        with pytest.raises(BadWeights, match=r"n_latents|W_enc of shape"):
            SAE.from_tensors(random_sae().state_dict(), {**vars(random_sae().info), "n_latents": size}, "it")


def test_a_file_of_another_library(tmp_path):
    from safetensors.torch import save_file

    save_file({"W_enc": torch.zeros(6, 20)}, tmp_path / "sae.safetensors")
    with pytest.raises(BadWeights, match="does not hold an SAE"):
        SAE.load(tmp_path)


def test_a_missing_sae(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        SAE.load(tmp_path)
