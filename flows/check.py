"""Find a user's mistakes before anything heavy is loaded."""

from collections.abc import Sequence
from functools import partial

from saeuron import extractors, judges, methods
from saeuron.config import ConceptConfig, RunConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.pipelines import loading as models
from saeuron.prompts import Prompt, build, placeholders, sizes
from saeuron.sae.labels import concepts_of, labels_for
from saeuron.scoring import images as scoring_images
from saeuron.tuning import learning_images, validation_images
from storage import Workspace


def check(config: RunConfig, workspace: Workspace | None = None, weights: bool = True) -> None:
    """Raise the first mistake of a configuration: model, hookpoints, judges, concepts, prompts.

    The model's weights are not loaded; without `weights` they need not be there. Its modules are known from captures in
    the workspace, or else listed from its configuration, which takes seconds.
    """
    models.check(config.model.spec, config.model.scheduler, weights)
    models.check_size(config.model.spec, config.model.size)
    _check_halves(config)
    size = config.model.size or models.image_size(config.model.spec)
    for name, domain in config.domains.items():
        judges.check(domain.judge, name, domain.concepts, domain.judge_templates, size, domain.judge_labels)
    if config.features:
        extractors.create(config.features)
    _check_methods(config)
    if config.thresholds.images and not config.saes:
        raise ConfigError(
            f"thresholds.images is {config.thresholds.images}, but saes gives no SAE; of SAEs that a run trains, "
            "train.inference: threshold keeps thresholds."
        )
    known = [c for d in config.domains.values() for c in d.concepts]
    also = tuple(config.prompts.also)
    for place, names in (("tune", config.tune.concepts), ("controls", config.controls.concepts), ("prompts", also)):
        for concept in names or ():
            if concept not in known:
                raise UnknownName(
                    "concept", concept, known, f"({place}.{'also' if place == 'prompts' else 'concepts'})"
                )
    if config.tune.concepts is not None:
        for concept in {*(config.controls.concepts or ())} - {*config.tune.concepts}:
            raise ConfigError(
                f"controls.concepts names {concept!r}, which is not in tune.concepts and gets no removal; "
                "expected concepts of tune.concepts: add it there, or leave it out here."
            )
    found = build(config.prompts, config.domains)
    for split in ("train", "validation", "test"):
        if not any(p.split == split for p in found):
            raise ConfigError(f"prompts: there are none of split {split!r}; add prompts.templates.{split} or files.")
    _check_brought(config, found, size)
    _check_evidence(config, found)
    widths = _captured(config, workspace) if workspace else {}
    widths = widths or models.check_hookpoints(config.model.spec, config.hookpoints)
    # Given SAEs are not trained.
    trained = [hookpoint for hookpoint in config.hookpoints if hookpoint not in config.saes]
    concepts = labels_for(config.train, concepts_of(p.concepts for p in found if p.split == "train")) if trained else {}
    for hookpoint, width in widths.items():
        if width and hookpoint not in config.saes:
            config.train.check(width, hookpoint, sum(len(names) for names in concepts.values()))


def _check_evidence(config: RunConfig, prompts: Sequence[Prompt]) -> None:
    """Raise if a concept that is to be removed is alone in its domain, or lacks prompts that a later stage needs."""
    needs = set[str]().union(*(methods.get(name).needs for name in config.method))
    asked = {(p.split, domain, concept) for p in prompts for domain, concept in p.concepts.items()}
    train = [p.concepts for p in prompts if p.split == "train"]
    scored = {(domain, concept, len(each) > 1) for each in train for domain, concept in each.items()}
    for domain, about in config.domains.items():
        names = about.concepts
        removed = [c for c in names if config.tune.concepts is None or c in config.tune.concepts]
        if removed and len(names) == 1:
            raise ConfigError(
                f"domain {domain!r} has one concept, {names[0]!r}; a removal is computed against the others of its "
                "domain: name two or more, or leave the concept out of tune.concepts."
            )
        for concept in names if config.tune.concepts != () and "latents" in needs else ():  # every domain is scored
            if (domain, concept, about.score_on == "crossed") not in scored:
                scoring_images(prompts, config.score, domain, concept, about.score_on)
        learns = partial(learning_images, {"activations"})
        for concept in removed:
            for split, of in (("validation", validation_images), ("train", learns)):
                mine = (split, domain, concept) in asked
                others = any((split, domain, other) in asked for other in names if other != concept)
                if not (mine and others) and (split == "validation" or needs & {"activations", "prompts"}):
                    of(prompts, config.tune, domain, concept, names)  # raises, and says of what there are none


