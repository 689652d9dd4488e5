"""Try it: one prompt without and with latents and removals turned by hand; the same in a link and in Python."""

import shlex
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, urlencode

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saeuron.config import ModelConfig, in_text
from saeuron.errors import ConfigError
from saeuron.pages.pictures import Picture
from storage import Workspace
from tasks.explore.shelf import Shelf, remembered

CELLS = 16
"""Rows and columns of the grid that a region is painted on."""


class Chosen(BaseModel):
    """One latent, and what becomes of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sae: str
    latent: int = Field(ge=0)
    mode: Literal["off", "scale", "on"]
    value: float = Field(0.0, ge=-1e4, le=1e4, allow_inf_nan=False)
    """The factor if the mode is scale; the activation if it is on."""

    @property
    def text(self) -> str:
        """The form in a link: `SAE:LATENT:off`, `SAE:LATENT:scale:0.5`."""
        return f"{self.sae}:{self.latent}:{self.mode}" + ("" if self.mode == "off" else f":{self.value:g}")


class Request(BaseModel):
    """A request for a picture. A link holds it as its query."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field("", max_length=1000)
    seed: int = Field(0, ge=-(2**62), le=2**62)
    steps: int | None = Field(None, ge=1, le=200)
    """Denoising steps; None: the run's."""
    guidance: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    latents: tuple[Chosen, ...] = Field((), max_length=64)
    removals: tuple[tuple[str, float], ...] = Field((), max_length=16)
    """(CONCEPT.METHOD, strength 0 to 1)."""
    first: int = Field(0, ge=0)
    """The first step at which anything is edited, from 0."""
    last: int | None = Field(None, ge=0)
    region: str = Field("", pattern=f"^([0-9a-f]{{{CELLS * CELLS // 4}}})?$")
    """The painted cells, row by row, as hex digits; empty: the whole picture."""

    @classmethod
    def parse(cls, query: str) -> "Request":
        """A link's query. Raises ConfigError, in one line."""
        given = parse_qs(query, keep_blank_values=True, max_num_fields=200)
        try:
            fields: dict[str, Any] = {
                name: values[-1] for name, values in given.items() if name not in ("latent", "removal") and values[-1]
            }
            fields["latents"] = [_chosen(text) for text in given.get("latent", ()) if text]
            fields["removals"] = [_strength(text) for text in given.get("removal", ()) if text]
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{where} is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}.") from None
        except ValueError as error:
            raise ConfigError(str(error)) from None

    @property
    def query(self) -> str:
        """The link's query; `parse` reads it back."""
        given: list[tuple[str, object]] = [("prompt", self.prompt), ("seed", self.seed)]
        given += [(n, v) for n in ("steps", "guidance", "last") if (v := getattr(self, n)) is not None]
        given += [("first", self.first)] if self.first else []
        given += [("region", self.region)] if self.region else []
        given += [("latent", each.text) for each in self.latents]
        given += [("removal", f"{name}:{strength:g}") for name, strength in self.removals]
        return urlencode(given)

    @property
    def cells(self) -> list[list[bool]] | None:
        """[CELLS][CELLS], the painted ones; None: the whole picture."""
        if not self.region:
            return None
        bits = f"{int(self.region, 16):0{CELLS * CELLS}b}"
        return [[bit == "1" for bit in bits[CELLS * r : CELLS * (r + 1)]] for r in range(CELLS)]


def _chosen(text: str) -> dict[str, Any]:
    sae, latent, mode, *value = text.split(":")
    return {"sae": sae, "latent": latent, "mode": mode, **({"value": value[0]} if value else {})}


def _strength(text: str) -> tuple[str, str]:
    name, found, strength = text.rpartition(":")
    return (name, strength) if found else (text, "1")


class Pictures(NamedTuple):
    """The generated picture, uint8 [H, W, 3]."""

    unedited: Picture
    edited: Picture | None
    """None: nothing is edited."""
    changed: float
    """Mean absolute difference of the two, of 255."""


def model_of(shelf: Shelf, request: Request) -> ModelConfig:
    """How the model is sampled for a request."""
    config = remembered(shelf.workspace)
    given = {"steps": request.steps, "guidance": request.guidance}
    model = config.model if config else ModelConfig()
    return model.model_copy(update={k: v for k, v in given.items() if v is not None})


