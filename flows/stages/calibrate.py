"""Measure the judges on unedited images, before they judge a removal."""

from collections.abc import Iterable

from flows.run import Run
from flows.stages.evaluate import plain
from flows.stages.judge import judge
from flows.stages.prompts import PromptSet
from flows.stages.tune import Wanted
from saeuron.figures.calibration import calibration
from tasks.judge import read


def calibrate(run: Run, wanted: Iterable[Wanted], sets: dict[str, PromptSet]) -> None:
    """Make the unedited test images, judge them, and print each judge's accuracy and commonest mistakes.

    Later stages reuse the images and judgements. Nothing is printed for judgements that existed before, so a run that
    makes nothing reads none.
    """
    seen: set[tuple[str, str, tuple[str, ...]]] = set()
    for concept in dict.fromkeys(each.concept for each in wanted):
        judges = run.judges(concept)
        known = {(domain, by.id, by.labels) for domain, by in judges.items()}
        new, seen = known - seen, seen | known
        if not new:
            continue
        images = [plain(run, sets[s].id) for s in ("", concept) if s == "" or run.added_as(concept)]
        before = {name for name, made in run.made.items() if made.cached}
        judged = {image_set: judge(run, image_set, judges) for image_set in images}
        names = {name for of in judged.values() for name in of}
        if run.planning or all(run.made[name].cached for name in names - before):
            continue
        found = read(run.opened, judged)
        for domain, by in judges.items():
            if (domain, by.id, by.labels) not in new or (said := calibration(domain, by.spec, found)) is None:
                continue
            run.say(said.line)
            if said.warning:
                run.say(said.warning)
