"""The page: one self-contained HTML file, the numbers as JSON, and the figures as files.

Above: `dro_core.auditing.audit` and the command line; below: the findings and the pictures.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dro_core.auditing.answer import MOVES, Findings, StructureAudit
from dro_core.auditing.layout import Layout, Samples
from dro_core.auditing.pictures import COLOURS, Series, chart, data_uri, grey, heat, png, standalone
from dro_core.described import Drawn
from dro_core.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE, NUMBERS, FIGURES = "report.html", "audit.json", "figures"
#: Pictures of a page are at most this wide and high: larger ones are thinned out, so that a page of
#: colour noise stays below 3 MB.
LARGEST_PICTURE = 160
STYLE = """
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}main{max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.answer{font-size:1.1rem;border-left:4px solid var(--s0);background:var(--panel);padding:.8rem 1rem}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right}svg{width:100%;height:auto;display:block}
.soft{color:var(--soft)}figure{margin:0}figcaption{font-size:.8rem;color:var(--soft)}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(8rem,1fr));gap:.6rem;
margin:.6rem 0 1.2rem}.pictures img{width:100%;image-rendering:pixelated;display:block}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--panel);padding:.6rem}
@media (max-width:34rem){svg text{font-size:17px}.answers tr{display:grid;
grid-template-columns:1fr auto auto}.answers th:nth-child(4){display:none}
.answers td:nth-child(4),.answers td[colspan]{grid-column:1/-1}
.answers td:not(:last-child){border-bottom:0}}
@media print{main{max-width:none}h2{break-after:avoid}figure,tr{break-inside:avoid}}
"""


class Audit(Findings, Drawn):
    """A robustness report for a map: what was found, and the page that shows it.

    See `Findings` for the numbers: `.summary()`, `.to_dict()`, `.structures`, `.best`.
    """

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write ``report.html`` (one self-contained page), ``audit.json``, and ``figures``.

        Parameters
        ----------
        path : path of a folder
            Made if it does not exist. A folder with a report in it is replaced as a whole; one with
            anything else in it is refused.

        Returns
        -------
        Path
            Of the page.

        Raises
        ------
        FileExistsError, OSError
            If something else is there, or it cannot be written. Nothing is left half-written.
        """
        target = Path(path)
        with whole_folder(target) as folder:
            (folder / FIGURES).mkdir()
            for name, svg in charts(self).items():
                (folder / FIGURES / f"{name}.svg").write_text(standalone(svg), encoding="utf-8")
            for name, content in pictures(self).items():
                (folder / FIGURES / f"{name}.png").write_bytes(content.png)
            numbers = json.dumps(self.to_dict(), indent=1, allow_nan=False)
            (folder / NUMBERS).write_text(numbers + "\n", encoding="utf-8")
            (folder / PAGE).write_text(page(self), encoding="utf-8")
        return target / PAGE

    def with_command(self, command: str) -> Audit:
        """The same audit with another command that makes it again."""
        return replace(self, command=command)

    def _draw(self, ax: Axes) -> None:
        """The certified interval of the RMSE per entry against the radius, by structure."""
        for found in self.structures.values():
            low, high = _rmses(self, found.curve_lower), _rmses(self, found.curve_upper)
            line = ax.plot(found.radii, low, label=found.structure)[0]
            ax.fill_between(found.radii, low, high, alpha=0.3, linewidth=0, color=line.get_color())
        ax.axvline(self.radius.value, color="k", linewidth=1, label="radius of the audit")
        ax.set_xlabel("W2 radius, in the units of the data")
        ax.set_ylabel("RMSE per entry of x")
        ax.legend()

    def __repr__(self) -> str:
        names = ", ".join(self.structures)
        return f"Audit({self.map}; radius={self.radius.value:.6g}; {names}; holds={self.holds})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.sentence())}</p>{answer_table(self)}"


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into that becomes `target` when all went well, and else is gone.

    Raises
    ------
    FileExistsError
        If `target` is there and is not a folder with a report.
    """
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target}: there is a file; name a folder")
    if target.is_dir() and any(target.iterdir()) and not (target / NUMBERS).is_file():
        raise FileExistsError(f"{target}: a folder with other things in it; name a new one")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        new = made / "new"
        new.mkdir()
        yield new
        if target.exists():
            target.rename(made / "old")
        new.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


@dataclass(frozen=True)
class Picture:
    """An image of the page."""

    caption: str
    png: bytes


def charts(found: Findings) -> dict[str, str]:
    """The charts of the page by name, as SVG."""
    drawn = {}
    answered = [s for s in found.structures.values() if s.radii.size > 1]
    if answered:
        series = [
            Series(
                s.structure,
                s.radii,
                _rmses(found, s.curve_upper if np.isfinite(s.curve_upper).any() else s.curve_lower),
                None if s.exact else _rmses(found, s.curve_lower),
            )
            for s in answered
        ]
        if found.best is not None and found.best.radii.size > 1:
            name = f"best linear map, {found.best.structure}"
            series.append(Series(name, found.best.radii, _rmses(found, found.best.curve)))
        label = "worst-case RMSE per entry of x"
        drawn["risk"] = chart(
            series, "radius (W2, units of the data)", label, mark=found.radius.value
        )
    if found.leading.sample_shares is not None:
        shares = np.sort(found.leading.sample_shares)[::-1]
        whole = np.concatenate([[0.0], np.cumsum(shares)])
        part = np.linspace(0.0, 1.0, len(whole))
        even = Series("the same on every sample", np.array([0.0, 1.0]), np.array([0.0, 1.0]))
        drawn["samples"] = chart(
            [Series("worst-case law", part, whole), even],
            "share of the samples, the costliest first",
            "share of the budget",
        )
    spectral = found.leading.spectral
    if spectral is not None and (spectral.singular_value > 0).sum() > 1:
        keep = spectral.singular_value > 1e-12 * spectral.singular_value.max()
        sigma = spectral.singular_value[keep]
        total = max(float(spectral.risk.sum()), 1e-300)
        drawn["spectrum"] = chart(
            [
                Series("share of the budget", sigma, spectral.budget[keep], points=True),
                Series(
                    "share of the worst-case risk", sigma, spectral.risk[keep] / total, points=True
                ),
            ],
            "singular value: amplification of a displacement",
            "share",
            log=True,
        )
    return drawn


def _rmses(found: Findings, risks: Array) -> Array:
    return np.sqrt(np.maximum(risks, 0.0) / found.layout_x.size)


def pictures(found: Findings, samples: int = 3) -> dict[str, Picture]:
    """The worst samples before and after the move, and the directions, where data are images."""
    made = {}
    for rank, i in enumerate(found.worst_samples(samples), 1):
        pair = found.worst_pair(i)
        made.update(_pictures_of_pair(found, pair, f"sample{rank}", i))
    leading = found.leading
    layout = found.layout_y if leading.moved == "y" else found.layout_x
    if layout.image is not None and leading.directions is not None:
        shares = leading.direction_shares
        assert shares is not None
        for k, direction in enumerate(leading.directions):
            image = _image(layout, layout.restore(direction[None])[0])
            assert image is not None
            size = float(np.abs(image).max())
            caption = f"direction {k + 1} of {leading.moved}: {shares[k]:.0%} of the squared move"
            made[f"direction{k + 1}"] = Picture(caption, png(grey(image, -size, size)))
    return made


def _pictures_of_pair(
    found: Findings, pair: dict[str, Samples], name: str, sample: int
) -> dict[str, Picture]:
    images = {
        key: _image(found.layout_y if key.endswith("y") else found.layout_x, value)
        for key, value in pair.items()
    }
    made = {}
    captions = {
        "x": f"sample {sample}",
        "reconstruction": "your reconstruction",
        "worst_reconstruction": "after the worst change",
        "y": "measurement",
        "worst_y": "worst measurement",
    }
    for reference, keys in (
        ("x", ("x", "reconstruction", "worst_reconstruction")),
        ("y", ("y", "worst_y")),
    ):
        image = images[reference]
        if image is None:
            continue
        low, high = float(image.min()), float(image.max())
        for key in keys:
            shown = images[key]
            assert shown is not None
            made[f"{name}_{key}"] = Picture(captions[key], png(grey(shown, low, high)))
    if images["x"] is not None:
        before = _image(found.layout_x, pair["x"] - pair["reconstruction"])
        after = _image(found.layout_x, pair["worst_x"] - pair["worst_reconstruction"])
        assert before is not None
        assert after is not None
        largest = float(np.sqrt((after**2).mean(axis=0)).max())
        made[f"{name}_error"] = Picture("error", png(heat(before, largest)))
        made[f"{name}_worst_error"] = Picture(
            f"error after the worst change (brightest {largest:.3g})", png(heat(after, largest))
        )
    return made


def _image(layout: Layout, sample: Samples) -> Array | None:
    """(channels, height, width) of a sample, thinned out to what a page shows; None for others.

    Complex pictures are shown by their magnitude.
    """
    shape = layout.image
    if shape is None:
        return None
    values = np.abs(sample) if layout.is_complex else sample
    image = np.asarray(values, dtype=np.float64).reshape(shape)
    step = -(-max(shape[1:]) // LARGEST_PICTURE)
    return image[:, ::step, ::step]


def answer_table(found: Findings) -> str:
    """The intervals of every structure, as an HTML table."""
    rows = [
        "<tr><th>structure</th><th class=n>worst-case risk</th><th class=n>RMSE per entry</th>"
        "<th>certificate</th></tr>",
        f"<tr><td>none: the data as they are</td><td class=n>{found.nominal:.6g}</td>"
        f"<td class=n>{found.rmse(found.nominal):.4g}</td><td>measured</td></tr>",
    ]
    rows += [_answer_row(found, s) for s in found.structures.values()]
    return f"<div class=wide><table class=answers>{''.join(rows)}</table></div>"


def _answer_row(found: Findings, s: StructureAudit) -> str:
    name = f"<td><b>{escape(s.structure)}</b><br><span class=soft>"
    name += f"{escape(MOVES.get(s.structure, ''))}</span></td>"
    if s.lower is None:
        return f"<tr>{name}<td colspan=3>{escape(s.reason)}</td></tr>"
    if s.exact:
        risk, rmse = f"{s.lower:.6g}", f"{found.rmse(s.lower):.4g}"
        state = "exact: a law attains it, and no law of the ball exceeds it"
    else:
        upper = "none" if s.upper is None else f"{s.upper:.6g}"
        risk = f"[{s.lower:.6g}, {upper}]"
        above = "none" if s.upper is None else f"{found.rmse(s.upper):.4g}"
        rmse, state = f"[{found.rmse(s.lower):.4g}, {above}]", "interval"
        if s.upper is None:
            state += f": {escape(s.reason)}"
        if s.failure_probability > 0:
            state += f", holds with probability {1 - s.failure_probability:g}"
    state += "; recomputed and <b>holds</b>" if s.holds else "; <b>does not hold</b>"
    return f"<tr>{name}<td class=n>{risk}</td><td class=n>{rmse}</td><td>{state}</td></tr>"


def page(found: Findings) -> str:
    """The report as one HTML file without links to anywhere."""
    leading, drawn, images = found.leading, charts(found), pictures(found)
    size = f"{len(found.x)} samples, x {found.layout_x}, y {found.layout_y}"
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<title>Robustness report: {escape(found.map)}</title>",
        f"<style>{COLOURS}{STYLE}</style></head><body><main>",
        "<h1>Robustness report</h1>",
        f"<p class=soft>{escape(found.map)}<br>{escape(size)}<br>{escape(str(found.radius))}</p>",
        f"<p class=answer>{escape(found.sentence())}</p>",
        answer_table(found),
    ]
    if found.field_risk is not None:
        parts.append(
            f"<p>Measured on the field data: risk {found.field_risk:.6g}, RMSE per entry "
            f"{found.rmse(found.field_risk):.4g}.</p>"
        )
    if "risk" in drawn:
        parts += ["<h2>Against the radius</h2>", drawn["risk"]]
    parts += [f"<h2>Where the budget goes ({escape(leading.structure)})</h2>"]
    if "samples" in drawn:
        parts.append(_share_sentence(found) + drawn["samples"])
    if "spectrum" in drawn:
        parts.append("<h3>Singular values</h3>" + drawn["spectrum"])
    if leading.direction_shares is not None and leading.direction_shares.size:
        shares = ", ".join(f"{share:.0%}" for share in leading.direction_shares)
        parts.append(f"<p>Shares of the principal directions of the move: {shares}.</p>")
    parts += [_gallery(images), f"<h2>What would help</h2><p>{escape(found.help_sentence())}</p>"]
    parts.append(_small_print(found))
    return "".join([*parts, "</main></body></html>\n"])


def _share_sentence(found: Findings) -> str:
    shares = found.leading.sample_shares
    assert shares is not None
    tenth = max(1, len(shares) // 10)
    most = float(np.sort(shares)[::-1][:tenth].sum())
    worst = ", ".join(map(str, found.worst_samples()))
    return (
        f"<p>The costliest tenth of the samples takes {most:.0%} of the budget; most of all the "
        f"samples {worst} (counted from 0).</p>"
    )


def _gallery(images: dict[str, Picture]) -> str:
    groups: dict[str, list[str]] = {}
    for name, picture in images.items():
        group = "directions" if name.startswith("direction") else name.partition("_")[0]
        groups.setdefault(group, []).append(
            f'<figure><img src="{data_uri(picture.png)}" alt="{escape(picture.caption)}">'
            f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        )
    return "".join(f"<div class=pictures>{''.join(group)}</div>" for group in groups.values())


def _small_print(found: Findings) -> str:
    rows: dict[str, Any] = {
        "audited": found.map,
        "certificates": "all recomputed through the map itself, and they hold"
        if found.holds
        else "NOT all hold; see the table",
        "failure probability": max(s.failure_probability for s in found.structures.values()),
        "units": "risks in squared units of x, summed over its entries; radii in units of the data",
        "versions": ", ".join(f"{name} {version}" for name, version in found.versions.items()),
        "notes": "; ".join(found.notes) or "none",
    }
    table = "".join(
        f"<tr><th>{name}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items()
    )
    return (
        f"<h2>How it was made</h2><div class=wide><table>{table}</table></div>"
        f"<pre>{escape(found.command)}</pre>"
    )
