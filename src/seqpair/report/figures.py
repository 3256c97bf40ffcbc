"""Figures: one drawing as inline SVG, as a file and as a picture, and the drawings of a single member's training.

The colours in a figure are place holders that become CSS variables of the page, so that one drawing reads in light, in
dark and in print.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from seqpair.files import sha256_json
from seqpair.report.member import HeldOutPoint, TrainPoint

INK, QUIET, LINE = "#010101", "#020202", "#030303"
COLOURS = 8
_VARIABLES = {INK: "var(--ink)", QUIET: "var(--quiet)", LINE: "var(--figure-line)"}
_VARIABLES |= {f"#0400{index:02d}": f"var(--c{index})" for index in range(COLOURS)}
_ON_WHITE = {"var(--ink)": "#1b1d20", "var(--quiet)": "#62666d"}
_SERIES_ON_WHITE = ("#0a6590", "#a84a0c", "#5b7a17", "#7d4a9e", "#b0305c", "#1f7a6d", "#8a6d00", "#4a5ab8")
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (7, 1.5, 1.5, 1.5)))
LONGEST_LABEL = 32
_SIZE_INCHES = (5.0, 2.9)
_MEMBER_SIZE_INCHES = (5.0, 3.7)
_PNG_DOTS_PER_INCH = 160
_MOST_POINTS = 400
_MOST_LOOKS, _MOST_MARKERS = 100, 40
_SMOOTHED_OVER = 0.05
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Palette:
    """The colours of a drawing: text, axes, a member's own line, and lines of several members."""

    ink: str
    quiet: str
    line: str
    series: tuple[str, ...]

    def of(self, index: int) -> str:
        """Return the colour of the series with this number; they repeat after the last."""
        return self.series[index % len(self.series)]


PAGE = Palette(INK, QUIET, LINE, tuple(f"#0400{index:02d}" for index in range(COLOURS)))


@dataclass(frozen=True)
class Drawing:
    """A figure that can be had for the page, as a file of its own, and as a picture.

    Attributes:
        id: Its name in the page and of its files: letters, digits and dashes.
        title: What it shows.
        description: What is to be seen, for who cannot see it.
        caption: The words above it.
        colour: The number of the colour of a member's own line.
        draw: Draws it in some colours.
    """

    id: str
    title: str
    description: str
    caption: str
    draw: Callable[[Palette], Figure]
    colour: int = 0

    @cached_property
    def svg(self) -> str:
        """Return an SVG element that takes its colours from the page."""
        return svg(self.draw(PAGE), self.id, self.title, self.description)

    def as_svg_file(self) -> str:
        """Return an SVG file on white."""
        text = self.svg
        for index, colour in enumerate(_SERIES_ON_WHITE):
            text = text.replace(f"var(--c{index})", colour)
        for variable, colour in (_ON_WHITE | {"var(--figure-line)": _SERIES_ON_WHITE[self.colour % COLOURS]}).items():
            text = text.replace(variable, colour)
        box = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', text)
        size = f'width="{box[1]}" height="{box[2]}" ' if box else ""
        ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
        head, rest = text.split("</title>", 1)
        return (
            head.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" {size}', 1)
            + f"</title>{ground}{rest}\n"
        )

    def as_png(self) -> bytes:
        """Return a picture on white."""
        palette = Palette("#1b1d20", "#62666d", _SERIES_ON_WHITE[self.colour % COLOURS], _SERIES_ON_WHITE)
        figure = self.draw(palette)
        figure.patch.set(alpha=1.0, facecolor="#ffffff")
        buffer = io.BytesIO()
        with _quiet_fonts():
            FigureCanvasAgg(figure)
            figure.savefig(buffer, format="png", dpi=_PNG_DOTS_PER_INCH, metadata={"Software": None})
        return buffer.getvalue()


def figure_id(*parts: str) -> str:
    """Return a name for a figure that is unique for these parts, short, and made of letters, digits and dashes."""
    text = "-".join(parts)
    plain = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
    return plain if plain == text and len(plain) <= 60 else f"{plain[:48]}-{sha256_json(text)[:8]}"


