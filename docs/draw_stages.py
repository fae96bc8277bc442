"""Draws docs/stages.svg, the picture of the three stages: python docs/draw_stages.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

TRAINED, FROZEN, DATA = "#cfe3fb", "#e9e9e9", "#ffffff"
INK = "#222222"


def box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 2.3) -> None:
    """A labelled box around (x, y)."""
    patch = FancyBboxPatch(
        (x - width / 2, y - 0.31),
        width,
        0.62,
        boxstyle="round,pad=0.02,rounding_size=0.12",
        facecolor=colour,
        edgecolor=INK,
        linewidth=1.1,
    )
    axes.add_patch(patch)
    axes.text(x, y, text, ha="center", va="center", fontsize=10, color=INK)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "-|>"
) -> None:
    """An arrow between two points."""
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle=style, mutation_scale=12, color=INK, linewidth=1.1, shrinkA=0
        )
    )


def note(axes: Axes, x: float, y: float, text: str) -> None:
    """Small text around (x, y)."""
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color="#444444", style="italic")


def stage(axes: Axes, title: str, loss: str) -> None:
    """The frame of a stage."""
    axes.set(xlim=(0, 8), ylim=(0, 6), xticks=[], yticks=[])
    axes.set_title(title, fontsize=11, fontweight="bold", color=INK)
    axes.text(4, 0.35, loss, ha="center", va="center", fontsize=9.5, color=INK)
    for side in axes.spines.values():
        side.set_edgecolor("#bbbbbb")


def draw_first(axes: Axes) -> None:
    """All members learn together."""
    stage(axes, "1  Collaborative initialisation", "cross-entropy of each + KD of every pair")
    box(axes, 4, 5.0, "multimodal teacher", TRAINED, 3.0)
    box(axes, 1.7, 2.4, "cross-modal teacher", TRAINED, 3.0)
    box(axes, 6.3, 2.4, "student", TRAINED)
    arrow(axes, (3.3, 4.62), (2.0, 2.8), "<|-|>")
    arrow(axes, (4.7, 4.62), (6.0, 2.8), "<|-|>")
    arrow(axes, (3.3, 2.4), (5.1, 2.4), "<|-|>")
    note(axes, 4, 1.3, "all learn from labels and from one another")


def draw_second(axes: Axes) -> None:
    """Masks turn frozen teachers into specialists."""
    stage(axes, "2  Specialised teacher adaptation", "KD of every specialist towards the student")
    for y, name in ((5.0, "multimodal teacher"), (3.6, "cross-modal teacher")):
        box(axes, 1.75, y, name, FROZEN, 3.1)
        box(axes, 4.7, y, "masks", TRAINED, 1.4)
        box(axes, 6.9, y, "specialists", DATA, 1.9)
        arrow(axes, (3.32, y), (3.97, y))
        arrow(axes, (5.42, y), (5.92, y))
    box(axes, 6.6, 2.0, "student", FROZEN)
    arrow(axes, (6.9, 2.34), (6.9, 3.26))
    note(axes, 2.9, 2.0, "one mask a layer, each trained alone")
    note(axes, 2.9, 1.3, "grey: frozen, blue: trained")


def draw_third(axes: Axes) -> None:
    """The router chooses a specialist for every sample."""
    stage(axes, "3  Dynamic distillation", "cross-entropy + KD from the chosen + balance")
    box(axes, 1.6, 5.0, "sample", DATA, 1.7)
    box(axes, 1.6, 2.4, "student", TRAINED, 2.3)
    box(axes, 4.9, 2.4, "router", TRAINED, 1.7)
    box(axes, 5.6, 5.0, "specialists", FROZEN, 2.6)
    arrow(axes, (1.6, 4.66), (1.6, 2.76))
    arrow(axes, (2.5, 5.0), (4.24, 5.0))
    arrow(axes, (2.8, 2.4), (4.0, 2.4))
    arrow(axes, (5.1, 2.76), (5.6, 4.64))
    note(axes, 6.75, 3.5, "chooses for\nevery sample")
    arrow(axes, (4.6, 4.64), (2.35, 2.78))
    note(axes, 3.0, 4.05, "KD")
    note(axes, 4, 1.3, "only the student is deployed")


def main() -> None:
    """Write the picture beside this file."""
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "stages", "font.family": "sans-serif"}
    figure = Figure(figsize=(13, 3.7), layout="constrained", facecolor="white")
    for axes, draw in zip(
        figure.subplots(1, 3), (draw_first, draw_second, draw_third), strict=True
    ):
        draw(axes)
    figure.savefig(Path(__file__).with_name("stages.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
