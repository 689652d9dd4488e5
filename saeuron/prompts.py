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
from typing import Any, get_args

from saeuron.config import DomainConfig, PromptsConfig, Split, twice
from saeuron.errors import BadPrompts, UnknownName
from saeuron.figures.words import a

SPLITS: tuple[str, ...] = get_args(Split)
ARTICLE = "a"
"""`{domain:a}` in a template: the concept with its article."""
_NOT_READ = ("prompt_id", "prompt_set_id")
"""Columns that `saeuron sql "select * from prompts"` gives beside those that are read."""


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
    """Fill a template with concepts and capitalise the first letter. Names of domains and concepts are plain text.

    `{object:a}` is the concept with its article: `a zebra`, `an owl`.
    """
    text = ""
    for before, name, spec, _ in string.Formatter().parse(template):
        text += before
        if name is not None:
            text += a(concepts[name]) if spec == ARTICLE else concepts[name]
    return text[:1].upper() + text[1:]


def placeholders(template: str, domains: Iterable[str]) -> tuple[str, ...]:
    """The domains that a template names. Raises BadPrompts or UnknownName for a malformed or unknown placeholder."""
    try:
        parts = [part[1:] for part in string.Formatter().parse(template)]
    except ValueError as error:
        raise BadPrompts(f"the template {template!r} is malformed ({error}); write braces in pairs.") from None
    known = list(domains)
    for name, spec, conversion in parts:
        if name is not None and name not in known:
            raise UnknownName("placeholder", name, known, f"It is used in the template {template!r}.")
        if (spec or ARTICLE) != ARTICLE or conversion:
            raise BadPrompts(
                f"the template {template!r} formats {{{name}}}; write the name alone between the braces, or "
                f"{{{name}:a}} for the name with its article."
            )
    return tuple(dict.fromkeys(name for name, _, _ in parts if name is not None))


def from_templates(config: PromptsConfig, domains: Mapping[str, Sequence[str]]) -> list[Prompt]:
    """Every template filled with every combination of concepts of the domains it names, and with other words for them.

    A prompt asks for the concept, whichever word it uses.
    """
    prompts = []
    for split, templates in config.templates.items():
        for template in templates:
            names = placeholders(template, domains)
            for combination in itertools.product(*(domains[name] for name in names)):
                concepts = dict(zip(names, combination, strict=True))
                for words in itertools.product(*((c, *config.also.get(c, ())) for c in combination)):
                    text = fill(template, dict(zip(names, words, strict=True)))
                    prompts.append(Prompt(text, split, concepts))
    return prompts


def _rows(path: Path) -> list[dict[str, Any]]:
    # Spreadsheets write a byte order mark, which would become part of the first column's name.
    encoding = "utf-8-sig"
    match path.suffix.lower():
        case ".csv":
            with path.open(newline="", encoding=encoding) as file:
                # Strict: a quote that is never closed would take in every row after it.
                reader = csv.DictReader(file, strict=True)
                _distinct(path, map(_heading, reader.fieldnames or ()))
                return list(reader)
        case ".jsonl":
            rows = []
            for number, line in enumerate(path.read_text(encoding=encoding).split("\n"), 1):
                if not line.strip():
                    continue
                try:
                    rows.append(json.loads(line, object_pairs_hook=_object))
                except ValueError as error:
                    raise BadPrompts(f"{path}, line {number}: not JSON ({error}); expected an object.") from None
                if not isinstance(rows[-1], dict):
                    raise BadPrompts(f"{path}, line {number}: {line.strip()[:40]!r}; expected an object.")
            return rows
        case ".parquet":
            from pyarrow import parquet

            table = parquet.read_table(path)
            _distinct(path, map(_heading, table.column_names))
            return list(table.to_pylist())
        case ".txt":
            return [{"text": line} for line in path.read_text(encoding=encoding).split("\n") if line.strip()]
    raise BadPrompts(f"{path}: unknown kind of prompt file {path.suffix!r}; expected .csv, .jsonl, .parquet or .txt.")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused if a key stands twice: json alone keeps the last."""
    if (key := twice(key for key, _ in pairs)) is not None:
        raise ValueError(f"the key {key!r} stands twice")
    return dict(pairs)


def _heading(name: str) -> str:
    """A column's name as it is compared: capitals and blanks around it do not count."""
    return name.strip().casefold()


def _distinct(path: Path, headings: Iterable[str]) -> None:
    if repeated := twice(headings):
        raise BadPrompts(f"{path}: the column {repeated!r} stands twice; name each column once.")


def from_file(path: Path | str, domains: Mapping[str, Sequence[str]]) -> list[Prompt]:
    """Prompts of one file.

    Columns: `text`, `split` (default train), one column per domain (may be empty), or `concepts`, a mapping of domains
    to concepts, as the view `prompts` has it. Capitals and blanks around a column's name do not count.

    Raises:
        BadPrompts: the file is missing, empty or of an unknown type, or a row has no text or an unknown split.
        UnknownName: there is no such column, or a row names a concept that its domain does not have.
    """
    path = Path(path)
    if not path.is_file():
        raise BadPrompts(f"no such prompt file: {path}; give the path of a .csv, .jsonl, .parquet or .txt file.")
    try:
        rows = _rows(path)
    except (ValueError, csv.Error) as error:  # not UTF-8, not Parquet, a broken CSV
        raise BadPrompts(f"{path} cannot be read as {path.suffix}: {str(error).splitlines()[0]}") from error
    if not rows:
        raise BadPrompts(f"{path} holds no prompts; expected one per row, with a column `text`.")
    return [_prompt(f"{path}, row {number}", row, domains) for number, row in enumerate(rows, 1)]


