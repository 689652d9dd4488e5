"""An SAE beside the others of its hookpoint, in the explorer."""

import random

import pytest

from storage import Workspace
from storage.catalog.diagnosis import FILES
from storage.identity import artifact_id
from storage.tables import write_table
from tasks.explore.saes import beside
from tasks.explore.shelf import Shelf
from tests.sae_workspace import explorer


def sae(workspace: Workspace, number: int, l0: float | None, fvu: float | None, hookpoint: str = "unet.a") -> str:
    name = artifact_id("sae", 2, {"number": number})
    workspace.folder(name).mkdir(parents=True)
    about = {"hookpoint": hookpoint, "n_latents": 64, "width": 16, "k": number + 1, "variant": "topk"}
    about |= {"dictionary": "trained", "fvu": fvu, "l0": l0, "dead": 0.0, "rows": 10, "seconds": 1.0}
    return workspace.commit(name, config={}, inputs={}, summary=about, seconds=0).id


def measured(workspace: Workspace, sae_id: str, l0: float, fvu: float) -> None:
    name = artifact_id("diagnosis", 1, {"of": sae_id})
    workspace.folder(name).mkdir(parents=True)
    for kind, columns in FILES.items():
        write_table(workspace.folder(name) / f"{kind}s.parquet", columns.empty_table())
    workspace.commit(name, config={}, inputs={}, summary={"sae_id": sae_id, "l0": l0, "fvu": fvu}, seconds=0)


@pytest.mark.parametrize("seed", range(5))
def test_an_sae_is_beaten_where_another_rebuilds_no_worse_with_no_more(tmp_path, seed):
    workspace, chance = Workspace.open(tmp_path / "w"), random.Random(seed)
    places = [(chance.randint(1, 4), chance.randint(1, 4) / 10) for _ in range(8)]
    names = [sae(workspace, i, *place) for i, place in enumerate(places)]
    found = {row.sae.id: row for row in beside(Shelf(workspace), workspace.manifest(names[0])).saes}
    for name, (l0, fvu) in zip(names, places, strict=True):
        better = [(a, b) for a, b in places if (a < l0 and b <= fvu) or (a <= l0 and b < fvu)]
        assert found[name].best is (not better)


def test_held_out_figures_where_two_were_measured_and_others_of_the_hookpoint_alone(tmp_path):
    workspace = Workspace.open(tmp_path / "w")
    a, b, c = (sae(workspace, i, 4.0 + i, 0.5) for i in range(3))
    elsewhere, unknown = sae(workspace, 8, 1.0, 0.1, "unet.b"), sae(workspace, 9, None, None)
    measured(workspace, a, 4.0, 0.6)
    about = workspace.manifest(a)
    found = beside(Shelf(workspace), about)
    assert not found.held_out and [row.sae.id for row in found.saes] == [a, b, c]
    measured(workspace, c, 6.0, 0.55)
    found = beside(Shelf(workspace), about)
    assert found.held_out and [(row.sae.id, row.fvu) for row in found.saes] == [(a, 0.6), (c, 0.55)]
    assert not beside(Shelf(workspace), workspace.manifest(b)).held_out
    assert {elsewhere, unknown}.isdisjoint(row.sae.id for row in found.saes)


def test_the_page_shows_them_as_a_plot_and_a_table(tmp_path):
    workspace = Workspace.open(tmp_path / "w")
    a, b = sae(workspace, 1, 4.0, 0.5), sae(workspace, 2, 5.0, 0.6)
    alone = sae(workspace, 3, 1.0, 0.1, "unet.b")
    with explorer(workspace) as client:
        page = client.get(f"/sae?id={a}").text
        assert "FVU by the number of active latents" in page and f"id={b}" in page
        assert page.count('<td class="left">yes</td>') == 1 and "topk, N 64, k 2: 4.0, 50.0, chosen" in page
        assert "Beside other SAEs" not in client.get(f"/sae?id={alone}").text
