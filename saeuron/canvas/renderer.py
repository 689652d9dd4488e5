"""Draw canvas images: any object in any style, vectorised, from an explicit generator.

The result is what the classifier is trained on and what the diffusion model learns to imitate: float32 RGB in [-1, 1],
[B, 3, 32, 32]. Textures sit on the pixel grid (their phase is part of the style), objects and colours do not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from saeuron.canvas.hundred import GLYPHS
from saeuron.canvas.shapes import EXTENT, templates
from saeuron.canvas.vocabulary import OBJECTS, STYLE_CLASSES

SIZE = 32
"""Pixels per side."""
PEN, FINE_PEN = 2.4, 1.5
"""Half the width of a cartoon's outline, pixels: of the twenty shapes, and of glyphs, which a thick one would fill."""


@dataclass(frozen=True)
class _Scene:
    """Inputs of a style. B images; all colour values in [0, 1]."""

    distance: Tensor  # [B, 1, S, S], pixels, negative inside the object
    ink: Tensor  # [B, 3, 1, 1], the object's colour
    paper: Tensor  # [B, 3, 1, 1], the background's colour
    second: Tensor  # [B, 3, 1, 1], another background colour
    noise: Tensor  # [B, 3, S, S], standard normal
    pen: Tensor  # [B, 1, 1, 1], pixels, half the width of a cartoon's outline

    @property
    def inside(self) -> Tensor:
        """Antialiased coverage of the object, [B, 1, S, S]."""
        return (0.5 - self.distance).clamp(0, 1)

    def line(self, half_width: float) -> Tensor:
        """Antialiased coverage of the object's outline; half_width in pixels."""
        return (half_width + 0.5 - self.distance.abs()).clamp(0, 1)


def _mix(a: Tensor, b: Tensor, weight: Tensor | float) -> Tensor:
    return a + (b - a) * weight


def _pixels(device: torch.device) -> tuple[Tensor, Tensor]:
    axis = torch.arange(SIZE, device=device)
    return axis[:, None].expand(SIZE, SIZE), axis[None, :].expand(SIZE, SIZE)


def _coarse(noise: Tensor, cells: int) -> Tensor:
    """Per-image noise of `cells` x `cells` values, one channel: [B, 1, cells, cells]."""
    return noise[:, :1, :cells, :cells]