def _prompt(place: str, row: Mapping[Any, Any], domains: Mapping[str, Sequence[str]]) -> Prompt:
    """The prompt of one row; `place` is what messages call it."""
    names = ("text", "split", "concepts", *domains)
    columns = {_heading(name): name for name in (*_NOT_READ, *names)} | {name: name for name in names}
    cells: dict[str, Any] = {}
    for heading, value in row.items():
        if heading is None:
            if any(value):
                raise BadPrompts(
                    f"{place}: more cells than columns ({value!r:.60}); put quotes around commas in a text."
                )
            continue
        name = columns.get(heading.strip()) or columns.get(_heading(heading))
        if name is None and value not in (None, ""):
            raise UnknownName("column", heading, names, f"({place}; delete columns that are not meant to be read)")
        if name is not None:
            cells[name] = value
    text = str(cells.pop("text", None) or "")
    if "\n" in text or "\r" in text:
        raise BadPrompts(f"{place}: the text {text!r:.60} has several lines; expected one (is a quote left open?).")
    text, cells = text.strip(), {name: v.strip() if isinstance(v, str) else v for name, v in cells.items()}
    if not text:
        raise BadPrompts(f"{place}: no text; expected a column `text` with the prompt.")
    split = cells.get("split") or "train"
    if split not in SPLITS:
        raise BadPrompts(f"{place}: split {split!r}; expected one of {', '.join(SPLITS)}.")
    concepts = {d: str(cells[d]) for d in domains if d not in ("text", "split", "concepts") and cells.get(d)}
    for domain, concept in _mapping(place, cells.get("concepts")).items():
        if domain not in domains:
            raise UnknownName("domain", domain, domains, f"({place})")
        if concepts.setdefault(domain, concept) != concept:
            raise BadPrompts(f"{place}: two concepts of {domain}, {concepts[domain]!r} and {concept!r}; keep one.")
    for domain, concept in concepts.items():
        if concept not in domains[domain]:
            raise UnknownName(domain, concept, domains[domain], f"({place})")
    return Prompt(text, split, concepts)


def _mapping(place: str, value: Any) -> dict[str, str]:
    """What a cell of the column `concepts` says: a mapping, pairs (Parquet), or JSON (CSV)."""
    try:
        found = json.loads(value) if isinstance(value, str) and value else value
        return {str(domain): str(concept) for domain, concept in dict(found or {}).items() if concept}
    except (ValueError, TypeError):
        raise BadPrompts(f"{place}: concepts {value!r:.60}; expected a mapping such as {{domain: concept}}.") from None


ANCHORS = 80
"""Anchor prompts that UnlearnCanvas has of each object, one a line; lines beyond these are not read."""


def anchor_files(folder: Path | str, objects: Iterable[str]) -> dict[str, Path]:
    """{object: its file of anchor prompts} in a copy of UnlearnCanvas.

    Raises:
        BadPrompts: there is no such folder, or it lacks the files of some objects.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise BadPrompts(f"no such folder: {folder}; prompts.unlearncanvas names a copy of UnlearnCanvas.")
    wanted = {name: f"sd_prompt_{name.replace(' ', '_')}.txt" for name in objects}
    where = {path.name: path for path in sorted(root.rglob("sd_prompt_*.txt"), reverse=True)}
    if missing := [file for file in wanted.values() if file not in where]:
        raise BadPrompts(
            f"{folder} lacks {len(missing)} of {len(wanted)} files of anchor prompts ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); in the benchmark they lie in "
            "machine_unlearning/mu_concept_ablation_ca/anchor_prompts/finetune_prompts."
        )
    return {name: where[file] for name, file in wanted.items()}


def from_unlearncanvas(folder: Path | str, domains: Mapping[str, Sequence[str]]) -> list[Prompt]:
    """The training prompts of UnlearnCanvas: `ANCHOR` and `ANCHOR in STYLE style.`, the first 80 of each object.

    Raises:
        BadPrompts: there is no domain `object`, a file is missing, not text, or has fewer than 80 lines.
    """
    if "object" not in domains:
        raise BadPrompts(f"prompts.unlearncanvas needs a domain named object; there are {', '.join(domains)}.")
    prompts = []
    for name, path in anchor_files(folder, domains["object"]).items():
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except ValueError as error:
            raise BadPrompts(f"{path} cannot be read as text: {error}") from None
        if len(lines) < ANCHORS:
            raise BadPrompts(f"{path} has {len(lines)} anchor prompts; expected {ANCHORS}, one a line.")
        for line in lines[:ANCHORS]:
            prompts.append(Prompt(line, "train", {"object": name}))
            for style in domains.get("style", ()):
                text = f"{line.removesuffix('.')} in {style} style."
                prompts.append(Prompt(text, "train", {"object": name, "style": style}))
    return prompts


def build(config: PromptsConfig, domains: Mapping[str, DomainConfig]) -> list[Prompt]:
    """The prompt set of a run, sorted by (split, text).

    Raises:
        BadPrompts: the set is empty, or a sentence occurs twice with different splits or concepts.
    """
    names = {domain: d.concepts for domain, d in domains.items()}
    prompts = from_templates(config, names)
    for file in config.files:
        prompts += from_file(file, names)
    if config.unlearncanvas:
        prompts += from_unlearncanvas(config.unlearncanvas, names)
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