def check(shelf: Shelf, request: Request) -> None:
    """Raise ConfigError or UnknownName for a request that cannot be carried out, before the model is loaded."""
    from saeuron.methods.local import WHOLE, unlimited
    from saeuron.methods.removal import Removal
    from tasks.explore.latents import sae_of
    from tasks.registry.removals import file_of

    if not request.prompt.strip():
        raise ConfigError("there is no prompt; say what to draw.")
    first, last = span(shelf, request)
    steps, region = first > 0 or last is not None, bool(request.region)
    for each in request.latents:
        about = sae_of(shelf, each.sae).summary
        if each.latent >= (n := about["n_latents"]):
            raise ConfigError(f"latent {each.latent}: {each.sae} has {n}; expected 0 to {n - 1}.")
        if (steps or region) and in_text(about["hookpoint"]):
            raise ConfigError(f"latent {each.latent} of {about['hookpoint']} runs before all steps and acts {WHOLE}")
    for name, strength in request.removals:
        file = file_of(shelf.workspace, name)
        if not 0 <= strength <= 1:
            raise ConfigError(f"strength {strength:g} of {name}: expected 0 to 1.")
        if not (steps or region or 0 < strength < 1):
            continue
        # Some have no strength between 0 and 1, others no limits.
        if why := unlimited(Removal.load(file).at(strength), steps=steps, region=region):
            raise ConfigError(why)
    count = model_of(shelf, request).steps
    if request.first >= count or (request.last is not None and request.last < request.first):
        raise ConfigError(f"steps {request.first} to {request.last}: expected a range of 0 to {count - 1}.")


def span(shelf: Shelf, request: Request) -> tuple[int, int | None]:
    """(first, last) step at which anything is edited; last None: to the end, also where the request names the last."""
    end = request.last is None or request.last >= model_of(shelf, request).steps - 1
    return request.first, None if end else request.last


def generate(
    shelf: Shelf,
    request: Request,
    device: str,
    tell: Callable[[int, int], None],
    unedited: Picture | None = None,
) -> Pictures:
    """Carry out a request. The unedited picture is that of `saeuron generate`, bit for bit.

    Args:
        tell: called before each denoising step with (steps done, steps in all); an exception from it ends the work.
        unedited: the unedited picture, if it is known.
    """
    from saeuron.generation import latent_shape, sample
    from saeuron.methods.removal import removed
    from saeuron.noise import initial_noise
    from saeuron.pipelines import family_of
    from saeuron.prompts import Prompt
    from tasks.engine import model

    config = model_of(shelf, request)
    pipe = model.pipeline(config, device)
    shape = latent_shape(pipe, config)
    removal = removal_of(shelf, request, shape[1] / shape[2])
    total, done = config.steps * ((unedited is None) + (removal is not None)), 0

    def step(*_: Any) -> None:
        nonlocal done
        tell(min(done, total), total)
        done += 1

    noise = initial_noise(request.seed, [(Prompt(request.prompt, "test").id, 0)], shape)
    handle = family_of(pipe).denoiser(pipe).register_forward_pre_hook(step)
    try:
        if unedited is None:
            unedited = sample(pipe, [request.prompt], noise, config)[0]
        if removal is None:
            return Pictures(unedited, None, 0.0)
        with removed(pipe, [removal], any_model=True) as attached:
            edited = sample(pipe, [request.prompt], noise, config, extra=attached.call)[0]
    finally:
        handle.remove()
    return Pictures(unedited, edited, _difference(unedited, edited))


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


def removal_of(shelf: Shelf, request: Request, aspect: float) -> Any:
    """All edits as one removal; None: there are none."""
    import torch

    from saeuron.methods.local import Setting, local, turned
    from saeuron.methods.removal import Removal
    from saeuron.sae.autoencoder import SAE
    from tasks.registry.removals import file_of

    workspace: Workspace = shelf.workspace
    found = [Removal.load(file_of(workspace, name)).at(strength) for name, strength in request.removals]
    by_sae: dict[str, dict[int, Setting]] = {}
    for each in request.latents:
        by_sae.setdefault(each.sae, {})[each.latent] = Setting(*_setting(each))
    half = _half(shelf)
    parts = tuple(turned(SAE.load(workspace.whole(i)), settings, sae_id=i, half=half) for i, settings in by_sae.items())
    if parts:
        found.append(Removal("latents", "by hand", "saeuron", {}, parts))
    if not found:
        return None
    cells = request.cells
    region = None if cells is None else torch.tensor(cells)
    first, last = span(shelf, request)
    return local(found, first=first, last=last, region=region, aspect=aspect)


