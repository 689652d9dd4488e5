"""Controls make SAeUron's edit, of other latents or of another dictionary."""

import torch

from saeuron import methods
from saeuron.config import DomainConfig, RunConfig, TuneConfig
from saeuron.methods.base import Evidence
from saeuron.methods.controls import drawn
from saeuron.methods.saeuron import build_edit
from tests.saeuron.methods.removals import PATH, N, random_profile, random_sae

SETTINGS = {"n": 5, "gamma": -2.0}


def evidence(concept="neon", profile=None):
    return Evidence(concept, "style", (PATH,), saes={PATH: random_sae()}, profiles={PATH: profile or random_profile()})


def edit(name, given):
    [part] = methods.get(name).parts(given, None, SETTINGS)
    return part


def test_untrained_and_frozen_are_the_same_edit_of_other_saes():
    expected = build_edit(random_sae(), random_profile(), 5, -2.0)
    for name in ("untrained", "frozen"):
        method, found = methods.get(name), edit(name, evidence())
        assert method.dictionary == name and methods.get("saeuron").dictionary == "trained"
        for key, value in expected.tensors().items():
            assert torch.equal(value, found.tensors()[key])


def test_random_draws_n_latents_that_fire_at_each_step():
    profile = random_profile()
    silent = torch.arange(N) % 3 != 0
    mean = torch.where(silent, 0.0, profile.mean)
    mean[1, 4:] = 0  # At this step only latents 0 and 3 fire: fewer than n.
    profile = profile._replace(mean=mean)
    found = edit("random", evidence(profile=profile))
    selected = torch.isfinite(found.floor)
    assert selected.sum(1).tolist() == [5, 2, *[5] * (len(mean) - 2)]
    for t in range(len(mean)):
        chosen = found.latents[selected[t]]
        assert (mean[t, chosen] > 0).all()
        torch.testing.assert_close(found.factor[t, selected[t]], -2.0 * mean[t, chosen])
        torch.testing.assert_close(found.floor[t, selected[t]], profile.threshold[t, chosen])


def test_random_latents_are_seeded_by_the_concept_and_ignore_scores():
    one, same, other = (edit("random", evidence(c)) for c in ("neon", "neon", "dots"))
    assert torch.equal(one.latents, same.latents) and not torch.equal(one.latents, other.latents)
    ranked = random_profile()._replace(score=random_profile().score.flip(1))
    assert torch.equal(edit("random", evidence(profile=ranked)).latents, one.latents)
    assert not torch.equal(edit("saeuron", evidence(profile=ranked)).latents, edit("saeuron", evidence()).latents)


def test_drawn_takes_the_first_of_the_order():
    fires = torch.tensor([[True, True, False, True], [False, False, True, True], [False] * 4])
    found = drawn(fires, torch.tensor([2, 3, 0, 1]), 2)
    assert found.tolist() == [[True, False, False, True], [False, False, True, True], [False] * 4]


def test_a_control_tries_what_the_method_tries_unless_it_is_told():
    settings = {"saeuron": {"n": (1, 2), "gamma": (-3.0,)}}
    domain = DomainConfig(concepts=("neon", "dots"), hookpoints=("h",), settings={"saeuron": {"gamma": (-9.0,)}})
    config = RunConfig(domains={"style": domain}, tune=TuneConfig(settings=settings | {"random": {"n": (7,)}}))
    told = {name: methods.get(name).told(config, "style") for name in ("saeuron", "untrained", "frozen", "random")}
    assert told["saeuron"] == told["untrained"] == told["frozen"] == {"n": (1, 2), "gamma": (-9.0,)}
    assert told["random"] == {"n": (7,), "gamma": (-9.0,)}
    assert methods.get("steering").told(config, "style") == {}
