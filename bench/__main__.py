"""Times every stage against the plain schedule, and the start of a run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import platform
from pathlib import Path
from typing import Any

import torch

from bench.cases import CASES
from bench.measure import PLAIN, Timing, measure
from bench.startup import Startup, measure_startup
from mst_distill.parameters import Runtime

EPOCHS = 100
"""Of every stage of the whole run, which is reckoned from the epochs that were timed."""


def main() -> None:
    """Measure what is asked for; a table to the screen, all figures to a JSON file."""
    chosen = _arguments()
    runtime = Runtime(device=chosen.device, precision=chosen.precision, frozen=chosen.frozen)
    logging.disable(logging.INFO)
    report: dict[str, Any] = {"machine": machine(), "runtime": runtime.model_dump(), "cases": {}}
    for case in chosen.case:
        if case == "startup":
            startup = measure_startup()
            report["startup"] = dataclasses.asdict(startup)
            print(startup_line(startup), flush=True)
            continue
        stages = {s: measure(case, s, runtime, chosen.repeats) for s in chosen.stage}
        report["cases"][case] = {s: dataclasses.asdict(timing) for s, timing in stages.items()}
        print(table(case, stages), flush=True)
    chosen.out.write_text(json.dumps(report, indent=2) + "\n")


def table(case: str, timings: dict[str, Timing]) -> str:
    """Markdown: a row a stage, one for the student alone and one for the whole run."""
    lines = [
        f"\n{case}\n",
        "| | seconds an epoch | plain | plain / ours | samples/s | once, s | peak, MB | plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage, t in timings.items():
        lines.append(
            f"| {stage} | {t.seconds:.4g} | {t.plain_seconds:.4g} "
            f"| {t.plain_seconds / t.seconds:.1f} | {t.samples / t.seconds:.0f} "
            f"| {t.once_seconds:.1f} | {t.peak_bytes / 1e6:.0f} | {t.plain_peak_bytes / 1e6:.0f} |"
        )
        if t.alone_seconds:
            lines.append(
                f"| the student alone | | {t.alone_seconds:.4g} "
                f"| {t.alone_seconds / t.seconds:.2f} | | | | |"
            )
    if timings.keys() == PLAIN.keys():
        ours = sum(t.once_seconds + EPOCHS * t.seconds for t in timings.values())
        plainly = sum(EPOCHS * t.plain_seconds for t in timings.values())
        seen = EPOCHS * sum(t.samples for t in timings.values())
        lines.append(
            f"| a run of {EPOCHS} epochs a stage | {ours:.0f} in all | {plainly:.0f} "
            f"| {plainly / ours:.1f} | {seen / ours:.0f} | | | |"
        )
    return "\n".join(lines)


def startup_line(startup: Startup) -> str:
    """One sentence."""
    imports = ", ".join(f"{name} {seconds:.2f}" for name, seconds in startup.imports.items())
    return (
        f"\nkedro run, from typing to the first node: {startup.cpu_seconds:.1f} s of CPU, "
        f"{startup.wall_seconds:.1f} s by the clock; of which imports take, in seconds: {imports}"
    )


def machine() -> dict[str, str | int]:
    """What the figures are of."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Its name, which Linux tells of an x86 processor; else its kind."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _arguments() -> argparse.Namespace:
    every = [*CASES, "startup"]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--case", nargs="+", choices=every, default=every)
    parser.add_argument("--stage", nargs="+", choices=PLAIN, default=list(PLAIN))
    parser.add_argument("--repeats", type=int, default=3, help="turns of each that are timed")
    parser.add_argument("--device", default="auto", help="as runtime.device")
    parser.add_argument("--precision", default="float32", help="as runtime.precision")
    parser.add_argument("--frozen", default="auto", help="as runtime.frozen")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