def _setting(each: Chosen) -> tuple[float, float]:
    return {"off": (0.0, 0.0), "scale": (each.value, 0.0), "on": (0.0, each.value)}[each.mode]


def _half(shelf: Shelf) -> Any:
    """The half of the batch that the workspace's removals edit."""
    config = remembered(shelf.workspace)
    return config.tune.half if config else "both"


def python(shelf: Shelf, request: Request) -> str:
    """Python that makes the same edited picture."""
    from tasks.registry.removals import file_of

    config = model_of(shelf, request)
    lines = [
        "import saeuron",
        "from saeuron.config import ModelConfig",
        "from saeuron.generation import latent_shape, sample",
        "from saeuron.methods.local import Setting, local, turned",
        "from saeuron.methods.removal import Removal, removed",
        "from saeuron.noise import initial_noise",
        "from saeuron.prompts import Prompt",
        "from saeuron.sae.autoencoder import SAE",
        "",
        f"model = ModelConfig({', '.join(f'{k}={v!r}' for k, v in _told(config).items())})",
        f"pipe = saeuron.load_pipeline({config.spec!r})",
        f"prompt = {request.prompt!r}",
        "shape = latent_shape(pipe, model)",
        f"noise = initial_noise({request.seed}, [(Prompt(prompt, 'test').id, 0)], shape)",
        "removals = []",
    ]
    for name, strength in request.removals:
        at = "" if strength == 1 else f".at({strength!r})"
        lines.append(f"removals.append(Removal.load({str(file_of(shelf.workspace, name))!r}){at})")
    by_sae: dict[str, list[Chosen]] = {}
    for each in request.latents:
        by_sae.setdefault(each.sae, []).append(each)
    if by_sae:
        lines.append("parts = []")
        for sae, some in by_sae.items():
            settings = ", ".join(f"{e.latent}: Setting{_setting(e)!r}" for e in some)
            folder = str(shelf.workspace.folder(sae))
            lines.append(
                f"parts.append(turned(SAE.load({folder!r}), {{{settings}}}, sae_id={sae!r}, half={_half(shelf)!r}))"
            )
        lines.append("removals.append(Removal('latents', 'by hand', 'saeuron', {}, tuple(parts)))")
    first, last = span(shelf, request)
    where = f", first={first}" if first else ""
    where += f", last={last}" if last is not None else ""
    if request.region:
        lines[0:0] = ["import torch"]
        lines.append(f"bits = [bit == '1' for bit in f\"{{int('{request.region}', 16):0{CELLS * CELLS}b}}\"]")
        where += f", region=torch.tensor(bits).reshape({CELLS}, {CELLS}), aspect=shape[1] / shape[2]"
    lines += (
        [
            f"with removed(pipe, [local(removals{where})], any_model=True) as attached:",
            "    picture = sample(pipe, [prompt], noise, model, extra=attached.call)[0]",
        ]
        if request.latents or request.removals
        else ["picture = sample(pipe, [prompt], noise, model)[0]"]
    )
    return "\n".join(lines) + "\n"


def _told(config: ModelConfig) -> Mapping[str, Any]:
    default = ModelConfig()
    return {k: v for k, v in config.model_dump().items() if v != getattr(default, k)}


def command_line(request: Request) -> str:
    """The command that draws the same; empty where no command can."""
    whole = not request.region and not request.first and request.last is None
    if request.latents or not whole or any(strength != 1 for _, strength in request.removals):
        return ""
    words = ["saeuron", "generate", request.prompt]
    for name, _ in request.removals:
        words += ["--remove", name]
    words += ["--seed", str(request.seed)]
    for name in ("steps", "guidance"):
        if (value := getattr(request, name)) is not None:
            words += [f"--{name}", f"{value:g}"]
    return shlex.join(words)
