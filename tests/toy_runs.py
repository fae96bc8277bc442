"""Runs on small samples: two modalities, three, and dense labels."""

from __future__ import annotations

from typing import Any

from mst_distill.parameters import Masks, Route, Runtime, Teachers
from mst_distill.plan import Plan, read_plan
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


def make_plan(kind: str = "two modalities", **fields: Any) -> Plan:
    """The plan of `make_run`, with two epochs in stages 1 and 2 and three in stage 3."""
    members = KINDS[kind][1]
    method = {"baseline": {"type": "mst_distill.compare.methods.baseline.Baseline"}}
    plan = read_plan(
        {
            **{"run": "toy", "protocol": "heldout", "fold": None, "limit": "all", "seed": 0},
            **{"labelled": 1, "labelled_validation": None, "labelled_per_batch": 0.5},
            "target": next(iter(members["modalities"])),
            "benchmark": {"type": "toys.Toy"},
            **{
                "members": members,
                "training": "published",
                "teachers": TEACHERS.model_dump(),
                "masks": MASKS.model_dump(),
            },
            "route": route().model_dump(),
            **{"evaluate": {}, "card": {}, "diagnose": {}, "predict": {}},
            **{"export": {}, "budget": {}},
            "label_curve": {"shares": [1], "methods": "baseline"},
            "compare": {"methods": method},
            "runtime": {"device": "cpu"},
        }
    )
    return plan.model_copy(update=fields)


def vary(plan: Plan, **blocks: dict[str, Any]) -> Plan:
    """A copy of the plan with some keys of some blocks changed."""
    changed = {name: getattr(plan, name).model_copy(update=keys) for name, keys in blocks.items()}
    return plan.model_copy(update=changed)


def make_run(
    kind: str = "two modalities", target: str | None = None, **runtime: Any
) -> tuple[Run, Plan]:
    """A run of 40 samples and its plan; by default the target is the first modality."""
    shape, members = KINDS[kind]
    samples, splits = make_samples(40, **shape)
    name = target or next(iter(members["modalities"]))
    settings = Runtime(**{"device": "cpu", **runtime})
    plan = make_plan(kind, target=name, runtime=settings)
    return Run(samples, splits, name, plan.seed, settings), plan