def _check_brought(config: RunConfig, prompts: Sequence[Prompt], size: tuple[int, int] | None) -> None:
    """Raise for a guidance or size that prompts of a benchmark bring, and that this run cannot draw."""
    how = "add `ignore: [{}]` to the file's section in prompts.files to draw all as the run does"
    guided = config.model.guidance > 1
    # What acts on the unconditional half alone would do nothing where a prompt has none.
    halved = config.tune.half == "unconditional" or "negative_prompt" in config.method
    asked_for = [(p, p.guidance) for p in prompts if p.guidance is not None]
    if odd := [(p, g) for p, g in asked_for if (not guided and g > 1) or (halved and g <= 1)]:
        raise ConfigError(
            f"{len(odd)} prompts of {odd[0][0].source or 'a file'} ask for a guidance such as {odd[0][1]}, but "
            f"the run has {config.model.guidance:g}, {'with' if guided else 'without'} an unconditional half; "
            f"{how.format('guidance')}."
        )
    for file in config.prompts.files:
        asked = sizes(file)
        if size and (odd_sizes := {each: n for each, n in asked.items() if each != size}):
            shown = ", ".join(f"{h} x {w}: {n}" for (h, w), n in sorted(odd_sizes.items(), key=lambda e: -e[1])[:3])
            raise ConfigError(
                f"{file if isinstance(file, str) else file.path}: {sum(odd_sizes.values())} of {asked.total()} prompts "
                f"ask for other sizes ({shown}) than the run's {size[0]} x {size[1]}; {how.format('size')}."
            )


def _check_halves(config: RunConfig) -> None:
    """Raise for the unconditional half of a model that has none, whatever its guidance."""
    for stage in ("capture", "score", "tune"):
        if getattr(config, stage).half == "unconditional" and not models.family_at(config.model.spec).doubles:
            raise ConfigError(
                f"{stage}.half is 'unconditional', but guidance is an input of {config.model.spec}, which has no such "
                "half; use 'conditional'."
            )


def _check_methods(config: RunConfig) -> None:
    """Raise for a method or setting that does not exist, or that this configuration cannot use."""
    for name in dict.fromkeys((*config.method, *config.controls.methods)):
        method = methods.get(name)
        method.check(config)
        for domain in config.domains:
            method.candidates(method.told(config, domain))
        if "latents" in method.needs and method.dictionary != "trained" and config.saes:
            raise ConfigError(
                f"method {name!r} compares with the SAEs that a run trains, but saes gives one at "
                f"{next(iter(config.saes))}; leave the method out, or have that SAE trained."
            )
    told = {"tune": config.tune.settings} | {f"domains.{d}": c.settings for d, c in config.domains.items()}
    for place, settings in told.items():
        for name in settings:
            if name not in methods.names():
                raise UnknownName("method", name, methods.names(), f"({place}.settings)")


def _captured(config: RunConfig, workspace: Workspace) -> dict[str, int | None]:
    """{hookpoint: width} if all hookpoints were captured of this very model; otherwise empty."""
    about = [manifest.summary for manifest in workspace.artifacts("capture")]
    if not {*config.hookpoints} <= {each.get("hookpoint") for each in about}:
        return {}
    model_id = models.identity(config.model.spec)
    known = {each["hookpoint"]: each["width"] for each in about if each.get("model_id") == model_id}
    return {h: known[h] for h in config.hookpoints} if known.keys() >= {*config.hookpoints} else {}


