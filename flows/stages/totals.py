"""Keep the totals of each domain, and packs of statistics by latent, up to date."""

from collections.abc import Iterable, Mapping

from flows.run import Run
from storage import Workspace
from storage.statistics.packs import in_use, to_pack
from tasks.engine.job import Made
from tasks.packs import PacksJob
from tasks.packs import packs as packs_task
from tasks.totals import TotalsJob
from tasks.totals import totals as totals_task


def totals(run: Run, domain: str, scores: Iterable[str], saes: Mapping[str, str]) -> dict[str, str]:
    """{hookpoint: totals id} of statistics of one domain."""
    members = tuple(sorted(scores))
    return {hookpoint: _totals(run, domain, members, hookpoint, saes[hookpoint]).id for hookpoint in saes}


def keep(run: Run, scores: Mapping[str, str], saes: Mapping[str, str], packed: bool = True) -> None:
    """Make the current totals of every domain, which the SQL view `scores` reads, and packs. Failures are noted."""
    present = {
        domain: tuple(sorted(scores[c] for c in names if c in scores)) for domain, names in run.domain_concepts.items()
    }
    places = [(d, h) for d, members in present.items() if members for h in run.config.domains[d].hookpoints]

    def add_up(place: tuple[str, str]) -> Made:
        domain, hookpoint = place
        return _totals(run, domain, present[domain], hookpoint, saes[hookpoint])

    run.each("totals", places, add_up, " at ".join)
    if not packed:
        return
    at = {h: [i for d, other in places if other == h for i in present[d]] for _, h in places}
    jobs = [job for hookpoint, members in at.items() for job in _packs(run, members, hookpoint, saes[hookpoint])]
    if jobs:
        run.each("packs", jobs, lambda job: run.step(packs_task, job), lambda job: job.label)


def _totals(run: Run, domain: str, members: tuple[str, ...], hookpoint: str, sae_id: str) -> Made:
    workspace = Workspace(run.workspace)
    job = TotalsJob(workspace=run.workspace, domain=domain, hookpoint=hookpoint, sae_id=sae_id, scores=members)
    return run.step(totals_task, job, prepare=lambda job: job.based(workspace.artifacts(job.stage), workspace.has))


def _packs(run: Run, members: list[str], hookpoint: str, sae_id: str) -> list[PacksJob]:
    """The packs in use, and a new one if enough statistics are in no pack."""

    def job(scores: Iterable[str]) -> PacksJob:
        return PacksJob(workspace=run.workspace, hookpoint=hookpoint, sae_id=sae_id, scores=tuple(sorted(scores)))

    known = Workspace(run.workspace).artifacts(PacksJob.stage)
    mine = (m for m in known if m.version == PacksJob.version and m.config["sae_id"] == sae_id)
    packs = {m.id: set(m.config["scores"]) for m in mine}
    if new := to_pack(members, packs):
        made = job(new)
        packs[made.id] = set(new)
    # Packs without a current member are left to gc.
    return [job(packs[name]) for name in in_use(packs) if packs[name] & {*members}]
