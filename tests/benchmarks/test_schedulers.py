"""What is counted with each scheduler, and the edit that runs and changes nothing."""

import torch

from benchmarks.removals.schedulers import SCHEDULERS, counts, draws, idle, line
from saeuron.figures.metrics import Judged
from saeuron.methods.removal import Removal
from saeuron.methods.saeuron import build_edit
from saeuron.methods.steering import DirectionEdit
from saeuron.pipelines.loading import check
from tests.saeuron.methods.removals import random_profile, random_sae


def seen(style: str, saw: str, object_: str = "cat", saw_object: str = "cat") -> Judged:
    return Judged("prompt", 0, {"style": style, "object": object_}, {"style": saw, "object": saw_object})


def test_counts_by_hand() -> None:
    judged = [seen("neon", "neon"), seen("neon", "dots", saw_object="key"), seen("dots", "neon"), seen("dots", "dots")]
    # An image that asks for no style counts among neither; one that became neon is wrong, and shows it where not asked.
    judged.append(Judged("plain", 0, {"object": "cat"}, {"style": "neon", "object": "cat"}))
    found = counts("style", "neon", judged)
    assert found == {"show it": (1, 2), "others right": (1, 2), "other domain right": (4, 5)}
    assert not draws(found)
    assert counts("style", "neon", judged, [True, False, True, True, True]) == found | {
        "asked, the same picture": (1, 2),
        "others, the same picture": (2, 2),
    }
    assert draws({"show it": (4, 5), "others right": (12, 12)}) and not draws({"show it": (11, 14)})
    assert line({"show it": (0, 12)}) == "show it 0 of 12 (0 to 24)"


def test_an_idle_edit_runs_and_changes_nothing() -> None:
    sae = random_sae(width=16, n=40, hookpoint="unet.mid_block")
    edit = build_edit(sae, random_profile(), 9, -9.0)
    direction = DirectionEdit("unet.mid_block", "both", edit.timesteps, torch.ones(len(edit.timesteps), 16))
    (left,) = idle(Removal("neon", "style", "saeuron", {}, (edit, direction))).parts
    rows, t = 9 * torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0)), int(edit.timesteps[0])
    assert edit.delta(rows, t).any() and not left.delta(rows, t).any()  # type: ignore[attr-defined]


def test_schedulers_are_known_and_suit_canvas() -> None:
    assert len({*SCHEDULERS}) == len(SCHEDULERS) == 9
    for name in SCHEDULERS:
        check("canvas", name)
