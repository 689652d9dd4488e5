"""`saeuron concept new`: write a file for a new concept."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import WORKSPACE, WorkspaceOption, file_out, say

if TYPE_CHECKING:
    from saeuron.config import RunConfig


def concept_new(
    name: Annotated[str, typer.Argument(help="The concept, as prompts name it; quote several words.")],
    domain: Annotated[str, typer.Option(help="The family it joins; needed if the run has several.")] = "",
    also: Annotated[list[str] | None, typer.Option(help="A synonym; repeatable.")] = None,
    judge: Annotated[
        str, typer.Option(help="Its judge; by default the domain's, or CLIP if that does not know the name.")
    ] = "",
    out: Annotated[Path | None, typer.Option(callback=file_out(), help="The file; by default NAME.yaml.")] = None,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Write a file for `concept add`, with template sentences.

    Example: saeuron concept new zebra --domain object
    """
    from flows.hints import command
    from saeuron.errors import ConfigError
    from storage import Workspace
    from storage.files import file_name, write_atomic
    from tasks.registry import runs

    opened = Workspace.open(workspace, create=False)
    path = out or Path(f"{file_name(name)}.yaml")
    if path.exists():
        raise ConfigError(f"{path} is there already; give another --out, or edit it.")
    text = suggested(runs.remembered(opened), name, domain, also or (), judge)
    write_atomic(path, text.encode())
    say(f"{path}: {name}, with sentences to read and change")
    say(f"next: {command('concept', 'add', path, workspace=opened)}")


def suggested(config: "RunConfig", name: str, domain: str, also: Sequence[str], judge: str) -> str:
    """The text of the file: the run's own sentences for the domain, paraphrases, and a judge that knows the word.

    Raises:
        ConfigError: the run has several domains and none is named, or the concept is one of the run's.
        UnknownName: there is no such domain or judge.
    """
    import yaml

    from flows.check import check_added
    from flows.config import validated
    from saeuron import judges
    from saeuron.config import ConceptConfig
    from saeuron.errors import ConfigError, UnknownName

    if not domain and len(config.domains) > 1:
        raise ConfigError(f"say which family {name!r} joins: --domain with one of {', '.join(config.domains)}.")
    domain = domain or next(iter(config.domains))
    if domain not in config.domains:
        raise UnknownName("domain", domain, config.domains)
    if judge:
        judges.check_name(judge)
    templates = sentences(config, domain)
    judge = judge or _judge(config, domain, name)
    values = {"name": name, "domain": domain, "also": list(also), "templates": templates}
    check_added(validated(ConceptConfig, values, "concept new"), _anyone(config))
    lines = [
        f"# A concept of your own: read the sentences, and change what does not fit {name!r}.",
        f"# {{{domain}:a}} is the concept with its article, {{{domain}}} without.",
        yaml.safe_dump({"name": name, "domain": domain}, sort_keys=False, allow_unicode=True).rstrip(),
        "# Other words for it; every sentence is written with these as well.",
        f"also: {yaml.safe_dump(list(also), default_flow_style=True, allow_unicode=True).strip()}",
    ]
    if judge:
        lines += ["# Who says whether an image shows it, by words alone.", yaml.safe_dump({"judge": judge}).rstrip()]
    written = yaml.safe_dump({"templates": templates}, sort_keys=False, width=1000, allow_unicode=True)
    return "\n".join([*lines, written])


def _anyone(config: "RunConfig") -> "RunConfig":
    """The configuration without judges: a suggestion is checked without looking for their models."""
    domains = {name: d.model_copy(update={"judge": "none", "judge_labels": {}}) for name, d in config.domains.items()}
    return config.model_copy(update={"domains": domains})


def _judge(config: "RunConfig", domain: str, name: str) -> str:
    """CLIP, where the domain's judge has no label for the concept; empty where it can judge it."""
    from saeuron import judges
    from saeuron.judges.clip import MODEL

    clip = f"clip:{MODEL}"
    about = config.domains[domain]
    if about.judge == judges.NONE:
        return clip
    labels = judges.of_domain(domain, about).labels
    return "" if labels is None or name in labels else clip


def sentences(config: "RunConfig", domain: str) -> dict[str, list[str]]:
    """{split: templates}: the run's own that name the domain, then paraphrases that no split of the run has."""
    from saeuron.prompts import SPLITS, placeholders

    own = config.prompts.templates
    taken = {t for templates in own.values() for t in templates}
    style = f"{{{domain}}} style" in " ".join(taken) or domain == "style"
    alone = _STYLE if style else _THING
    with_article = re.compile(rf"\b[Aa]n? \{{{re.escape(domain)}\}}")
    found: dict[str, list[str]] = {}
    for split in SPLITS:
        mine = [t for t in own.get(split, ()) if domain in placeholders(t, config.domains)]  # type: ignore[call-overload]
        crossed = [
            _crossed(t, domain, other)
            for t in alone[split][:1]
            for other in config.domains
            if other != domain and not any(other in placeholders(m, config.domains) for m in mine)
        ]
        written = [t.replace("DOMAIN", domain) for t in alone[split]]
        # The run's words may all take `a`; this one may not.
        said = [with_article.sub(f"{{{domain}:a}}", t) for t in mine]
        found[split] = list(dict.fromkeys([*said, *(t for t in (*written, *crossed) if t not in taken)]))
    return found


_THING = {
    "train": ["A photo of {DOMAIN:a}.", "A picture that shows {DOMAIN:a}.", "{DOMAIN:a}, seen up close."],
    "validation": ["Here is {DOMAIN:a}."],
    "test": ["There is {DOMAIN:a} in this picture."],
}
_STYLE = {
    "train": ["A photo in {DOMAIN} style.", "Something drawn in {DOMAIN} style.", "A scene in the {DOMAIN} style."],
    "validation": ["Here is a work in {DOMAIN} style."],
    "test": ["This picture is in {DOMAIN} style."],
}


def _crossed(template: str, domain: str, other: str) -> str:
    """The sentence with a concept of another domain in it."""
    with_it = f" in {{{other}}} style." if other == "style" else f" with {{{other}:a}}."
    return template.replace("DOMAIN", domain).removesuffix(".") + with_it
