"""Closed-form edits of cross-attention against the least squares that they solve; weights come back bit for bit."""

import numpy as np
import pytest
import torch

from saeuron import methods
from saeuron.errors import ConfigError, UnknownName, WidthMismatch
from saeuron.hooks import hookpoints
from saeuron.methods.bake import bake
from saeuron.methods.base import Evidence
from saeuron.methods.local import local
from saeuron.methods.removal import Removal, removed
from saeuron.methods.text.states import counterparts, embeddings, farthest, last_difference, pairs, renamed
from saeuron.methods.weights.linear_map import RIDGE, cross_attention, moments
from saeuron.methods.weights.part import WeightDelta, WeightMap, factors
from saeuron.prompts import Prompt


def prompts(*styles):
    return [Prompt(t.format(style=s), "train", {"style": s}) for s in styles for t in SENTENCES]


SENTENCES = ("A cat in {style} style.", "A {style} picture of a dog.", "A {style} star.")


@pytest.fixture(scope="module")
def evidence(tiny_pipe):
    return Evidence("neon", "style", pipe=tiny_pipe, asked=prompts("neon"), retained=prompts("dots", "sepia"))


def samples(evidence):
    """(c, c*) of every sentence, and what stays, as rows; by hand."""
    pipe, c, moved = evidence.pipe, [], []
    for prompt in evidence.asked:
        own = embeddings(pipe, [prompt.text])[0]
        others = torch.cat([embeddings(pipe, [prompt.text.replace("neon", s)]) for s in ("dots", "sepia")])
        # One token each: the states differ from the concept's place on.
        start = int((own != others[0]).any(1).nonzero()[0])
        c.append(own[start:])
        moved.append(others[:, start:].mean(0))
    kept = embeddings(pipe, [p.text for p in evidence.retained]).flatten(0, 1)
    return torch.cat(c).double(), torch.cat(moved).double(), kept.double(), embeddings(pipe, [""])[0].double()


def test_moments_are_those_of_the_states(evidence):
    c, moved, kept, empty = samples(evidence)
    found = moments(evidence, "others")
    torch.testing.assert_close(found.concept, c.T @ c / len(c), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.moved, moved.T @ c / len(c), rtol=1e-4, atol=1e-5)
    stay = (kept.T @ kept / len(kept) + empty.T @ empty / len(empty)) / 2
    torch.testing.assert_close(found.retained, stay, rtol=1e-4, atol=1e-5)