def label_text(text: str, longest: int = LONGEST_LABEL) -> str:
    """Return a name for use inside a figure: no markup, nothing that turns the line around, not too long."""
    plain = _CONTROL.sub("", text)
    plain = plain if len(plain) <= longest else f"{plain[: longest - 3]}..."
    return plain.replace("$", r"\$")


@contextlib.contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Let a sign be missing from the font: the page's own fonts have it, and a name is no reason to fail."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support .* natively")
        yield


def smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the centred running mean over a twentieth of the series; shorter at both ends."""
    half = max(1, round(len(values) * _SMOOTHED_OVER / 2))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    low, high = np.maximum(0, index - half), np.minimum(len(values), index + half + 1)
    return np.asarray((sums[high] - sums[low]) / (high - low), dtype=np.float64)


def thinned(count: int, most: int = _MOST_POINTS) -> npt.NDArray[np.int64]:
    """Return at most `most` evenly spaced indices, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def canvas(
    label: str, horizontal: str = "content tokens", palette: Palette = PAGE, size: tuple[float, float] = _SIZE_INCHES
) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, in the page's manner; the horizontal axis counts."""
    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    plain_axes(axes, label, horizontal, palette)
    return figure, axes


def plain_axes(axes: Axes, label: str, horizontal: str, palette: Palette) -> None:
    """Give axes the page's manner: quiet lines, a title for the unit, counts along the bottom."""
    axes.patch.set_alpha(0.0)
    axes.set_xlabel(horizontal, color=palette.quiet, fontsize=10)
    axes.set_title(label, color=palette.quiet, fontsize=10, loc="left")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.tick_params(colors=palette.quiet, labelsize=10, length=3)
    axes.grid(axis="y", color=palette.quiet, alpha=0.22, linewidth=0.6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(palette.quiet)


def short_count(value: float) -> str:
    """Return an axis label: 500k, 1.5M."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:g}{letter}"
    return f"{value:g}"


def svg(figure: Figure, salt: str, title: str, description: str) -> str:
    """Return an SVG element that scales with the page and says what it shows."""
    buffer = io.StringIO()
    with _quiet_fonts(), rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" role="img" aria-label="">', text)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", _shorter_tag, text)
    text = re.sub(r">\s+<", "><", text)
    title, description = escape(title), escape(description)
    text = text.replace('aria-label="">', f'aria-label="{title}, {description}"><title>{title}</title>', 1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return _own_ids(text, f"f{sha256_json(salt)[:8]}").strip()


def _shorter_tag(found: re.Match[str]) -> str:
    """Return a tag without what the page says itself: fonts, digits below a hundredth of a point, no rotation."""
    tag = re.sub(r"(\.[0-9]{2})[0-9]+", r"\1", found[0])
    tag = re.sub(r" font-family: [^;\"]*;", "", tag)
    tag = re.sub(r"font: [^;\"]*?([0-9.]+)px [^;\"]*", r"font-size: \1px", tag)
    tag = re.sub(r" transform=\"rotate\(-0 [^\"]*\"", "", tag)
    return " ".join(tag.split())


def _own_ids(text: str, prefix: str) -> str:
    """Return the SVG with only the ids that it refers to itself, each with a prefix of this figure."""
    used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    names = {name: f"{prefix}-{index}" for index, name in enumerate(sorted(used))}
    text = text.replace("xlink:href", "href")
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{names[found[1]]}"' if found[1] in names else "", text)
    text = re.sub(r'href="#([^"]+)"', lambda found: f'href="#{names[found[1]]}"', text)
    return re.sub(r"url\(#([^)]+)\)", lambda found: f"url(#{names[found[1]]})", text)


def train_drawing(points: Sequence[TrainPoint], name: str, colour: int = 0, most_points: int = 400) -> Drawing:
    """Return a member's training loss and learning rate over content tokens, with the borders of its phases.

    Each step is faint and a running mean strong.
    """
    tokens = np.array([point.tokens for point in points], dtype=np.float64)
    loss, rate = np.array([point.loss for point in points]), np.array([point.lr for point in points])
    borders = phase_borders(points)
    keep = thinned(len(points), most_points)

    def draw(palette: Palette) -> Figure:
        figure = Figure(figsize=_MEMBER_SIZE_INCHES, layout="constrained")
        figure.patch.set_alpha(0.0)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        plain_axes(upper, "training loss, nats per predicted token", "", palette)
        plain_axes(lower, "learning rate", "content tokens", palette)
        upper.plot(tokens[keep], loss[keep], color=palette.line, linewidth=0.8, alpha=0.35)
        upper.plot(tokens[keep], smoothed(loss)[keep], color=palette.line, linewidth=1.8)
        lower.plot(tokens[keep], rate[keep], color=palette.line, linewidth=1.4)
        lower.set_ylim(bottom=0)
        lower.yaxis.get_offset_text().set(color=palette.quiet, fontsize=8)
        lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        _fit(upper, loss)
        _draw_borders(upper, lower, borders, palette)
        return figure

    words = "; ".join(f"{phase} from {start:,} tokens" for start, phase in borders)
    told = f"from {loss[0]:.2f} to {loss[-1]:.2f}" + (f"; phases: {words}" if len(borders) > 1 else "")
    return Drawing(figure_id("train", name), f"Training loss of the {name}", told, "training", draw, colour)


def phase_borders(points: Sequence[TrainPoint]) -> list[tuple[int, str]]:
    """Return where each phase begins: content tokens read before its first step, and its name."""
    borders: list[tuple[int, str]] = []
    before = 0
    for point in points:
        if not borders or borders[-1][1] != point.phase:
            borders.append((before, point.phase))
        before = point.tokens
    return borders


def _draw_borders(upper: Axes, lower: Axes, borders: Sequence[tuple[int, str]], palette: Palette) -> None:
    if len(borders) < 2:
        return
    for start, phase in borders:
        for axes in (upper, lower):
            axes.axvline(start, color=palette.quiet, linewidth=0.8, linestyle=(0, (3, 3)))
        upper.annotate(
            label_text(phase, 14),
            (start, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            color=palette.quiet,
            fontsize=8,
        )


def held_out_drawing(points: Sequence[HeldOutPoint], name: str, colour: int = 0) -> Drawing:
    """Return a member's held-out bits per byte over content tokens, one line a source."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for source in dict.fromkeys(point.source for point in points):
        looks = [(point.tokens, point.bits_per_byte) for point in points if point.source == source]
        lines[source] = [looks[index] for index in thinned(len(looks), _MOST_LOOKS)]

    def draw(palette: Palette) -> Figure:
        figure, axes = canvas("held-out text, bits per byte", palette=palette, size=_MEMBER_SIZE_INCHES)
        for index, (source, line) in enumerate(lines.items()):
            axes.plot(
                [tokens for tokens, _ in line],
                [bits for _, bits in line],
                color=palette.line,
                alpha=1.0 if index < len(DASHES) else 0.55,
                linewidth=1.6,
                linestyle=DASHES[index % len(DASHES)],
                marker="o" if len(line) <= _MOST_MARKERS else "",
                markersize=2.4,
                label=label_text(source, 16),
            )
        axes.set_ylim(bottom=0)
        figure.legend(
            loc="outside lower left", ncols=3, frameon=False, labelcolor=palette.ink, fontsize=9, handlelength=2.6
        )
        return figure

    ends = ", ".join(f"{source} {line[-1][1]:.2f}" for source, line in lines.items())
    title = f"Held-out bits per byte of the {name}"
    return Drawing(figure_id("held-out", name), title, f"at the end: {ends}", "held-out text", draw, colour)


def _fit(axes: Axes, loss: npt.NDArray[np.float64]) -> None:
    """Show all of the loss but a few wild steps."""
    low, high = float(loss.min()), float(np.percentile(loss, 99.5))
    room = 0.06 * max(high - low, 1e-3)
    axes.set_ylim(low - room, high + 2.5 * room)
    axes.set_xlim(left=0)
