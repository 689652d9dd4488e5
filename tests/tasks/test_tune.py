"""What SQL shows of a removal: the latents it edits, step by step, and what was tried."""

import torch

from saeuron.figures.metrics import Metric
from saeuron.methods.latents import LatentEdit
from saeuron.methods.removal import Removal
from saeuron.tuning import Trial
from storage.tables import GRID, REMOVAL_LATENTS, table
from tasks.tune import _tried, latent_rows


def removal() -> Removal:
    zeros, never = torch.zeros, float("inf")
    # At step 500 it edits latents 3 and 9, at step 10 latent 7.
    factor = torch.tensor([[-2.0, 1.0, -0.5], [1.0, -4.0, 1.0]])
    floor = torch.tensor([[0.25, never, 0.0], [never, 1.5, never]])
    edit = LatentEdit(
        "unet.mid", "both", "sae_v2_b", torch.tensor([500, 10]), torch.tensor([3, 7, 9]), factor, floor,
        zeros(3, 8), zeros(3), zeros(3, 8), zeros(8), zeros(3),
    )  # fmt: skip
    return Removal("neon", "style", "saeuron", {"n": 2, "gamma": -1.5}, (edit,), {})


def test_one_row_for_each_latent_that_is_edited_at_a_step() -> None:
    rows = latent_rows(removal())
    shown = [(r["timestep"], r["latent"], r["factor"], r["floor"]) for r in rows]
    assert shown == [(500, 3, -2.0, 0.25), (500, 9, -0.5, 0.0), (10, 7, -4.0, 1.5)]
    assert {(r["hookpoint"], r["sae_id"], r["half"]) for r in rows} == {("unet.mid", "sae_v2_b", "both")}
    written = table([{"concept": "neon", "method": "saeuron", **r} for r in rows], REMOVAL_LATENTS)
    assert written.column("latent").to_pylist() == [3, 9, 7]


def test_what_was_tried_with_its_figures() -> None:
    def metric(name: str, value: float | None) -> Metric:
        return Metric(name, value, None, None, None, None, None, 12, 12, "")

    metrics = [
        metric("UA", 0.9),
        metric("IRA", 0.8),
        metric("CRA (a)", 0.7),
        metric("CRA (b)", 0.1),
        metric("CRA-target (a)", 0),
    ]
    row = _tried(Trial(removal(), metrics, 0.7))
    assert row == {"settings": {"n": "2", "gamma": "-1.5"}, "value": 0.7, "ua": 0.9, "ira": 0.8, "cra": 0.7}
    written = table([{"concept": "neon", "method": "saeuron", "chosen": True, **row}], GRID)
    assert written.num_rows == 1
    assert _tried(Trial(removal(), [], None)) == row | dict.fromkeys(("value", "ua", "ira", "cra"))
