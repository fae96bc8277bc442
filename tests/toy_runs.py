"""Runs on small samples: two modalities, three, and dense labels."""

from __future__ import annotations

from mst_distill.parameters import Masks, Members, Route, Runtime, Teachers
from mst_distill.training.run import Run
from toys import make_samples

WIDTHS = {"image": 64, "audio": 13 * 32}
IMAGE = {"type": "toy_nets.Image", "masked_layers": ["conv", "second"]}
AUDIO = {"type": "toy_nets.Audio", "masked_layers": ["first", "second"]}
TEXT = {"type": "toy_nets.Audio", "masked_layers": ["first"]}
DENSE = {"type": "toy_nets.Dense", "masked_layers": ["encode", "middle"]}


def fusion(widths: dict[str, int]) -> dict:
    arguments = {"widths": widths}
    layers = ["fusion", "hidden"]
    return {"type": "toy_nets.Fusion", "arguments": arguments, "masked_layers": layers}


KINDS = {
    "two modalities": (
        {"modalities": {"image": (1, 8, 8), "audio": (13, 32)}},
        {"multimodal": fusion(WIDTHS), "modalities": {"image": IMAGE, "audio": AUDIO}},
    ),
    "three modalities": (
        {"modalities": {"image": (1, 8, 8), "audio": (13, 32), "text": (416,)}},
        {
            "multimodal": fusion({**WIDTHS, "text": 416}),
            "modalities": {"image": IMAGE, "audio": AUDIO, "text": TEXT},
        },
    ),
    "dense labels": (
        {"modalities": {"rgb": (3, 8, 8), "depth": (1, 8, 8)}, "dense": (8, 8), "ignored": 0},
        {
            "multimodal": {
                "type": "toy_nets.DenseFusion",
                "masked_layers": ["fused", "middle"],
            },
            "modalities": {"rgb": {**DENSE, "arguments": {"channels": 3}}, "depth": DENSE},
        },
    ),
}

TEACHERS = Teachers(epochs=2, batch_size=8, learning_rate=1e-2)
MASKS = Masks(epochs=2, batch_size=8, learning_rate=1e-2, factor=1, heads=2)


def route(**changes) -> Route:
    return Route(**{"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, **changes})


def make_run(
    kind: str = "two modalities", target: str | None = None, **runtime
) -> tuple[Run, Members]:
    """A run of 40 samples; the target is the first modality unless it is said."""
    shape, members = KINDS[kind]
    samples, splits = make_samples(40, **shape)
    known = Members.model_validate(members)
    settings = Runtime(**{"device": "cpu", **runtime})
    return Run(samples, splits, target or next(iter(known.modalities)), 0, settings), known
