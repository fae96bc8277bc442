"""Time every stage against the plain schedule, and the start of a run."""

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

from bench.cases import ALL, CASES
from bench.measure import PLAIN, Timing, measure
from bench.rates import Rates, measure_rates
from bench.startup import Startup, measure_startup
from mst_distill.parameters import Runtime
from mst_distill.training.device import settle_precision

EPOCHS = 100
"""The epochs per stage of a whole run, whose time is extrapolated from the timed epochs."""


def main() -> None:
    """Run the selected cases and stages; print tables and write all measurements to a JSON file."""
    options = _arguments()
    keys = ("device", "precision", "frozen", "graphs")
    runtime = settle_precision(Runtime(**{key: getattr(options, key) for key in keys}))
    logging.disable(logging.INFO)
    rates = measure_rates(runtime)
    report: dict[str, Any] = {
        "machine": machine(),
        "runtime": runtime.model_dump(),
        "rates": dataclasses.asdict(rates),
        "cases": {},
    }
    print(rates_line(rates), flush=True)
    for case in options.case:
        if case == "startup":
            startup = measure_startup()
            report["startup"] = dataclasses.asdict(startup)
            print(startup_line(startup), flush=True)
            continue
        timings = {stage: measure(case, stage, runtime, options.repeats) for stage in options.stage}
        report["cases"][case] = {
            stage: dataclasses.asdict(timing) for stage, timing in timings.items()
        }
        print(table(case, timings, rates), flush=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def rates_line(rates: Rates) -> str:
    """The rates of the device, as a sentence."""
    return (
        f"\nThe device computes {rates.products / 1e9:.0f} billion operations a second in matrix "
        f"products, and {rates.convolutions / 1e9:.0f} in 3 x 3 convolutions."
    )


def table(case: str, timings: dict[str, Timing], rates: Rates) -> str:
    """A Markdown table with a row for each stage, for the baseline, and for a whole run.

    The column "of products" has the rate of operations of the project's schedule as a share of that
    in matrix products, and "busy" the share of its time in which a GPU computes.
    """
    lines = [
        f"\n{case}\n",
        "| | s per epoch | plain | plain / project | samples/s | GFLOP/s | of products | busy "
        "| once, s | peak, MB | plain |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for stage, t in timings.items():
        rate = t.operations / t.seconds
        lines.append(
            f"| {stage} | {t.seconds:.4g} | {t.plain_seconds:.4g} "
            f"| {t.plain_seconds / t.seconds:.1f} | {t.samples / t.seconds:.0f} "
            f"| {rate / 1e9:.0f} | {rate / rates.products:.2f} "
            f"| {'' if t.busy is None else format(t.busy, '.2f')} "
            f"| {t.once_seconds:.1f} | {t.peak_bytes / 1e6:.0f} | {t.plain_peak_bytes / 1e6:.0f} |"
        )
        if t.baseline_seconds:
            lines.append(
                f"| baseline | | {t.baseline_seconds:.4g} "
                f"| {t.baseline_seconds / t.seconds:.2f} | | | | | | | |"
            )
    if timings.keys() == PLAIN.keys():
        project = sum(t.once_seconds + EPOCHS * t.seconds for t in timings.values())
        plain = sum(EPOCHS * t.plain_seconds for t in timings.values())
        samples = EPOCHS * sum(t.samples for t in timings.values())
        lines.append(
            f"| a run of {EPOCHS} epochs per stage | {project:.0f} in total | {plain:.0f} "
            f"| {plain / project:.1f} | {samples / project:.0f} | | | | | | |"
        )
    return "\n".join(lines)


def startup_line(startup: Startup) -> str:
    """The time to the first node and the slowest imports, as a sentence."""
    imports = ", ".join(f"{name} {seconds:.2f}" for name, seconds in startup.imports.items())
    return (
        f"\nkedro run takes {startup.cpu_seconds:.1f} s of CPU time and "
        f"{startup.wall_seconds:.1f} s of wall-clock time to its first node; of these, the slowest "
        f"imports take, in seconds: {imports}"
    )


def machine() -> dict[str, str | int]:
    """The machine and the versions that the measurements were made with."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The name of the processor, which Linux reports for x86; otherwise its architecture."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _arguments() -> argparse.Namespace:
    cases = [*ALL, "startup"]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--case", nargs="+", choices=cases, default=[*CASES, "startup"])
    parser.add_argument("--stage", nargs="+", choices=PLAIN, default=list(PLAIN))
    parser.add_argument("--repeats", type=int, default=3, help="timed turns per schedule")
    parser.add_argument("--device", default="auto", help="as runtime.device")
    parser.add_argument("--precision", default="float32", help="as runtime.precision")
    parser.add_argument(
        "--graphs", action=argparse.BooleanOptionalAction, default=True, help="as runtime.graphs"
    )
    parser.add_argument("--frozen", default="auto", help="as runtime.frozen")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
