"""Draw the quality of samplers over their UNet evaluations, from one evaluation of all their clips.

    python docs/plots/quality_over_evaluations.py RESULTS.json PICTURE.webp

Names of the methods in RESULTS.json: EVALUATIONS-SAMPLER, such as 25-dual. Methods without a UNet are drawn as lines.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

PANELS = {
    "trajectory_error": "tracking error, px (lower is better)",
    "region_psnr": "PSNR of the object's region, dB (higher is better)",
    "wrong_way": "steps the wrong way, share (lower is better)",
}
WITHOUT_UNET = ("rife", "cross-fade", "nearest")


def draw(results: dict[str, Any]) -> Figure:
    """One panel for each of `PANELS`, with 95 % intervals."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    samplers: dict[str, dict[int, str]] = defaultdict(dict)
    for name in results["methods"]:
        if match := re.fullmatch(r"(\d+)-(.+)", name):
            samplers[match[2]][int(match[1])] = name
    others = [name for name in WITHOUT_UNET if name in results["methods"]]
    for axes, (key, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for k, (sampler, names) in enumerate(samplers.items()):
            values = [results["methods"][names[count]][key] for count in sorted(names)]
            middle = [value["mean"] for value in values]
            ends = [[abs(v["mean"] - v["interval"][i]) for v in values] for i in (0, 1)]
            # moved apart, so that intervals at one count don't hide each other
            at = [count * 1.02 ** (k - len(samplers) / 2) for count in sorted(names)]
            axes.errorbar(at, middle, ends, marker="o", markersize=4, capsize=2, linewidth=1.4, color=f"C{k}", label=sampler)
        for name, style in zip(others, ("--", ":", "-."), strict=False):
            axes.axhline(results["methods"][name][key]["mean"], color="black", linestyle=style, linewidth=1.2, label=name)
        axes.set(xscale="log", xlabel="UNet evaluations", title=label)
        axes.set_xticks([10, 25, 50], ["10", "25", "50"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    draw(json.loads(source.read_text())).savefig(target, dpi=110)
