"""Ways to remove a concept: one file for each method, which is found by its name.

    removal.py          `Removal`: how its parts attach, combine, and live in a file
    parts.py            what a removal is made of: edits, calls, changes, watches
    base.py             the base class of methods, and the evidence that they use
    latents.py          edits of an SAE's latents, which several methods share
    local.py            latents turned by hand, at some steps and in a region of the picture
    saeuron.py          SAeUron: multiply the latents of a concept by gamma mu (2501.18052)
    parity.py           SAeUron's edit with the sign of its public implementation, for comparison
    negative_prompt.py  name the concept in the negative prompt
    controls.py         SAeUron's edit with an untrained SAE, a frozen decoder, or random latents
    supervised.py       subtract a direction found from labels where a discriminant sees the concept; no SAE
    steering.py         subtract the difference of mean activations; no SAE
    clipped_steering.py  subtract the positive part of cross-attention outputs along that difference; no SAE
    gates.py            an edit of latents in tiers, with a gate by image or prompt
    tiers.py            add a constant change: everywhere, by image or by position
    replace.py          set the latents of a concept to their mean over the domain
    bake.py             fold a removal into weights
    text/               edits of a text encoder's states
    detection/          methods that detect with an SAE and act where it fires
    weights/            changes of weights: closed-form and trained edits

A method of your own is a subclass of `Method`, made known by `saeuron.methods.register(MyMethod())` or by an entry
point of the group `saeuron.methods`. docs/extending.md has the recipe.
"""

import re
from importlib import import_module
from typing import TYPE_CHECKING

from saeuron import installed
from saeuron.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from saeuron.methods.base import Method

GROUP = "saeuron.methods"
BUILT_IN = {
    "saeuron": "saeuron.methods.saeuron:SAeUron",
    "saeuron_parity": "saeuron.methods.parity:Parity",
    "negative_prompt": "saeuron.methods.negative_prompt:NegativePrompt",
    "steering": "saeuron.methods.steering:Steering",
    "clipped_steering": "saeuron.methods.clipped_steering:ClippedSteering",
    "untrained": "saeuron.methods.controls:Untrained",
    "frozen": "saeuron.methods.controls:Frozen",
    "random": "saeuron.methods.controls:Random",
    "supervised": "saeuron.methods.supervised:Supervised",
    "replace": "saeuron.methods.replace:Replace",
    "tiered": "saeuron.methods.tiers:Tiered",
    "tiered_random": "saeuron.methods.tiers:TieredRandom",
    "sauce": "saeuron.methods.detection.sauce:Sauce",
    "sae_guidance": "saeuron.methods.detection.sae_guidance:SAEGuidance",
    "gated_uce": "saeuron.methods.detection.gated_uce:GatedUCE",
    "gated_uce_random": "saeuron.methods.detection.gated_uce:GatedUCERandom",
    "prompt_uce": "saeuron.methods.detection.prompt_uce:PromptUCE",
    "either_uce": "saeuron.methods.detection.prompt_uce:EitherUCE",
    "either_uce_random": "saeuron.methods.detection.prompt_uce:EitherUCERandom",
    "itd": "saeuron.methods.text.itd:ItD",
    "text_latents": "saeuron.methods.text.text_latents:TextLatents",
    "semantic_gate": "saeuron.methods.text.semantic_gate:Semantic",
    "text_direction": "saeuron.methods.text.text_direction:TextDirection",
    "uce": "saeuron.methods.weights.uce:UCE",
    "procrustes": "saeuron.methods.weights.procrustes:Procrustes",
    "text_redirect": "saeuron.methods.weights.text_redirect:TextRedirect",
    "esd": "saeuron.methods.weights.esd:ESD",
}
"""{name: module:class}, imported on first use."""
UNTRAINED = "untrained"
_WITH_LATENTS = ("replace", "tiered", "sauce", "sae_guidance", "gated_uce", "either_uce", "itd", "text_latents")
"""Methods that have a control `NAME_untrained`. The one of `saeuron` is called `untrained`."""
_made: dict[str, "Method"] = {}


def register(method: "Method") -> None:
    """Register a method under its name, in this process.

    Raises:
        ConfigError: another method has this name, or the name is not lower-case letters, digits and underscores.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", method.name):
        raise ConfigError(f"a method cannot be named {method.name!r}; expected lower-case letters, digits and _.")
    if _made.get(method.name, method) is not method or method.name in BUILT_IN:
        raise ConfigError(f"there is a method {method.name!r} already; give yours another name.")
    _made[method.name] = method


def unregister(name: str) -> None:
    """Undo `register`; an unknown name is ignored."""
    _made.pop(name, None)


def names() -> list[str]:
    """Names of all methods: shipped, controls, registered, and from installed packages; sorted."""
    controls = (f"{name}_{UNTRAINED}" for name in _WITH_LATENTS)
    return sorted({*BUILT_IN, *controls, *_made, *installed.entries(GROUP)})


def control(name: str, kind: str) -> str:
    """Name of a method's control of a kind, `untrained` or `random`: its own if it has one, else SAeUron's."""
    own = f"{name}_{kind}"
    return own if own in names() else kind


def _with_untrained(name: str) -> "Method | None":
    """The control `NAME_untrained` of a method that reads an SAE: the same method with an untrained SAE."""
    of = name.removesuffix(f"_{UNTRAINED}")
    if of == name or of not in names() or (of in BUILT_IN and of not in _WITH_LATENTS):
        return None
    method = get(of)
    if not method.reads_sae or method.dictionary == UNTRAINED:
        return None
    return type(name, (type(method),), {"name": name, "dictionary": UNTRAINED, "like": of})()


def get(name: str) -> "Method":
    """The method of a name.

    Raises:
        UnknownName: there is none.
        ConfigError: it comes from an installed package and cannot be loaded.
    """
    if name in _made:
        return _made[name]
    found = installed.entries(GROUP)
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        _made[name] = getattr(import_module(module), attribute)()
    elif name in found:
        # Not kept: `register` may still take the name back, and a class is quickly made.
        return installed.load("method", found[name])()
    elif (control := _with_untrained(name)) is not None:
        return control
    else:
        raise UnknownName("method", name, names())
    return _made[name]
