"""False-hit rate against hit ratio: as a picture, and as text where there is nothing to draw with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lix_cache import MissingExtra

__all__ = ["Curve", "check_drawing", "draw", "text_plot"]

_WIDTH, _HEIGHT = 64, 16
_MARKS = "ox+*#%@"


@dataclass(frozen=True)
class Curve:
    """A line of the plot.

    Attributes:
        points: (hit ratio, false-hit rate), each 0 to 1.
        marked: of the same kind, drawn large, with a word beside each.
        is_dashed: for what it is compared with.
    """

    points: Sequence[tuple[float, float]]
    marked: Mapping[str, tuple[float, float]]
    is_dashed: bool = False


def check_drawing() -> None:
    """Raise what :func:`draw` would: better before the work than after it.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtra("matplotlib", "calibrate", "drawing a plot") from None


def draw(curves: Mapping[str, Curve], path: str, *, bound: float | None = None, title: str = "") -> None:
    """Write the plot to a file; its ending says as what: .svg, .png, .pdf.

    Raises:
        MissingExtra: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    check_drawing()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # The same points give the same file, and letters are text: small, and searchable.
    mpl.rcParams["svg.hashsalt"] = "lix-cache"
    mpl.rcParams["svg.fonttype"] = "none"
    # Without pyplot: no window, no global state.
    figure: Any = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        color = f"C{number // 2}" if any(c.is_dashed for c in curves.values()) else f"C{number}"
        points = sorted(curve.points)
        axes.plot(
            [100 * x for x, _ in points],
            [100 * y for _, y in points],
            "--" if curve.is_dashed else "-",
            color=color,
            label=name,
            alpha=0.6 if curve.is_dashed else 1.0,
        )
        for word, (x, y) in curve.marked.items():
            axes.plot([100 * x], [100 * y], "s" if curve.is_dashed else "o", color=color)
            # Beside the line, on the side where it is not.
            axes.annotate(
                word,
                (100 * x, 100 * y),
                textcoords="offset points",
                xytext=(6, -10) if curve.is_dashed else (-6, 5),
                ha="left" if curve.is_dashed else "right",
                fontsize=8,
                color=color,  # two curves may have their points close together
            )
    if bound is not None:
        axes.axhline(100 * bound, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("hit ratio, %")
    axes.set_ylabel("false-hit rate, %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, _top(curves, bound) * 100)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def text_plot(curves: Mapping[str, Curve], *, bound: float | None = None) -> str:
    """Return the plot as lines of text; a later curve is drawn over an earlier one."""
    top = _top(curves, bound)
    right = max((x for c in curves.values() for x, _ in [*c.points, *c.marked.values()]), default=0.0) or 1.0
    grid = [[" "] * (_WIDTH + 1) for _ in range(_HEIGHT + 1)]

    def place(x: float, y: float, mark: str) -> None:
        if y <= top:
            grid[_HEIGHT - round(y / top * _HEIGHT)][round(x / right * _WIDTH)] = mark

    if bound is not None and bound <= top:
        grid[_HEIGHT - round(bound / top * _HEIGHT)] = ["·"] * (_WIDTH + 1)
    for mark, curve in zip(_MARKS, curves.values(), strict=False):
        for x, y in curve.points:
            place(x, y, mark)
        for x, y in curve.marked.values():
            place(x, y, "█")
    lines = []
    for number, row in enumerate(grid):
        label = f"{top * (1 - number / _HEIGHT):6.1%}" if number % 4 == 0 else ""
        lines.append(f"{label:>7} │{''.join(row).rstrip()}")
    lines.append(f"{'':>7} └{'─' * (_WIDTH + 1)}")
    lines.append(f"{'':>7}  0{f'{right:.0%} hits':>{_WIDTH}}")
    names = ", ".join(f"{mark} {name}" for mark, name in zip(_MARKS, curves, strict=False))
    if bound is not None:
        names += f", · limit {bound:.2%}"
    lines.append(f"{'':>7}  false-hit rate; {names}")
    return "\n".join(lines)


def _top(curves: Mapping[str, Curve], bound: float | None) -> float:
    """Return the height of the plot: a little more than twice the bound, where the curves go further."""
    highest = max((y for c in curves.values() for _, y in [*c.points, *c.marked.values()]), default=0.0)
    wanted = highest * 1.08 if bound is None else min(highest * 1.08, bound * 2.5)
    return max(wanted, (bound or 0.0) * 1.25, 0.001)
