"""Pipeline families: everything that differs between Stable Diffusion, SDXL, SD3, PixArt and Flux.

base.py                 the interface of a family, with defaults
stable_diffusion.py     Stable Diffusion 1.x and 2.x, and canvas
stable_diffusion_xl.py  SDXL, SDXL Turbo
stable_diffusion_3.py   Stable Diffusion 3 and 3.5
pixart.py               PixArt-Alpha and -Sigma
flux.py                 Flux dev and schnell
flow.py                 what SD3 and Flux share: flow matching, blocks with two streams
calls.py                which pipeline runs the denoiser
compiled.py             hooks inside networks that were compiled
source.py               a model's files, in a folder or on the hub
survey.py               the modules worth hooking, and the shapes of what they give
counting.py             what a model costs, counted from its configuration
patching.py             how much of a concept each module carries
loading.py              load a pipeline; identify a model by its content; check hookpoints, schedulers and sizes

A family is chosen by the `_class_name` of model_index.json. To add one, subclass `Family` and call `register`.
A package has an entry point of the group `saeuron.pipelines` with that name. docs/extending.md has the recipe.
"""

import re
from typing import Any

from saeuron import installed
from saeuron.errors import BadModel, SaeuronError
from saeuron.pipelines.base import Family
from saeuron.pipelines.flux import Flux
from saeuron.pipelines.pixart import PixArtAlpha, PixArtSigma
from saeuron.pipelines.stable_diffusion import StableDiffusion
from saeuron.pipelines.stable_diffusion_3 import StableDiffusion3
from saeuron.pipelines.stable_diffusion_xl import StableDiffusionXL

__all__ = ["FAMILIES", "Family", "family_named", "family_of", "register", "unregister"]

GROUP = "saeuron.pipelines"
_TASK = re.compile(r"(ControlNet)?(Img2Img|Inpaint)?(?=Pipeline$)")

FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (StableDiffusion(), StableDiffusionXL(), StableDiffusion3(), PixArtAlpha(), PixArtSigma(), Flux())
}
"""{class name of a diffusers pipeline: its family}, of those that ship or were registered."""


def register(family: Family) -> None:
    """Add a family, from inside or outside the package.

    Raises:
        SaeuronError: the name is taken.
    """
    if family.name in FAMILIES:
        raise SaeuronError(f"pipeline family {family.name!r} is registered already; give it another name.")
    FAMILIES[family.name] = family


def unregister(name: str) -> None:
    """Forget a family that `register` added."""
    FAMILIES.pop(name, None)


def names() -> list[str]:
    """The class name of every pipeline that is known here."""
    return [*FAMILIES, *sorted({*installed.entries(GROUP)} - {*FAMILIES})]


def family_named(name: str, spec: object = "the model") -> Family:
    """The family of a pipeline class; `spec` is the model named in messages.

    Raises:
        BadModel: the class is not supported.
        ConfigError: the family is of an installed package and cannot be loaded.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if (found := installed.entries(GROUP).get(name)) is not None:
        return installed.load("pipeline family", found)()
    *others, last = names()
    raise BadModel(f"{spec} has the class {name}, which is not supported; expected {', '.join(others)} or {last}.")


def family_of(pipe: Any) -> Family:
    """The family of a pipeline, by its class or a parent class, or by its attribute `family`.

    Pipelines for other tasks that run the same denoiser, such as `StableDiffusionImg2ImgPipeline`, belong to it too.

    Raises:
        BadModel: the class is not supported.
    """
    named = getattr(pipe, "family", None)
    if isinstance(named, str):
        return family_named(named)
    known, parents = names(), [c.__name__ for c in type(pipe).__mro__]
    found = (name for parent in parents for name in (parent, _TASK.sub("", parent)) if name in known)
    return family_named(next(found, parents[0]), "this pipeline")
