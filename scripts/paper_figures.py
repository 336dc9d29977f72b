#!/usr/bin/env python3
"""Draw the paper's figures from docs/paper/data/*.json, and set the paper.

python scripts/paper_figures.py                        # docs/paper/figures/*.svg
python scripts/paper_figures.py --pdf lix_cache.pdf    # and the paper itself
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from draw_pictures import DRAWINGS
from matplotlib import pyplot as plt
from matplotlib.ticker import PercentFormatter

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "docs" / "paper"
FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"

#: Colours, markers and strokes: each kind can be told apart without its colour (Okabe and Ito).
SETS = {
    "banking77": ("BANKING77", "#0072B2", "o", "-"),
    "clinc150": ("CLINC150", "#D55E00", "s", "--"),
    "hwu64": ("HWU64", "#009E73", "^", "-."),
    "faq": ("FAQ", "#CC79A7", "D", ":"),
    "xsid": ("xSID", "#000000", "v", (0, (5, 1, 1, 1, 1, 1))),
}
CODECS = {
    "order-0 entropy": ("order-0 entropy", "#999999", ""),
    "zlib 6": ("zlib 6", "#F0E442", "//"),
    "zstd 19 + dictionary": ("zstd 19 + trained dictionary", "#E69F00", ".."),
    "brotli 11": ("Brotli 11", "#56B4E9", "\\\\"),
    "HCv2, shipped": ("phrases", "#0072B2", ""),
    "level 2, shipped": ("phrases and copies", "#003F63", ""),
}
FRAMES = {
    **{name: CODECS[name] for name in list(CODECS)[1:4]},
    "archive, shipped": ("archive", "#0072B2", ""),
}
TEXTS = {
    "sgd": "SGD",
    "topicalchat": "Topical-Chat",
    "beam100k": "BEAM",
    "xsid": "xSID",
    "pawsx": "PAWS-X",
}


#: A rate over fewer hits says nothing.
LEAST_HITS = 20
#: Where the axis of rates ends; intervals may go on below.
LEAST_RATE = 0.0005


def read(name: str) -> Any:
    return json.loads((PAPER / "data" / f"{name}.json").read_text(encoding="utf-8"))


def transfer() -> Any:
    """One cutoff on five sets: the share of wrong hits, with its exact interval."""
    sets = read("thresholds")["sets"]
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.3), sharey=True)
    for axis, kind, key, step, label in (
        (axes[0], "plain cosine", "threshold", 0.0022, "cosine of at least"),
        (axes[1], "lix-cache", "score", 0.008, "score of at least"),
    ):
        for number, (name, (title, colour, marker, stroke)) in enumerate(SETS.items()):
            points = [point for point in sets[name][kind] if point["hits"] >= LEAST_HITS]
            # Beside each other, so that no interval hides another.
            places = [point["thresholds"][key] + step * (number - 2) for point in points]
            found = [(place, point) for place, point in zip(places, points, strict=True) if point["wrong"]]
            rates = [point["false_hit_rate"] for _, point in found]
            low, high = zip(*(point["interval"] for _, point in found), strict=True)
            axis.errorbar(
                [place for place, _ in found],
                rates,
                yerr=[
                    [rate - one for rate, one in zip(rates, low, strict=True)],
                    [one - rate for rate, one in zip(rates, high, strict=True)],
                ],
                color=colour, marker=marker, linestyle=stroke, markersize=3.5, linewidth=1.2, elinewidth=0.7,
                label=title,
            )  # fmt: skip
            # On a logarithmic scale there is no place for none.
            axis.plot(
                [place for place, point in zip(places, points, strict=True) if not point["wrong"]],
                [point["interval"][1] for point in points if not point["wrong"]],
                color=colour, marker=marker, linestyle="none", markersize=4.5, fillstyle="none",
            )  # fmt: skip
        axis.axhline(0.02, color="#555555", linewidth=0.9, linestyle=(0, (6, 3)))
        axis.set_xlabel(label)
        axis.set_yscale("log")
        axis.set_yticks(
            [0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.3, 1],
            ["0.1%", "0.3%", "1%", "2%", "5%", "10%", "30%", "100%"],
        )
        axis.minorticks_off()
        axis.set_ylim(LEAST_RATE, 1.1)
    axes[0].set_ylabel("wrong among the hits")
    axes[1].legend(fontsize=8, frameon=False, loc="upper right", ncols=2)
    return figure


def generated() -> Any:
    """Answers that a model wrote: hits against wrong hits."""
    rules = read("generated")["streams"]["rules"]
    figure, axis = plt.subplots(figsize=(6.2, 3.3))
    kinds = {
        "plain cosine": ([name for name in rules if name.startswith("cosine")], "#D55E00", "s"),
        "answers by equality alone": (["answers by equality alone"], "#000000", "x"),
        "this work": (["defaults", "defaults, no guards"], "#0072B2", "o"),
    }
    for kind, (names, colour, marker) in kinds.items():
        points = [rules[name]["whole"] for name in names]
        rates = [point.get("false_hit_rate", 0.0) for point in points]
        low, high = zip(*(rules[name]["by_intent"]["interval"] for name in names), strict=True)
        axis.errorbar(
            [point["hit_ratio"] for point in points],
            rates,
            yerr=[
                [rate - one for rate, one in zip(rates, low, strict=True)],
                [one - rate for rate, one in zip(rates, high, strict=True)],
            ],
            color=colour, marker=marker, linestyle="none", capsize=2.5, markersize=5, linewidth=1, label=kind,
        )  # fmt: skip
        for name, point, rate in zip(names, points, rates, strict=True):
            if kind != "answers by equality alone":
                shown = name.removeprefix("cosine ").replace("defaults, no guards", "without guards")
                beside = {"defaults": (-44, -13), "without guards": (7, -13)}.get(shown, (6, 5))
                axis.annotate(
                    shown, (point["hit_ratio"], rate), textcoords="offset points", xytext=beside, fontsize=8
                )
    axis.set_xlabel("questions answered from the cache")
    axis.set_ylabel("wrong among the hits")
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlim(left=0)
    axis.set_ylim(-0.003, 0.13)
    axis.legend(fontsize=8, frameon=False, loc="upper center")
    return figure


def sizes() -> Any:
    """What is left of texts that the dictionary does not know."""
    found = read("codec")["sizes"]
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.2), gridspec_kw={"width_ratios": [5, 2.6]}, sharey=True)
    for axis, kind, bars, title in (
        (axes[0], "messages", CODECS, "single messages"),
        (axes[1], "10-turn frames", FRAMES, "frames of ten turns"),
    ):
        texts = [name for name in TEXTS if kind in found.get(name, {})]
        width = 0.84 / len(bars)
        for place, (codec, (label, colour, hatch)) in enumerate(bars.items()):
            rows = [found[name][kind]["bytes"] for name in texts]
            axis.bar(
                [number - 0.42 + (place + 0.5) * width for number in range(len(texts))],
                [row[codec] / row["raw"] for row in rows],
                width, color=colour, hatch=hatch, edgecolor="#222222", linewidth=0.5, label=label,
            )  # fmt: skip
        axis.set_xticks(range(len(texts)), [TEXTS[name] for name in texts], fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.axhline(1, color="#555555", linewidth=0.8)
    axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0].set_ylabel("size left")
    axes[0].set_ylim(0, 1.3)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].legend(handles, labels, fontsize=7.5, frameon=False, ncols=3, loc="upper left")
    axes[1].legend(*[one[-1:] for one in axes[1].get_legend_handles_labels()], fontsize=7.5, frameon=False)
    return figure


FIGURES: dict[str, Callable[[], Any]] = {"transfer": transfer, "generated": generated, "sizes": sizes}


def draw(folder: Path) -> None:
    """Write all figures, the three pictures of the documentation among them, as plain SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: Any = {
        "svg.hashsalt": "lix_cache",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(settings):
        for name, make in FIGURES.items():
            figure = make()
            figure.tight_layout()
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)
    for name, picture in DRAWINGS.items():
        (folder / f"{name}.svg").write_text(picture().svg(scheme="light"), encoding="utf-8")


def compile_paper(folder: Path, target: Path, *, pages: str | None = None) -> None:
    """Set the paper as PDF, or its pages as pictures where ``pages`` is ``png``."""
    import typst

    # Its types do not know that a format may be a variable.
    compile_it: Any = typst.compile
    compile_it(
        folder / "paper.typ", output=target, root=folder, format=pages or "pdf", font_paths=[FONTS],
        ignore_system_fonts=True, ppi=110 if pages else None,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=PAPER, help="where paper.typ is, and figures/ goes")
    parser.add_argument("--pdf", type=Path, help="set the paper, and write it here")
    parser.add_argument("--png", type=Path, help="its pages as pictures: page-{p}.png")
    arguments = parser.parse_args()
    draw(arguments.folder / "figures")
    if arguments.pdf:
        compile_paper(arguments.folder, arguments.pdf)
    if arguments.png:
        compile_paper(arguments.folder, arguments.png, pages="png")


if __name__ == "__main__":
    main()
