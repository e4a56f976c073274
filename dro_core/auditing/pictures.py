"""Charts as SVG and images as PNG, from numpy alone: both go into a page as they are.

Charts take their colours from the page's CSS variables, so that they follow light and dark; as
files of their own they bring the same variables along.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from dro_core.types import Array

#: CSS of both colour schemes; `--s0` ... are the series.
COLOURS = """
:root{--ink:#1b1f24;--soft:#59636e;--line:#d1d9e0;--paper:#ffffff;--panel:#f6f8fa;
--s0:#0550ae;--s1:#bc4c00;--s2:#1a7f37;--s3:#8250df;--s4:#9a6700;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9198a1;--line:#3d444d;
--paper:#0d1117;--panel:#151b23;--s0:#79c0ff;--s1:#ffa657;--s2:#7ee787;--s3:#d2a8ff;--s4:#e3b341}}
@media print{:root{--ink:#000;--soft:#444;--line:#bbb;--paper:#fff;--panel:#fff;
--s0:#0550ae;--s1:#bc4c00;--s2:#1a7f37;--s3:#8250df;--s4:#9a6700}}
"""
#: Dash patterns of the series, so that they differ without colour too.
DASHES = ("", "7 4", "2 3", "10 3 2 3", "1 5")
WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 14, 14, 52
#: Anchors of the map of errors, from none to the largest.
HEAT = np.array(
    [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], dtype=np.float64
)


@dataclass(frozen=True)
class Series:
    """One line of a chart, or a band between `low` and `y` where `low` is given."""

    name: str
    x: Array
    y: Array
    low: Array | None = None
    points: bool = False


def chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    mark: float | None = None,
    log: bool = False,
) -> str:
    """An SVG chart of lines over one pair of axes, with a legend.

    Parameters
    ----------
    series : sequence of Series
    x_label, y_label : str
    mark : float, optional
        A vertical line, at the audit's radius.
    log : bool
        Logarithmic axis of x, for positive x.
    """
    xs = np.concatenate([s.x for s in series])
    ys = np.concatenate([part for s in series for part in (s.y, s.low) if part is not None])
    ys = ys[np.isfinite(ys)]
    if log:
        xs = np.log10(np.maximum(xs, 1e-300))
    low, high = float(xs.min()), float(xs.max())
    high = high if high > low else low + 1.0
    top = _rounded_up(float(ys.max(initial=0.0)) or 1.0)

    def at(x: float, y: float) -> str:
        value = math.log10(max(x, 1e-300)) if log else x
        across = LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} '
        f'{HEIGHT + 20 * math.ceil(len(series) / 2)}" role="img" '
        f'aria-label="{escape(y_label)} against {escape(x_label)}" font-size="13" '
        'font-family="system-ui,sans-serif">'
    ]
    parts += _axes(low, high, top, x_label, y_label, log)
    if mark is not None:
        across = at(mark, 0.0).split(",")[0]
        parts.append(
            f'<line x1="{across}" x2="{across}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
            'stroke="var(--soft)" stroke-dasharray="3 3"/>'
        )
    for k, s in enumerate(series):
        parts += _drawn(s, k, at)
    return "".join([*parts, "</svg>"])


def _drawn(s: Series, k: int, at: object) -> list[str]:
    assert callable(at)
    colour, dash = f"var(--s{k % 5})", DASHES[k % 5]
    keep = np.isfinite(s.y)
    points = [at(float(x), float(y)) for x, y in zip(s.x[keep], s.y[keep], strict=True)]
    parts = []
    if s.low is not None and len(points) > 1:
        back = [at(float(x), float(y)) for x, y in zip(s.x[keep], s.low[keep], strict=True)]
        edge = " ".join([*points, *back[::-1]])
        parts.append(f'<polygon points="{edge}" fill="{colour}" opacity=".18"/>')
        parts.append(_line(back, colour, dash))
    x, y = LEFT + (k % 2) * 285, HEIGHT + 8 + 20 * (k // 2)
    if s.points or len(points) == 1:
        parts += [
            f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" fill="{colour}"/>'
            for p in [*points, f"{x + 15},{y - 4}"]
        ]
    else:
        parts.append(_line(points, colour, dash))
        parts.append(_line([f"{x},{y - 4}", f"{x + 30},{y - 4}"], colour, dash))
    parts.append(f'<text x="{x + 38}" y="{y}" fill="var(--ink)">{escape(s.name)}</text>')
    return parts


def _line(points: Sequence[str], colour: str, dash: str) -> str:
    return (
        f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dash}"/>'
    )


def _axes(low: float, high: float, top: float, x_label: str, y_label: str, log: bool) -> list[str]:
    parts = []
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for value in ticks(0.0, top):
        y = bottom - value / top * (bottom - TOP)
        parts.append(
            f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
        )
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" '
            f'fill="var(--soft)">{value:.4g}</text>'
        )
    for value in ticks(low, high, whole=log):
        x = LEFT + (value - low) / (high - low) * (right - LEFT)
        name = f"{10**value:.3g}" if log else f"{value:.4g}"
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" '
            f'fill="var(--soft)">{name}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{bottom + 40}" text-anchor="middle" '
        f'fill="var(--ink)">{escape(x_label)}</text>'
    )
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" fill="var(--ink)" '
        f'transform="rotate(-90 14 {middle})">{escape(y_label)}</text>'
    )
    return parts


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Four to eight round numbers between low and high."""
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-300) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 7)
    if whole:
        step = max(1.0, float(round(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _rounded_up(largest: float) -> float:
    """The end of an axis from zero: its first round number not below `largest`."""
    marks = ticks(0.0, largest)
    return marks[-1] if marks[-1] >= largest * (1 - 1e-9) else len(marks) * marks[1]


def standalone(svg: str) -> str:
    """A chart as a file of its own: with colours and a background."""
    style = f'<style>{COLOURS}</style><rect width="100%" height="100%" fill="var(--paper)"/>'
    head, _, rest = svg.partition(">")
    return f"{head}>{style}{rest}"


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of (height, width) grey or (height, width, 3) colour values."""
    height, width = pixels.shape[:2]
    kind = 2 if pixels.ndim == 3 else 0
    rows = pixels.reshape(height, -1)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)

    def piece(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", body) + piece(b"IEND", b"")
    )


def data_uri(content: bytes) -> str:
    """A PNG file as a link that holds it."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def grey(image: Array, low: float, high: float) -> NDArray[np.uint8]:
    """An image (channels, height, width) as grey or colour values from black to white.

    Three channels are colours; of any other number the root mean square is shown.
    """
    scaled = (image - low) / max(high - low, 1e-300)
    if image.shape[0] == 3:
        return _bytes(np.moveaxis(scaled, 0, -1))
    return _bytes(scaled[0] if image.shape[0] == 1 else np.sqrt((scaled**2).mean(axis=0)))


def heat(image: Array, largest: float) -> NDArray[np.uint8]:
    """The size of an image (channels, height, width) per pixel, from dark to bright."""
    share = np.sqrt((image**2).mean(axis=0)) / max(largest, 1e-300)
    place = np.clip(share, 0.0, 1.0) * (len(HEAT) - 1)
    channels = [np.interp(place, np.arange(len(HEAT)), HEAT[:, c]) for c in range(3)]
    return _bytes(np.stack(channels, axis=-1) / 255.0)


def _bytes(values: Array) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.round(255.0 * np.clip(values, 0.0, 1.0)).astype(np.uint8))
