"""The classifiers of UnlearnCanvas (2402.11846): one ViT-L/16 for its styles, one for its objects.

A folder holds `style.safetensors` and `object.safetensors`, made of the benchmark's two checkpoints by

    saeuron unlearncanvas convert CHECKPOINT.pth --out FOLDER

What the benchmark's own script does is pinned here: RGB, resized to 224 x 224 whatever the proportions (bilinear with
antialiasing, as Pillow resizes), divided by 255, minus 0.5, divided by 0.5; the order of the classes below; weights as
the checkpoint has them, without an average of its own. The network is `saeuron/judges/vit.py`.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saeuron.errors import BadModel, ConfigError, UnknownName
from saeuron.files import sha256
from saeuron.judges.judge import Judgement, named_score, refuse_templates

if TYPE_CHECKING:
    import torch

STYLES = (
    "Abstractionism", "Artist_Sketch", "Blossom_Season", "Bricks", "Byzantine", "Cartoon", "Cold_Warm",
    "Color_Fantasy", "Comic_Etch", "Crayon", "Cubism", "Dadaism", "Dapple", "Defoliation", "Early_Autumn",
    "Expressionism", "Fauvism", "French", "Glowing_Sunset", "Gorgeous_Love", "Greenfield", "Impressionism",
    "Ink_Art", "Joy", "Liquid_Dreams", "Magic_Cube", "Meta_Physics", "Meteor_Shower", "Monet", "Mosaic",
    "Neon_Lines", "On_Fire", "Pastel", "Pencil_Drawing", "Picasso", "Pop_Art", "Red_Blue_Ink", "Rust",
    "Seed_Images", "Sketch", "Sponge_Dabbed", "Structuralism", "Superstring", "Surrealism", "Ukiyoe", "Van_Gogh",
    "Vibrant_Flow", "Warm_Love", "Warm_Smear", "Watercolor", "Winter",
)  # fmt: skip
"""The 51 classes of the style head, in its order; `Seed_Images` are the photographs, which no style is."""
OBJECTS = (
    "Architectures", "Bears", "Birds", "Butterfly", "Cats", "Dogs", "Fishes", "Flame", "Flowers", "Frogs", "Horses",
    "Human", "Jellyfish", "Rabbits", "Sandwiches", "Sea", "Statues", "Towers", "Trees", "Waterfalls",
)  # fmt: skip
"""The 20 classes of the object head, in its order."""
HEADS = {"style": STYLES, "object": OBJECTS}
_SIDE = 224
_BATCH = 16
"""Images per forward pass."""
_PREPROCESSING = "rgb-224x224-bilinear-mean0.5-std0.5"


def spoken(name: str) -> str:
    """A class as prompts have it: `Artist_Sketch` is `Artist Sketch`."""
    return name.replace("_", " ")


class UnlearnCanvasJudge:
    """The head for the domain `style` or `object`; the score is its softmax over the labels asked for.

    Raises:
        UnknownName: there is no head for the domain.
        BadModel: the folder lacks the head.
        ConfigError: no folder is given.
    """

    def __init__(self, argument: str, domain: str, templates: Sequence[str], device: str) -> None:
        refuse_templates("unlearncanvas", templates)
        if not argument:
            raise ConfigError("the judge 'unlearncanvas' needs a folder; expected unlearncanvas:FOLDER.")
        if domain not in HEADS:
            raise UnknownName("domain of the judge 'unlearncanvas'", domain, HEADS, "Use judge: clip:MODEL for others.")
        # As prompts have them: the benchmark's own scripts write `in Artist Sketch style`.
        self.labels = tuple(spoken(name) for name in HEADS[domain])
        self._file = Path(argument).expanduser() / f"{domain}.safetensors"
        self._device = device
        if not self._file.is_file():
            raise BadModel(
                f"{argument} holds no {domain}.safetensors; make it of the benchmark's checkpoint: "
                f"saeuron unlearncanvas convert CHECKPOINT.pth --out {argument}"
            )

    @functools.cached_property
    def _content(self) -> str:
        return sha256(self._file)

    @property
    def identity(self) -> str:
        """Hash of the head's file, the number of classes and the preprocessing."""
        return f"unlearncanvas-{self._content[:16]}-{len(self.labels)}-classes-{_PREPROCESSING}"

    @functools.cached_property
    def _model(self) -> Any:
        from saeuron.checkpoint import load_tensors
        from saeuron.judges.vit import of_weights

        model = of_weights(load_tensors(self._file)[0])
        if (classes := model.head.out_features) != len(self.labels):
            raise BadModel(f"{self._file} has {classes} classes; expected {len(self.labels)}.")
        return model.to(self._device)

    def _pixels(self, images: NDArray[np.uint8]) -> "torch.Tensor":
        """float32 [B, 3, 224, 224] in [-1, 1]."""
        import torch
        from PIL import Image

        small = [Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR) for image in images]
        return (
            torch.from_numpy(np.stack([np.asarray(each) for each in small]))
            .permute(0, 3, 1, 2)
            .float()
            .to(self._device)
            / 127.5
            - 1
        )

    def __call__(self, images: NDArray[np.uint8], labels: Sequence[str]) -> list[Judgement]:
        """Judge images of any size.

        Raises:
            UnknownName: there is no such class.
            BadModel: the weights are not of this network, or give scores that are not finite.
        """
        import torch

        found: list[Judgement] = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                logits = self._model(self._pixels(images[start : start + _BATCH]))
                found += named_score("unlearncanvas", logits.cpu().numpy(), self.labels, labels)
        return found

    @property
    def extractor(self) -> str:
        """The name of `features`, by content."""
        return f"class token of unlearncanvas-{self._content[:16]}"

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The activations that the head reads: the class token after the last norm, float32 [B, D]."""
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                found.append(self._model.features(self._pixels(images[start : start + _BATCH])).cpu().numpy())
        return np.concatenate(found)


def convert(checkpoint: Path, folder: Path) -> Path:
    """Write a checkpoint of the benchmark as safetensors, `style` or `object` by its number of classes.

    Only tensors and plain values are read of it (`weights_only`): a file that holds code is refused.

    Raises:
        BadModel: it cannot be read so, or is not one of the two classifiers.
    """
    import torch

    from saeuron.checkpoint import read_foreign, save_tensors
    from saeuron.judges.vit import of_weights

    found, origin = read_foreign(checkpoint, "a checkpoint of the benchmark, such as style50_cls.pth")
    weights = found.get("model_state_dict", found) if isinstance(found, dict) else {}
    if not all(isinstance(value, torch.Tensor) for value in weights.values()) or "head.weight" not in weights:
        raise BadModel(f"{checkpoint} holds no classifier; expected `model_state_dict` with `head.weight`.")
    domain = next((name for name, classes in HEADS.items() if len(classes) == len(weights["head.weight"])), None)
    if domain is None:
        raise BadModel(
            f"{checkpoint} has {len(weights['head.weight'])} classes; expected 51 (styles, Seed_Images among them) "
            "or 20 (objects)."
        )
    of_weights(weights)
    path = folder / f"{domain}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(path, weights, {"classes": list(HEADS[domain]), "checkpoint_sha256": origin})
    return path