def check_blindspots(
    config: RunConfig, real: str, captions: str, seeing: str, pairs: int, against: str = "", removals: bool = False
) -> None:
    """Find what is wrong with the models' files, the real pictures, the vision model or the prompts, before anything.

    Raises:
        UserError: the first mistake.
    """
    from saeuron.blindspots.features import check_size, features
    from saeuron.blindspots.samples import FromFolder, source

    models.check(config.model.spec, config.model.scheduler)
    looked_at = source(real, captions)
    if captions and not isinstance(looked_at, FromFolder):
        raise ConfigError(f"--captions is for a folder of pictures; {real} renders what prompts ask for: leave it out.")
    looked_at.requests(build(config.prompts, config.domains), pairs, 0)
    size = config.model.size or models.image_size(config.model.spec)
    if size is not None:
        looked_at.check_size(size)
        check_size(seeing, size)
    if against:
        _check_against(config, against, removals)
    # A folder is looked into; a hub id is fetched.
    _ = features(seeing).identity


def _check_against(config: RunConfig, against: str, removals: bool) -> None:
    models.check(against, config.model.scheduler)
    ours = config.model.spec
    if not removals and models.identity(against) == models.identity(ours):
        raise ConfigError(f"--against {against} is the model itself; name another one, or a removal with --remove.")
    models.check_size(against, config.model.size)
    sizes = [models.image_size(spec) for spec in (against, ours)]
    if config.model.size is None and sizes[0] != sizes[1]:
        theirs, its = (f"{s[0]} x {s[1]}" if s else "unknown size" for s in sizes)
        raise ConfigError(
            f"--against {against} draws pictures of {theirs} pixels, the model of {its}; give model.size in the "
            "configuration."
        )


def check_device(device: str) -> None:
    """Raise if the device cannot be used here."""
    models.check_device(device)


def check_saes(config: RunConfig, workspace: Workspace) -> None:
    """Raise unless the SAEs that a configuration gives are in the workspace, each at its hookpoint."""
    if config.saes:
        from tasks.registry import saes

        for hookpoint, name in saes.given(workspace, config.saes).items():
            if config.thresholds.images and saes.activation(workspace, name) == "top_afa":
                raise ConfigError(
                    f"thresholds.images is {config.thresholds.images}, but {name} at {hookpoint} chooses latents by "
                    "their joint norm (top_afa), which thresholds cannot replace; leave thresholds.images out."
                )


def check_added(concept: ConceptConfig, config: RunConfig) -> None:
    """Raise unless the concept can join the configuration."""
    if concept.domain not in config.domains:
        raise UnknownName("domain", concept.domain, config.domains)
    if domain := config.domain_of(concept.name):
        raise ConfigError(
            f"concept {concept.name!r} is part of the configuration already (in {domain}); nothing to add."
        )
    domain_config = concept.judged(config.domains[concept.domain])
    size = config.model.size or models.image_size(config.model.spec)
    judges.check(
        domain_config.judge,
        concept.domain,
        (*domain_config.concepts, concept.name),
        domain_config.judge_templates,
        size,
        domain_config.judge_labels,
    )
    templates = concept.templates or config.prompts.templates
    crossed = domain_config.score_on == "crossed"
    for split in ("train", "validation", "test"):
        found = [
            names for t in templates.get(split, ()) if concept.domain in (names := placeholders(t, config.domains))
        ]
        # `score_on` says whether scoring reads training prompts that name other domains, or those that do not.
        if split == "train":
            found = [names for names in found if (len(names) > 1) == crossed]
        if not found:
            kind = "" if split != "train" else " and another domain" if crossed else " alone"
            raise ConfigError(
                f"concept {concept.name!r}: no {split} template names {{{concept.domain}}}{kind}; "
                "add one to its templates."
            )