def test_uce_solves_its_least_squares(evidence):
    c, moved, kept, empty = samples(evidence)
    [part] = methods.get("uce").parts(evidence, {}, {"erase": 3.0, "toward": "others"})
    W = torch.randn(5, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stay = (kept.T @ kept / len(kept) + empty.T @ empty / len(empty)) / 2
    ridge = RIDGE * float(stay.diagonal().mean())
    # Every term as rows of one least-squares problem: reads [n, D] X ~ Y, each weighted by a square root.
    terms = [(c, moved, 3.0 / len(c)), (kept, kept, 0.5 / len(kept)), (empty, empty, 0.5 / len(empty))]
    terms.append((torch.eye(32).double(), torch.eye(32).double(), ridge))
    reads = np.concatenate([(w**0.5 * x).numpy() for x, _, w in terms])
    wanted = np.concatenate([(w**0.5 * y @ W.T).numpy() for _, y, w in terms])
    best = np.linalg.lstsq(reads, wanted, rcond=None)[0].T
    np.testing.assert_allclose(part.new(W.float()), best, rtol=1e-3, atol=2e-3)
    assert (part.new(W.float()) - W).abs().max() > 0.05


def test_procrustes_is_the_best_rotation(evidence):
    c, moved, kept, empty = samples(evidence)
    [part] = methods.get("procrustes").parts(evidence, {}, {"erase": 3.0, "toward": "others"})
    M = part.new(torch.eye(32)).double()
    torch.testing.assert_close(M @ M.T, torch.eye(32).double(), rtol=0, atol=1e-4)

    def misfit(R):
        def term(x, y):
            return float(((x @ R - y) ** 2).sum(1).mean())

        return 3 * term(c, moved) + 0.5 * term(kept, kept) + 0.5 * term(empty, empty)

    skew = torch.randn(20, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # W' = W (I + up down): a row w reads x through w M, so that states turn by M.
    nearby = [misfit(M.T @ torch.matrix_exp(0.02 * (s - s.T))) for s in skew]
    assert misfit(M.T) < min(nearby) and misfit(M.T) < misfit(torch.eye(32).double())


def test_weights_are_back_bit_for_bit_even_after_an_error(evidence):
    pipe = evidence.pipe
    before = {name: (p.data_ptr(), p.clone()) for name, p in pipe.unet.named_parameters()}
    removal = methods.get("uce").removal(evidence, {}, {"erase": 1.0, "toward": "others"})

    def changed():
        return {n for n, p in pipe.unet.named_parameters() if not torch.equal(p, before[n][1])}

    with pytest.raises(RuntimeError), removal.attached(pipe):
        assert changed() == {f"{path.removeprefix('unet.')}.weight" for path in cross_attention(pipe)}
        raise RuntimeError
    assert not changed() and all(p.data_ptr() == before[n][0] for n, p in pipe.unet.named_parameters())


def test_a_first_token_and_a_prompt_without_the_concept_of_low_weight(evidence):
    # The map leaves what is retained nearly as it was, and moves the concept.
    M = methods.get("uce").parts(evidence, {}, {"erase": 0.01, "toward": "others"})[0].new(torch.eye(32)).double()
    c, moved, kept, empty = samples(evidence)
    assert ((kept @ M.T - kept).norm() / kept.norm()) < 0.1 * ((c - moved).norm() / c.norm())
    assert (empty @ M.T - empty).norm() / empty.norm() < 0.01


def test_several_add_up_in_any_order_and_strength_scales(evidence, tmp_path):
    maps = []
    for concept, others in (("neon", ("dots", "sepia")), ("dots", ("neon", "sepia"))):
        about = Evidence(concept, "style", pipe=evidence.pipe, asked=prompts(concept), retained=prompts(*others))
        maps.append(methods.get("uce").removal(about, {}, {"erase": 0.1, "toward": "others"}))
    W = torch.randn(7, 32, generator=torch.Generator().manual_seed(2))
    deltas = [r.parts[0].new(W) - W for r in maps]
    for order in (maps, maps[::-1]):
        both = Removal.merge(order)
        [part] = both.parts
        torch.testing.assert_close(part.new(W), W + sum(deltas), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps[0].at(0.25).parts[0].new(W), W + 0.25 * deltas[0], rtol=1e-4, atol=1e-5)
    both.save(tmp_path / "r")
    assert torch.equal(Removal.load(tmp_path / "r").parts[0].new(W), part.new(W))


def change(kind, layers, seed, rank=2):
    g = torch.Generator().manual_seed(seed)
    up, down = torch.randn(32, rank, generator=g), torch.randn(rank, 32, generator=g)
    return Removal("c", "d", "uce", {}, (kind(layers, up, down),))


K, V = (f"unet.mid_block.attentions.0.transformer_blocks.0.attn2.{name}" for name in ("to_k", "to_v"))


def test_layers_that_two_have_in_common_add_up_and_the_others_are_their_own(make_pipe):
    """Not one after the other: the second would map what the first has changed."""
    pipe = make_pipe(2)
    weights = {path: hookpoints(pipe)[path].weight for path in (K, V)}
    k, both, v = (change(WeightMap, layers, i) for i, layers in enumerate([(K,), (V, K), (V,)]))
    own = {path: weight.data.clone() for path, weight in weights.items()}
    moved = {r: {path: r.parts[0].new(own[path]) - own[path] for path in own} for r in (k, both, v)}
    for order in ([k, both, v], [v, k, both], [Removal.merge([k, both]), v], [k, Removal.merge([v, both])]):
        with removed(pipe, order):
            for path, mine in ((K, k), (V, v)):
                wanted = own[path] + moved[mine][path] + moved[both][path]
                torch.testing.assert_close(weights[path].data, wanted, rtol=1e-4, atol=1e-4)
        assert Removal.merge(order).content() == Removal.merge([both, k, v]).content()
        assert all(torch.equal(weights[path].data, own[path]) for path in own)


@pytest.mark.parametrize("seed", range(4))
def test_a_map_maps_the_models_own_weights_whatever_else_is_added(seed, make_pipe):
    pipe = make_pipe(2)
    weight = hookpoints(pipe)[K].weight
    own = weight.data.clone()
    mapped, added = change(WeightMap, (K,), seed), change(WeightDelta, (K,), seed + 9)
    wanted = mapped.parts[0].new(own) + added.parts[0].new(own) - own
    with removed(pipe, [mapped, added]):
        torch.testing.assert_close(weight.data, wanted, rtol=1e-4, atol=1e-4)
    with local([mapped, added], first=1).attached(pipe):
        assert torch.equal(weight.data, own)
    bake(pipe, Removal.merge([mapped, added]))
    torch.testing.assert_close(weight.data, wanted, rtol=1e-4, atol=1e-4)


def test_the_farthest_concept_has_the_lowest_cosine(evidence):
    """By hand, over the concept's sentences; and it is what its sentences are read as."""
    names, cosines = ["neon", "dots", "sepia"], []
    for prompt in evidence.asked:
        e = torch.stack([embeddings(evidence.pipe, [prompt.text.replace("neon", s)])[0].flatten() for s in names])
        e = e - e.mean(0)
        cosines.append([float(e[0] @ e[i] / e[0].norm() / e[i].norm()) for i in (1, 2)])
    away = names[1:][int(np.mean(cosines, axis=0).argmin())]
    assert farthest(evidence) == away
    other = next(s for s in names[1:] if s != away)
    found = [
        methods.get("uce").parts(evidence, {}, {"erase": 1.0, "toward": word})[0].up
        for word in ("farthest", away, other)
    ]
    assert torch.equal(found[0], found[1]) and not torch.allclose(found[0], found[2])
    nameless = Evidence("neon", "style", pipe=evidence.pipe, asked=prompts("glow"), retained=evidence.retained)
    with pytest.raises(ConfigError, match="no training prompt has the name 'neon'"):
        farthest(nameless)


def test_other_words_and_where_sentences_differ(evidence):
    assert renamed("A Neon cat, neonatal.", "neon", "x_y") == "A x_y cat, neonatal."
    assert renamed("A cat.", "neon", "dots") is None
    assert last_difference([0, 5, 7, 2, 1], [0, 5, 8, 9, 2, 1]) == (2, 3)
    named = Evidence("neon", "style", asked=[Prompt("It glows.", "train", {"style": "neon"})], retained=prompts("dots"))
    with pytest.raises(ConfigError, match="no training prompt has the name 'neon' in it"):
        counterparts(named, "others")
    assert counterparts(evidence, "thing")[0] == ("A cat in neon style.", ["A cat in thing style."])
    [(mine, other)] = pairs(evidence.pipe, [("A neon cat.", ["A dots dots cat."])])
    assert len(mine) == len(other) == 16 - 3  # One token more leaves one padding less.


def test_low_rank_factors_and_what_does_not_fit(tiny_pipe):
    matrix = torch.randn(6, 2) @ torch.randn(2, 9)
    up, down = factors(matrix, 5)
    assert up.shape == (6, 2)
    torch.testing.assert_close(up @ down, matrix, rtol=1e-4, atol=1e-5)
    path = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    narrow = Removal("c", "d", "uce", {}, (WeightMap((path,), torch.zeros(9, 1), torch.zeros(1, 9)),))
    with pytest.raises(WidthMismatch, match="width 9, the hookpoint gives 32"), removed(tiny_pipe, [narrow]):
        pass
    nowhere = Removal("c", "d", "uce", {}, (WeightDelta(("unet.nowhere",), torch.zeros(9, 1), torch.zeros(1, 9)),))
    with pytest.raises(UnknownName, match="unknown linear layer"), removed(tiny_pipe, [nowhere]):
        pass


@pytest.mark.parametrize("name", ["erase", "toward"])
def test_settings_of_zero_are_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"{name} holds 0"):
        methods.get("uce").candidates({name: (0,)})


class Lora(torch.nn.Module):
    """A linear layer with a LoRA, laid out as PEFT lays it out: W x + 2 B A x."""

    def __init__(self, layer, dora=False):
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.base_layer, self.merged = layer, False
        self.lora_A, self.lora_B = (
            torch.nn.ModuleDict({"default": torch.nn.Linear(*size, bias=False)})
            for size in ((layer.in_features, 4), (4, layer.out_features))
        )
        for factor in (self.lora_A, self.lora_B):
            factor["default"].weight.data.normal_(generator=draws)
        self.lora_magnitude_vector = torch.nn.ModuleDict({"default": torch.nn.Identity()} if dora else {})

    @property
    def product(self):
        return 2 * self.lora_B["default"].weight @ self.lora_A["default"].weight

    def forward(self, x):
        return self.base_layer(x) + (0 if self.merged else 2 * self.lora_B["default"](self.lora_A["default"](x)))

    def merge(self):
        self.base_layer.weight.data += self.product.detach()
        self.merged = True


@pytest.mark.parametrize("kind", [WeightMap, WeightDelta])
@pytest.mark.parametrize("merged", [False, True])
def test_a_layer_with_a_lora_is_changed_as_one_into_which_it_was_folded(kind, merged, make_pipe):
    pipe = make_pipe()
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    path = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    lora = attention.to_v = Lora(attention.to_v)
    draws, width = torch.Generator().manual_seed(1), lora.base_layer.in_features
    change = kind((path,), torch.randn(32, 2, generator=draws), torch.randn(2, width, generator=draws))
    own = lora.base_layer.weight.detach()
    whole = change.of(path, own + lora.product.detach())
    if kind is WeightDelta:
        torch.testing.assert_close(whole, own + lora.product.detach() + change.up @ change.down)
    if merged:
        lora.merge()
    x = torch.randn(5, width, generator=draws)
    before, kept = lora(x), [p.detach().clone() for p in lora.parameters()]
    with torch.no_grad(), Removal("neon", "style", "uce", {}, (change,)).attached(pipe):
        torch.testing.assert_close(
            lora(x), torch.nn.functional.linear(x, whole, lora.base_layer.bias), rtol=1e-4, atol=1e-3
        )
    assert torch.equal(lora(x), before) and all(torch.equal(a, b) for a, b in zip(kept, lora.parameters(), strict=True))


def test_a_layer_with_another_adapter_is_refused(make_pipe):
    pipe = make_pipe()
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    path = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    lora = attention.to_v = Lora(attention.to_v, dora=True)
    change = WeightMap((path,), torch.ones(32, 1), torch.ones(1, 32))
    removal = Removal("neon", "style", "uce", {}, (change,))
    with pytest.raises(ConfigError, match=r"to_v has an adapter that is not a plain LoRA, .*: pipe\.fuse_lora\(\)\.$"):
        removal.attached(pipe).__enter__()
    lora.merge()
    with removal.attached(pipe):
        pass
