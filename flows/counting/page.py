"""A plan's amounts as a table by stage: images, what is stored, hours, peak memory; and where the hours come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.counting.amounts import Amount
from flows.plan import Plan
from flows.summary import text_table
from saeuron.pipelines.counting import counted, rate
from storage import text
from storage.manifests import Manifest

STAGES = ("capture", "sae", "score", "trials", "images")


@dataclass(frozen=True)
class Rate:
    """How much a device does."""

    flops: float
    """FLOP/s."""
    source: str
    """The origin of the figure, for people."""


def rate_of(plan: Plan, given: float | None) -> Rate:
    """The rate to take: the given one (TFLOP/s), or that of images drawn here before, or one measured now."""
    if given is not None:
        return Rate(given * 1e12, "as given")
    if (before := drawn_before(plan, plan.earlier("images"))) is not None:
        return before
    return Rate(
        rate(plan.device, plan.config.model.dtype),
        f"measured now on {plan.device}, on a convolution and a product of rows: a rough figure",
    )


def drawn_before(plan: Plan, images: Sequence[Manifest]) -> Rate | None:
    """The rate at which this model's test images were drawn in this workspace, at the same settings."""
    model = plan.config.model
    wanted = model.model_dump(mode="json", exclude={"spec"})
    kind = None if plan.device == "cpu" else plan.device.split(":")[0]
    mine = [
        m
        for m in images
        if m.config.get("model_id") == plan.model_id
        and m.config.get("model") == wanted
        and m.config.get("device") == kind
        and m.seconds > 1
        and m.summary.get("images")
    ]
    count, seconds = sum(m.summary["images"] for m in mine), sum(m.seconds for m in mine)
    if not count:
        return None
    cost = counted(model, plan.config.hookpoints)
    done = count * (model.steps * cost.step + cost.once)
    return Rate(done / seconds, f"as {count} images were drawn here in {seconds:.0f} s")


def page(amounts: Mapping[str, Amount], plan: Plan, speed: Rate) -> list[str]:
    """The table of stages, and what is to be known of it; nothing where nothing would be made."""
    found = {stage: [a for name, a in amounts.items() if plan.jobs[name].stage == stage] for stage in STAGES}
    rows = [_row(stage, each, speed) for stage, each in found.items() if each]
    if not rows:
        return []
    everything = [a for each in found.values() for a in each]
    rows.append(_row("all", everything, speed))
    cpu = plan.device == "cpu"
    header = ["stage", "images", "stored GB", "hours", *([] if cpu else ["device GB"]), "memory GB"]
    return [
        "",
        "counted from the model's configuration, before anything is loaded:",
        text_table(header, rows),
        text.filled(f"hours at {_figure(speed.flops / 1e12)} TFLOP/s, {speed.source}; --tflops N says another"),
        text.filled(
            f"memory: most bytes at once, with {plan.config.model.micro_batch} images a batch (model.micro_batch); "
            "judges and text encoders' own work are not counted"
        ),
    ]


def _row(stage: str, each: Sequence[Amount], speed: Rate) -> dict[str, str]:
    return {
        "stage": stage,
        "images": f"{sum(a.images for a in each):,}",
        "stored GB": _figure(sum(a.stored for a in each) / 1e9),
        "hours": _figure(sum(a.flop for a in each) / speed.flops / 3600),
        "device GB": _figure(max(a.device for a in each) / 1e9),
        "memory GB": _figure(max(a.host for a in each) / 1e9),
    }


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
