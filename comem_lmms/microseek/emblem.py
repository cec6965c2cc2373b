"""Draws an emblem: what it is (`Emblem`) and how it is seen (`View`) in, an (56, 56, 3) uint8 image out.

What identifies an emblem is its form: a mirrored 5 x 5 pattern of cells, the form of the cells and the
outline around them. Position, scale, rotation, colours and noise belong to the view. Coverage is
counted on a grid of sub-pixels and mixed in integers, so the image is the same on every machine.
"""

from typing import NamedTuple

import numpy as np
from numpy.random import RandomState

SIZE = 56  # pixels a side: four Qwen-VL patches
OUTLINES = ("circle", "square", "diamond", "pentagon", "hexagon", "scallop")
CELLS = ("square", "disc", "diamond", "ring")
N_BITS = 15  # three columns of five; the other two mirror the first two

_SUBPIXELS = 3
_GRID = 0.62  # half the width of the pattern, in units of the outline's radius

Colour = tuple[int, int, int]


class Emblem(NamedTuple):
    """The identity: 15 cells in {0, 1} column by column, an index into OUTLINES and one into CELLS."""

    bits: tuple[int, ...]
    outline: int
    cell: int

    def distance(self, other: "Emblem") -> int:
        """How many of the 25 cells differ; another outline or cell form counts as three cells."""
        cells = sum(
            (1 if i >= 10 else 2) * (a != b) for i, (a, b) in enumerate(zip(self.bits, other.bits, strict=True))
        )
        return cells + 3 * (self.outline != other.outline) + 3 * (self.cell != other.cell)


class View(NamedTuple):
    """The circumstances: shift in pixels, radius in pixels, rotation in degrees, colours, noise amplitude and seed."""

    shift: tuple[float, float]
    radius: float
    rotation: float
    ground: Colour
    field: Colour
    charge: Colour
    noise: int
    noise_seed: int


def random_emblem(rng: RandomState) -> Emblem:
    """An emblem with 5 to 10 of its 15 free cells filled."""
    bits = np.zeros(N_BITS, dtype=int)
    bits[rng.permutation(N_BITS)[: rng.randint(5, 11)]] = 1
    return Emblem(tuple(bits.tolist()), int(rng.randint(len(OUTLINES))), int(rng.randint(len(CELLS))))


def portrait(rng: RandomState) -> View:
    """The view a knowledge base holds: upright, centred, without noise, in the realm's own colours."""
    return View((0.0, 0.0), 24.0, 0.0, *_colours(rng), 0, 0)


def snapshot(rng: RandomState) -> View:
    """The view a question shows: up to 5 pixels off, 18 to 24 in radius, turned up to 20 degrees, noisy, recoloured."""
    shift = (rng.uniform(-5, 5), rng.uniform(-5, 5))
    view = (shift, rng.uniform(18, 24), rng.uniform(-20, 20), *_colours(rng), int(rng.randint(8, 25)))
    return View(*view, int(rng.randint(2**31 - 1)))


def draw(emblem: Emblem, view: View) -> np.ndarray:
    """The image, (56, 56, 3) uint8."""
    layer = _layers(emblem, view)  # (168, 168): 0 ground, 1 field, 2 charge
    tiles = layer.reshape(SIZE, _SUBPIXELS, SIZE, _SUBPIXELS)
    palette = np.array([view.ground, view.field, view.charge])
    counts = np.stack([(tiles == i).sum((1, 3)) for i in range(3)], axis=-1)  # (56, 56, 3), sums to 9
    image = counts @ palette // _SUBPIXELS**2
    if view.noise:
        image = image + RandomState(view.noise_seed).randint(-view.noise, view.noise + 1, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def _layers(emblem: Emblem, view: View) -> np.ndarray:
    u, v = _coordinates(view)
    inside = np.hypot(u, v) < _outline_radius(OUTLINES[emblem.outline], np.arctan2(v, u))
    column, row = ((w + _GRID) * 5 / (2 * _GRID) for w in (u, v))  # 0 to 5 across the pattern
    in_grid = (column >= 0) & (column < 5) & (row >= 0) & (row < 5)
    x, y = (np.clip(w, 0, 4.999).astype(int) for w in (column, row))
    pattern = np.array(emblem.bits).reshape(3, 5)[[0, 1, 2, 1, 0]]  # (columns, rows)
    filled = _cell_form(CELLS[emblem.cell], (column - x) * 2 - 1, (row - y) * 2 - 1)
    return inside.astype(int) + (inside & in_grid & filled & (pattern[x, y] == 1))


def _coordinates(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Each sub-pixel in the emblem's own frame: centre 0, outline about 1."""
    axis = (np.arange(SIZE * _SUBPIXELS) + 0.5) / _SUBPIXELS - SIZE / 2
    x, y = np.meshgrid(axis - view.shift[0], axis - view.shift[1])
    cos, sin = np.cos(np.radians(view.rotation)), np.sin(np.radians(view.rotation))
    return (x * cos + y * sin) / view.radius, (y * cos - x * sin) / view.radius


def _outline_radius(outline: str, angle: np.ndarray) -> np.ndarray:
    if outline == "circle":
        return np.ones_like(angle)
    if outline == "scallop":
        return 1 + 0.1 * np.cos(8 * angle)
    sides, turn = {"square": (4, 0.25), "diamond": (4, 0.0), "pentagon": (5, 0.25), "hexagon": (6, 0.0)}[outline]
    step = 2 * np.pi / sides
    offset = (angle + 2 * np.pi * turn / (1 if outline == "pentagon" else 2)) % step - step / 2
    inner = {"square": 0.85, "diamond": 0.9, "pentagon": 0.88, "hexagon": 0.92}[outline]
    return inner / np.cos(offset)


def _cell_form(cell: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Whether a point of a cell, in [-1, 1] on both axes, is painted."""
    if cell == "square":
        return np.maximum(abs(p), abs(q)) < 0.92
    if cell == "diamond":
        return abs(p) + abs(q) < 1.1
    distance = np.hypot(p, q)
    return distance < 0.95 if cell == "disc" else (distance < 1.0) & (distance > 0.45)


def _colours(rng: RandomState) -> tuple[Colour, Colour, Colour]:
    """Ground, field and charge: a light field, at least 70 brighter (of 255) than the ground and the charge."""
    while True:
        ground, field, charge = rng.randint(0, 256, (3, 3)).tolist()
        if _brightness(field) - max(_brightness(ground), _brightness(charge)) >= 70:
            return tuple(ground), tuple(field), tuple(charge)


def _brightness(colour: list[int]) -> int:
    return (299 * colour[0] + 587 * colour[1] + 114 * colour[2]) // 1000