def _blur(image: Tensor, sigma: float) -> Tensor:
    radius = int(3 * sigma + 0.5)
    x = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = image.shape[1]
    image = F.pad(image, (radius,) * 4, mode="replicate")
    image = F.conv2d(image, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(image, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def _unstyled(s: _Scene) -> Tensor:
    return _mix(s.paper, s.ink, s.inside)


def _cartoon(s: _Scene) -> Tensor:
    outline = (s.pen - (s.distance - s.pen / 3).abs()).clamp(0, 1)
    return _mix(_mix(s.paper, s.ink * 0.55 + 0.45, s.inside), torch.zeros_like(s.ink), outline)


def _sketch(s: _Scene) -> Tensor:
    page = torch.full_like(s.paper, 0.96)
    hatch = ((_pixels(s.ink.device)[0] + _pixels(s.ink.device)[1]) % 3 == 0) * 0.3
    return _mix(page, torch.full_like(s.ink, 0.12), torch.maximum(s.inside * hatch, s.line(0.9)))


def _dots(s: _Scene) -> Tensor:
    y, x = _pixels(s.ink.device)
    dot = ((y % 4 - 1.5) ** 2 + (x % 4 - 1.5) ** 2 < 3).float()
    return _mix(torch.ones_like(s.ink), _unstyled(s), 0.3 + 0.7 * dot)


def _stripes(s: _Scene) -> Tensor:
    y, x = _pixels(s.ink.device)
    stripe = ((x + y) % 8 < 3).float()
    return _unstyled(s) * (1 - 0.7 * stripe)


def _watercolour(s: _Scene) -> Tensor:
    wash = F.interpolate(_coarse(s.noise, 5), SIZE, mode="bicubic", align_corners=True) * 0.07
    soft = _blur(s.inside, 1.0)
    pale = 0.9 + 0.08 * s.paper
    return _mix(pale, 0.1 + 0.6 * _vivid(s.ink), soft * 0.9) + wash * (0.4 + soft)


def _neon(s: _Scene) -> Tensor:
    hue = s.ink / s.ink.amax(1, keepdim=True).clamp(min=1e-3)
    hue = (hue - 0.75 * hue.amin(1, keepdim=True)).clamp(0, 1)
    glow = torch.exp(-s.distance.abs() / 2.2) * 0.75
    return _mix(hue * glow, 0.35 * hue + 0.65, s.line(0.6))


def _mosaic(s: _Scene) -> Tensor:
    y, x = _pixels(s.ink.device)
    grout = ((y % 4 == 3) | (x % 4 == 3)).float()
    tile = F.interpolate(_coarse(s.noise, 8), SIZE, mode="nearest") * 0.09
    return _mix(_unstyled(s) + tile, torch.full_like(s.ink, 0.1), grout * 0.85)


def _checker(s: _Scene) -> Tensor:
    y, x = _pixels(s.ink.device)
    dark = ((y // 4 + x // 4) % 2).float()
    return _mix(s.paper * (0.95 - 0.4 * dark) + 0.05, s.ink * (0.95 - 0.4 * dark) + 0.05, s.inside)


def _gradient(s: _Scene) -> Tensor:
    ramp = torch.linspace(0, 1, SIZE, device=s.ink.device)[:, None].expand(SIZE, SIZE)
    back = _mix(_vivid(s.paper), _vivid(s.second), ramp)
    return _mix(back, s.ink * 0.25 * (0.4 + ramp), s.inside)


def _grain(s: _Scene) -> Tensor:
    return _unstyled(s) * 0.8 + 0.1 + 0.15 * s.noise


def _sepia(s: _Scene) -> Tensor:
    y, x = _pixels(s.ink.device)
    vignette = (((y - 15.5) ** 2 + (x - 15.5) ** 2) / 480).clamp(0, 1)
    level = _mix(0.85 - 0.5 * vignette, torch.full_like(vignette, 0.28), _blur(s.inside, 0.7))
    tone = torch.tensor([1.0, 0.78, 0.5], device=s.ink.device).view(1, 3, 1, 1)
    return level * tone


def _blueprint(s: _Scene) -> Tensor:
    y, x = _pixels(s.ink.device)
    grid = ((y % 8 == 0) | (x % 8 == 0)).float() * 0.28
    blue = torch.tensor([0.06, 0.24, 0.62], device=s.ink.device).view(1, 3, 1, 1) * (0.85 + 0.3 * s.paper[:, :1])
    return _mix(_mix(blue, torch.ones_like(blue), grid + 0.12 * s.inside), torch.ones_like(blue), s.line(0.8))


def _vivid(colour: Tensor) -> Tensor:
    low, high = colour.amin(1, keepdim=True), colour.amax(1, keepdim=True)
    return (colour - low) / (high - low).clamp(min=0.05) * 0.75 + 0.2


_STYLE: dict[str, Callable[[_Scene], Tensor]] = {
    "cartoon": _cartoon,
    "sketch": _sketch,
    "dots": _dots,
    "stripes": _stripes,
    "watercolour": _watercolour,
    "neon": _neon,
    "mosaic": _mosaic,
    "checker": _checker,
    "gradient": _gradient,
    "grain": _grain,
    "sepia": _sepia,
    "blueprint": _blueprint,
    "unstyled": _unstyled,
}


def _colours(n: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ink, paper and a second colour, each [n, 3, 1, 1]: ink and paper always differ clearly in lightness."""
    u = torch.rand(n, 3, 3, generator=generator, device=device)
    dark_ink = torch.rand(n, 1, 1, generator=generator, device=device) < 0.5
    # Saturated hues: the channels spread over the whole range, then are moved to the wanted lightness.
    low, high = u.amin(2, keepdim=True), u.amax(2, keepdim=True)
    hue = (u - low) / (high - low).clamp(min=1e-3)
    dark, light = 0.03 + 0.42 * hue[:, :1], 0.66 + 0.32 * hue[:, 1:2]
    ink, paper = torch.where(dark_ink, dark, light), torch.where(dark_ink, light, dark)
    return (ink.view(n, 3, 1, 1), paper.view(n, 3, 1, 1), hue[:, 2].reshape(n, 3, 1, 1))


def _distances(shapes: Tensor, generator: torch.Generator) -> Tensor:
    """Signed distance to each posed shape in pixels, negative inside, [B, 1, S, S]; the first draws of `render`."""
    device = generator.device
    # A small pose range: a wide one (2.4 px, 0.2 rad, 13 % of the size) took a model of this size several times as
    # many images before its objects could be told apart (docs/log.md).
    u = torch.rand(len(shapes), 4, generator=generator, device=device) * 2 - 1
    radius = 11.0 + 0.7 * u[:, 0]
    angle = 0.08 * u[:, 1]
    shift = 1.2 * u[:, 2:]

    # Pixel centre -> template coordinates: undo the shift, the rotation and the scale.
    axis = torch.arange(SIZE, device=device) - (SIZE - 1) / 2
    dx = axis.view(1, 1, -1) - shift[:, :1, None]
    dy = axis.view(1, -1, 1) - shift[:, 1:, None]
    cos, sin = (f(angle).view(-1, 1, 1) / radius.view(-1, 1, 1) for f in (torch.cos, torch.sin))
    grid = torch.stack((cos * dx + sin * dy, cos * dy - sin * dx), dim=-1) / EXTENT
    distance = F.grid_sample(shapes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return distance * radius.view(-1, 1, 1, 1)


def masks(objects: Tensor, generator: torch.Generator, names: tuple[str, ...] = OBJECTS) -> Tensor:
    """Coverage of each pixel by the object that `render` draws from a generator in the same state.

    Args:
        objects: int64 [B], indices into `names`.
        generator: the only source of randomness.
        names: the objects that there are.

    Returns:
        float32 [B, 1, 32, 32]: 0 outside, 1 inside, between them on the outline.
    """
    return (0.5 - _distances(_shapes(objects, generator, names), generator)).clamp(0, 1)


def _shapes(objects: Tensor, generator: torch.Generator, names: tuple[str, ...]) -> Tensor:
    return templates(names).to(generator.device)[objects.to(generator.device)]


def render(objects: Tensor, styles: Tensor, generator: torch.Generator, names: tuple[str, ...] = OBJECTS) -> Tensor:
    """Draw one image per row.

    Args:
        objects: int64 [B], indices into `names`.
        styles: int64 [B], indices into `STYLE_CLASSES` (the last is unstyled).
        generator: the only source of randomness; its device is where the images are drawn.
        names: the objects that there are.

    Returns:
        float32 [B, 3, 32, 32] in [-1, 1].
    """
    pens = torch.tensor([FINE_PEN if name in GLYPHS else PEN for name in names])
    return render_shapes(_shapes(objects, generator, names), styles, generator, pens[objects.cpu()])


def render_shapes(
    shapes: Tensor, styles: Tensor, generator: torch.Generator, pens: Tensor | float = FINE_PEN
) -> Tensor:
    """Draw one image per shape, which need not be an object that canvas knows; arguments and result as of `render`.

    Args:
        shapes: distance templates, float32 [B, 1, R, R] (`saeuron.canvas.shapes`).
        pens: half the width of a cartoon's outline, pixels, [B] or for all.
    """
    device, n = generator.device, len(shapes)
    styles = styles.to(device)
    distance = _distances(shapes, generator)
    ink, paper, second = _colours(n, generator, device)
    noise = torch.randn(n, 3, SIZE, SIZE, generator=generator, device=device)
    pen = torch.as_tensor(pens, device=device).expand(n).view(-1, 1, 1, 1)

    image = torch.empty(n, 3, SIZE, SIZE, device=device)
    for index in range(len(STYLE_CLASSES)):
        rows = (styles == index).nonzero().squeeze(1)
        if len(rows):
            scene = _Scene(distance[rows], ink[rows], paper[rows], second[rows], noise[rows], pen[rows])
            image[rows] = _STYLE[STYLE_CLASSES[index]](scene)
    return image.clamp(0, 1) * 2 - 1
