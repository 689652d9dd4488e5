"""The command that writes prompts of the shipped models as a file for `prompts.files` of a configuration."""

import csv
from pathlib import Path
from typing import Annotated, TypeVar, get_args

import typer

from saeuron.canvas.commands.terminal import Model

Name = TypeVar("Name", bound=str)


def prompts(
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("prompts.csv"),
    model: Model = "canvas",
    kinds: Annotated[str, typer.Option(help="Kinds of prompts: plain, paraphrase, description, misspelling.")] = (
        "paraphrase,description,misspelling"
    ),
    splits: Annotated[str, typer.Option(help="Splits to write.")] = "train,validation,test",
    objects: Annotated[str | None, typer.Option(help="Objects to ask for; the default is all of the model.")] = None,
    styles: Annotated[str | None, typer.Option(help="Styles to ask for, beside none; the default is all.")] = None,
) -> None:
    """Write prompts that ask in other ways than the templates of canvas.yaml; each split has its own sentences.

    Name the objects and styles of your configuration: it refuses prompts for others. Several are divided by commas.

    Example: python -m saeuron.canvas prompts --kinds description --splits test --objects cat,king --out said.csv
    """
    from saeuron.canvas.vocabularies import vocabulary_named
    from saeuron.canvas.vocabulary import Split

    vocabulary = vocabulary_named(model)
    chosen_kinds = _chosen(f"kind of prompts of {model}", kinds, vocabulary.kinds)
    chosen_splits: list[Split] = _chosen("split", splits, get_args(Split))
    chosen_objects = _chosen("object", objects, vocabulary.objects)
    chosen_styles = _chosen("style", styles, vocabulary.styles)
    rows = [
        (text, split, name, style or "")
        for split in chosen_splits
        for kind in chosen_kinds
        for name in chosen_objects
        for style in (None, *chosen_styles)
        for text in vocabulary.sentences(split, name, style, kind)
    ]
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "split", "object", "style"))
        writer.writerows(rows)
    typer.echo(f"{out}: {len(rows):,} prompts")
    typer.echo(f"next: saeuron run --set 'prompts.files=[{out}]'")


def _chosen(what: str, given: str | None, known: tuple[Name, ...]) -> list[Name]:
    """The names of a list divided by commas; None: all that are known.

    Raises:
        BadParameter: there is none of a name.
    """
    from saeuron.errors import UnknownName

    if given is None:
        return list(known)
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in known:
            raise typer.BadParameter(str(UnknownName(what, name, known)))
    return [name for name in known if name in names]
