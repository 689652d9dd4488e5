"""Prompt sets: sentences that ask for concepts, from templates or from files.

A prompt's id is a hash of its text, so that a sentence has the same noise in every run.
"""

import csv
import hashlib
import itertools
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_args

from saeuron.config import DomainConfig, PromptsConfig, Split
from saeuron.errors import BadPrompts, UnknownName

SPLITS: tuple[str, ...] = get_args(Split)


@dataclass(frozen=True)
class Prompt:
    """One sentence, the split it belongs to, and what it asks for: {domain: concept}."""

    text: str
    split: str
    concepts: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Content hash, 16 hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def fill(template: str, concepts: Mapping[str, str]) -> str:
    """Fill a template with concepts and capitalise the first letter."""
    text = template.format_map(concepts)
    return text[:1].upper() + text[1:]


def placeholders(template: str, domains: Iterable[str]) -> tuple[str, ...]:
    """The domains that a template names. Raises BadPrompts or UnknownName for a malformed or unknown placeholder."""
    try:
        names = dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)
    except ValueError as error:
        raise BadPrompts(f"the template {template!r} is malformed ({error}); write braces in pairs.") from None
    known = list(domains)
    for name in names:
        if name not in known:
            raise UnknownName("placeholder", name, known, f"It is used in the template {template!r}.")
    return tuple(names)


def from_templates(config: PromptsConfig, domains: Mapping[str, Sequence[str]]) -> list[Prompt]:
    """Every template filled with every combination of concepts of the domains it names."""
    prompts = []
    for split, templates in config.templates.items():
        for template in templates:
            names = placeholders(template, domains)
            for combination in itertools.product(*(domains[name] for name in names)):
                concepts = dict(zip(names, combination, strict=True))
                prompts.append(Prompt(fill(template, concepts), split, concepts))
    return prompts


def _rows(path: Path) -> list[dict[str, str]]:
    match path.suffix.lower():
        case ".csv":
            # Spreadsheets write a byte order mark, which would become part of the first column's name.
            with path.open(newline="", encoding="utf-8-sig") as file:
                return [dict(row) for row in csv.DictReader(file)]
        case ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = []
            for number, line in enumerate(lines, 1):
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise BadPrompts(f"{path}, line {number}: not JSON ({error.msg}); expected an object.") from None
                if not isinstance(rows[-1], dict):
                    raise BadPrompts(f"{path}, line {number}: {line.strip()[:40]!r}; expected an object.")
            return rows
        case ".parquet":
            from pyarrow import parquet

            return cast(list[dict[str, str]], parquet.read_table(path).to_pylist())
        case ".txt":
            return [{"text": line} for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    raise BadPrompts(f"{path}: unknown kind of prompt file {path.suffix!r}; expected .csv, .jsonl, .parquet or .txt.")


def from_file(path: Path, domains: Mapping[str, Sequence[str]]) -> list[Prompt]:
    """Prompts of one file. Columns: `text`, `split` (default train) and one column per domain (may be empty).

    Raises:
        BadPrompts: the file is missing, empty or of an unknown type, or a row has no text or an unknown split.
        UnknownName: a row names a concept that its domain does not have.
    """
    if not path.is_file():
        raise BadPrompts(f"no such prompt file: {path}; give the path of a .csv, .jsonl, .parquet or .txt file.")
    try:
        rows = _rows(path)
    except (ValueError, csv.Error) as error:  # not UTF-8, not Parquet, a broken CSV
        raise BadPrompts(f"{path} cannot be read as {path.suffix}: {str(error).splitlines()[0]}") from error
    if not rows:
        raise BadPrompts(f"{path} holds no prompts; expected one per row, with a column `text`.")
    prompts = []
    for number, row in enumerate(rows, 1):
        text = str(row.get("text") or "").strip()
        if not text:
            raise BadPrompts(f"{path}, row {number}: no text; expected a column `text` with the prompt.")
        split = row.get("split") or "train"
        if split not in SPLITS:
            raise BadPrompts(f"{path}, row {number}: split {split!r}; expected one of {', '.join(SPLITS)}.")
        concepts = {d: str(row[d]) for d in domains if row.get(d)}
        for domain, concept in concepts.items():
            if concept not in domains[domain]:
                raise UnknownName(domain, concept, domains[domain], f"({path}, row {number})")
        prompts.append(Prompt(text, split, concepts))
    return prompts


def build(config: PromptsConfig, domains: Mapping[str, DomainConfig]) -> list[Prompt]:
    """The prompt set of a run, sorted by (split, text).

    Raises:
        BadPrompts: the set is empty, or a sentence occurs twice with different splits or concepts.
    """
    names = {domain: d.concepts for domain, d in domains.items()}
    prompts = from_templates(config, names)
    for file in config.files:
        prompts += from_file(Path(file), names)
    if not prompts:
        raise BadPrompts("the prompt set is empty; give prompts.templates or prompts.files.")
    by_text: dict[str, Prompt] = {}
    for prompt in prompts:
        other = by_text.setdefault(prompt.text, prompt)
        if other != prompt:
            raise BadPrompts(
                f"the prompt {prompt.text!r} occurs twice, as {other.split} {dict(other.concepts)} and as "
                f"{prompt.split} {dict(prompt.concepts)}; the splits must not share sentences: change one of them."
            )
    return sorted(by_text.values(), key=lambda p: (SPLITS.index(p.split), p.text))


def prompt_set(
    domains: Mapping[str, Sequence[str]],
    *,
    train: Sequence[str],
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
) -> list[Prompt]:
    """The prompts of some templates, each filled with every combination of the concepts that it names.

    Args:
        domains: {domain: concepts}, such as {"style": ["neon", "dots"], "object": ["cat", "moon"]}.
        train: templates such as "An image of {object} in {style} style.", for SAEs and scores.
        validation: templates that settings are chosen on.
        test: templates that figures are measured on. The splits must not share sentences.

    Raises:
        BadPrompts: a template is malformed, or a sentence is in two splits.
        UnknownName: a template names a domain that is not there.
    """
    templates: dict[Split, tuple[str, ...]] = {
        "train": tuple(train),
        "validation": tuple(validation),
        "test": tuple(test),
    }
    hooked = {name: DomainConfig(concepts=tuple(c), hookpoints=("-",)) for name, c in domains.items()}
    return build(PromptsConfig(templates=templates), hooked)


def choose(prompts: Iterable[Prompt], count: int, seed: int) -> list[Prompt]:
    """At most `count` of the prompts, by a seeded hash of their ids.

    Adding prompts never changes the relative order of the others, so a growing set keeps most of its members.
    """
    ranked = sorted(prompts, key=lambda p: hashlib.sha256(f"{seed}:{p.id}".encode()).digest())
    return ranked[:count]


def cells(prompts: Iterable[Prompt]) -> dict[tuple[tuple[str, str], ...], list[Prompt]]:
    """Prompts grouped by the concepts they ask for, keyed by the sorted (domain, concept) pairs."""
    groups: dict[tuple[tuple[str, str], ...], list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(tuple(sorted(prompt.concepts.items())), []).append(prompt)
    return dict(sorted(groups.items()))
