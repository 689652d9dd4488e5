"""What a plan would cost: by hand for a small run, without weights, and the page that says so."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.config import load
from flows.counting.amounts import PIXEL, PROCESS, STATISTIC, SUMMED, Amount, amounts
from flows.counting.page import drawn_before, page, rate_of
from flows.plan import Plan, planned
from saeuron.pipelines.counting import counted
from storage.dense.activations import POOL_ROWS
from tests.end_to_end.process import TINY, run_here

STEPS = 3
STYLE, CROSS = "unet.up_blocks.1.attentions.0", "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2"
OBJECT = "unet.up_blocks.0.attentions.1"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return planned(load(str(TINY)), tmp_path_factory.mktemp("none") / "w")


@pytest.fixture(scope="module")
def found(plan: Plan) -> dict[str, list[Amount]]:
    result: dict[str, list[Amount]] = {}
    for name, amount in amounts(plan).items():
        result.setdefault(plan.jobs[name].stage, []).append(amount)
    return result


def test_images_by_hand(plan: Plan, found: dict[str, list[Amount]]) -> None:
    # 3 styles x 3 objects, and 4 lone prompts of each object; all three hookpoints are captured in one pass.
    assert [a.images for a in found["capture"]] == [9 + 12, 0, 0]
    assert [a.images for a in found["score"]] == [4] * 6
    # Two candidates and the unedited model, on 3 images of the concept and 4 others.
    assert [a.images for a in found["trials"]] == [3 * (3 + 4)] * 2
    # The unedited model and two removals: each of 9 pairs and 3 lone objects.
    seeds = plan.config.evaluate.seeds
    assert [a.images for a in found["images"]] == [(9 + 3) * seeds] * 3


def test_bytes_and_operations_by_hand(plan: Plan, found: dict[str, list[Amount]]) -> None:
    config, cost = plan.config, counted(plan.config.model, plan.config.hookpoints)
    assert {h: cost.places[h] for h in (STYLE, CROSS, OBJECT)} == cost.places
    by_label = {plan.jobs[name].label: a for name, a in amounts(plan).items() if plan.jobs[name].stage == "capture"}
    for hookpoint, (positions, width) in cost.places.items():
        rows = 21 * STEPS * positions
        assert by_label[hookpoint].stored == rows * width * 2
    first = by_label[config.hookpoints[0]]
    assert first.flop == 21 * (STEPS * cost.step + cost.once)
    image = sum(STEPS * positions * width * 2 for positions, width in cost.places.values())
    assert first.device == cost.weights + 16 * cost.alive + 2 * 16 * image
    # On a CPU all of it is the machine's; a shard of 8 images waits there to be written.
    assert first.host == PROCESS + first.device + 8 * image
    for amount, hookpoint in zip(found["sae"], config.hookpoints, strict=True):
        positions, width = cost.places[hookpoint]
        latents = 2 * width
        assert amount.flop == (30 * 256 + 21 * STEPS * positions) * 2 * width * latents
        assert amount.stored == 4 * 2 * width * latents
        assert amount.host == PROCESS + amount.device + 2 * POOL_ROWS * width
    positions, width = cost.places[OBJECT]
    [cat] = [
        a for name, a in amounts(plan).items() if plan.jobs[name].label == "cat" and plan.jobs[name].stage == "score"
    ]
    assert cat.stored == pytest.approx(STEPS * 2 * width * STATISTIC)
    assert cat.flop == 4 * (STEPS * cost.step + cost.once) + 4 * STEPS * positions * 2 * width * 2 * width
    assert (
        cat.device == cost.weights + 16 * cost.alive + 4 * 2 * width * 2 * width + 16 * positions * 2 * width * SUMMED
    )
    assert found["trials"][0].stored == 21 * PIXEL * 32 * 32


def test_on_a_gpu_the_hosts_memory_is_its_own(plan: Plan) -> None:
    plan = Plan(plan.config, plan.workspace, plan.model_id, "cuda", plan.roster, plan.judge_ids)
    from flows.pipeline import stages

    stages(plan)
    cost = counted(plan.config.model, plan.config.hookpoints)
    images = [a for name, a in amounts(plan).items() if plan.jobs[name].stage == "images"]
    assert {a.host for a in images} == {PROCESS + cost.weights}
    assert "device GB" in page(amounts(plan), plan, rate_of(plan, 50))[2]


def test_the_page_shows_amounts_hours_and_memory(plan: Plan) -> None:
    speed = rate_of(plan, 0.001)
    lines = "\n".join(page(amounts(plan), plan, speed)).splitlines()
    assert lines[1] == "counted from the model's configuration, before anything is loaded:"
    assert lines[2].split() == ["stage", "images", "stored", "GB", "hours", "memory", "GB"]
    rows = {line.split()[0]: line.split() for line in lines[4:10]}
    assert [*rows] == ["capture", "sae", "score", "trials", "images", "all"]
    assert rows["capture"][1] == "21" and rows["score"][1] == "24"
    hours = sum(a.flop for a in amounts(plan).values()) / 1e9 / 3600
    assert float(rows["all"][3]) == pytest.approx(hours, rel=0.06)
    assert all(len(line) <= 80 for line in lines)
    assert any("as given" in line for line in lines)
    assert page({}, plan, speed) == []


def test_hours_are_those_of_images_that_were_drawn_here(plan: Plan) -> None:
    model = plan.config.model.model_dump(mode="json", exclude={"spec"})

    def drawn(seconds: float, **changed: Any) -> Any:
        config = {"model_id": plan.model_id, "model": model, **changed}
        return SimpleNamespace(config=config, seconds=seconds, summary={"images": 100})

    cost = counted(plan.config.model, plan.config.hookpoints)
    others = [drawn(9, model_id="other"), drawn(9, model={**model, "steps": 9}), drawn(9, device="cuda"), drawn(0.01)]
    assert drawn_before(plan, others) is None
    found = drawn_before(plan, [*others, drawn(10), drawn(30)])
    assert found is not None and found.flops == pytest.approx(200 * (STEPS * cost.step + cost.once) / 40)
    assert found.source == "as 200 images were drawn here in 40 s"


def test_a_folder_without_weights_has_a_plan(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    words = ["run", TINY, "-w", tmp_path / "w", "--plan", "--tflops", "0.02", "--set", f"model.spec={folder}"]
    done = run_here(*words)
    assert done.code == 0, done.err
    assert "hours at 0.02 TFLOP/s, as given" in done.out and not (tmp_path / "w").exists()
    listed = json.loads(run_here(*words, "--json").out)
    capture = next(p for p in listed if p["stage"] == "capture")
    assert capture["counted"]["images"] == 21 and capture["counted"]["hours"] > 0
    assert next(p for p in listed if p["stage"] == "prompts")["counted"]["flop"] == 0


def test_a_model_of_the_hub_that_is_not_here_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def fetched(spec: Any, fetch: bool = True) -> Path:
        asked.append(fetch)
        from saeuron.errors import BadModel

        raise BadModel("not here")

    monkeypatch.setattr("saeuron.pipelines.loading.fetched", fetched)
    assert Plan.identified("owner/name") == "" and asked == [False]
