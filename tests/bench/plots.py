"""One SVG per curve, the same bytes for the same figures: `python -m tests.bench.plots build/bench.json FOLDER` draws again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.figures import Curve, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PREFIX = "curve."
GREY = "#808890"  # on white as on black
COLOURS = ("#2f81f7", "#e0672c", "#3fa34d", "#a56fe0", "#c9a227")
STYLE: Any = {
    "svg.hashsalt": "stepcred",
    "svg.fonttype": "none",  # the page's own letters
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}
FEW_POINTS = 20  # up to which each one is marked
FAR, VERY_FAR = 8, 30  # from this ratio of the greatest to the least on, an axis is logarithmic: x, y
HEADROOM = 1.08
WIDTH, HEIGHT = 8.4, 2.5  # inches, of one panel


def draw(curves: Iterable[Curve], folder: Path) -> int:
    """Each into `<key without its prefix>.svg`; how many."""
    import matplotlib as mpl

    mpl.use("svg")
    drawn = 0
    with mpl.rc_context(STYLE):
        for curve in curves:
            folder.mkdir(parents=True, exist_ok=True)
            _draw(curve, folder / f"{curve.key.removeprefix(PREFIX).replace('_', '-')}.svg")
            drawn += 1
    return drawn


def _draw(curve: Curve, path: Path) -> None:
    from matplotlib.figure import Figure

    count = len(curve.panels)
    picture = Figure(figsize=(WIDTH, HEIGHT * count + 0.6), layout="constrained")
    panels = picture.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    picture.suptitle(curve.what, x=0.01, ha="left", fontsize=12)
    fullest = max(curve.panels.values(), key=len)
    colours = dict(zip((line.side for line in fullest), COLOURS, strict=False))
    for axes, (name, lines) in zip(panels, curve.panels.items(), strict=True):
        _panel(axes, name, lines, colours)
    panels[-1].set_xlabel(curve.x)
    picture.savefig(path, format="svg", transparent=True, metadata={"Date": None})
    # matplotlib ends lines with blanks
    path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text().splitlines()))


def _panel(axes: Axes, name: str, lines: Sequence[Line], colours: Mapping[str, str]) -> None:
    """A line's colour is that of its side; of a ratio, that of the side above the stroke."""
    axes.set_title(name)
    axes.grid(visible=True)
    for number, line in enumerate(lines):
        colour = colours.get(line.side.split(" / ")[0], COLOURS[number % len(COLOURS)])
        marked = "o" if len(line.x) <= FEW_POINTS else ""
        axes.plot(line.x, line.y, label=line.side, color=colour, marker=marked)
        if line.low:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
    x = sorted({one for line in lines for one in line.x})
    y = sorted(one for line in lines for one in line.y)
    few = all(len(line.x) <= FEW_POINTS for line in lines)
    if few and _spans(x, FAR):
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{one:,.0f}" for one in x])
        axes.minorticks_off()
    if few and _spans(y, VERY_FAR):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,.4g}")
    else:
        axes.set_ylim(0, HEADROOM * max([*y, *(one for line in lines for one in line.high)]))
    if len(lines) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _spans(values: Sequence[float], times: float) -> bool:
    return bool(values) and values[0] > 0 and values[-1] / values[0] >= times


def read(path: Path) -> list[Curve]:
    """Of a bench.json."""
    found: dict[str, Any] = json.loads(path.read_text())
    return [
        Curve(**{**raw, "panels": {name: tuple(_line(one) for one in lines) for name, lines in raw["panels"].items()}})
        for key, raw in found.items()
        if key.startswith(PREFIX)
    ]


def _line(raw: dict[str, Any]) -> Line:
    side = raw.pop("side")
    return Line(side=side, **{name: tuple(values) for name, values in raw.items()})


if __name__ == "__main__":
    print(draw(read(Path(sys.argv[1])), Path(sys.argv[2])), "plots")
