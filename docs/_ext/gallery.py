"""How the examples in ``docs/examples`` become a gallery: their look, their alt texts, one thread.

The alt text of a figure is its label, ``plt.subplots(num="what is seen")``. An example without a
figure, or a figure without that or against the rules of the style sheet, fails the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

#: Characters of the shortest alt text.
SHORTEST = 50


def labelled_scraper(block: Any, names: dict[str, Any], settings: dict[str, Any]) -> str:
    """The open figures as sphinx-gallery saves them, with their labels as alt texts."""
    import matplotlib.pyplot as plt
    from sphinx.errors import ExtensionError
    from sphinx_gallery.scrapers import matplotlib_scraper

    from validation.figures import faults

    drawn = [plt.figure(number) for number in plt.get_fignums()]
    labels = [str(figure.get_label()) for figure in drawn]
    broken = [fault for figure in drawn for fault in faults(figure)]
    if broken:
        raise ExtensionError(f"{names['src_file']}: {'; '.join(broken)}")
    text: str = matplotlib_scraper(block, names, settings)
    for label in labels:
        if len(label) < SHORTEST:
            raise ExtensionError(
                f"{names['src_file']}: a figure has the label {label!r}; give it an alt text that "
                "says what is seen: plt.subplots(num=...)"
            )
    found = iter(labels)
    return re.sub(r"(?m)^(\s*:alt:).*$", lambda line: f"{line[1]} {next(found)}", text)


def reset(settings: dict[str, Any], file: str) -> None:
    """Before every example: the project's look, and one thread (small tensors lose by more)."""
    import matplotlib as mpl
    import torch

    from dro_core import style

    mpl.rcdefaults()
    mpl.rcParams.update(style.settings())
    torch.set_num_threads(1)


def check_figures(app: Any, error: Exception | None) -> None:
    """After the build: every example ran and left a figure (unless ``-D plot_gallery=0``)."""
    from sphinx.errors import ExtensionError

    executed = app.config.sphinx_gallery_conf.get("plot_gallery", True)
    if error is not None or app.builder.name != "html" or not executed:
        return
    source = Path(app.srcdir) / "examples"
    pictures = Path(app.srcdir) / "gallery" / "images"
    bare = [
        example.name
        for example in sorted(source.glob("plot_*.py"))
        if not (pictures / f"sphx_glr_{example.stem}_001.png").is_file()
    ]
    if bare:
        raise ExtensionError(f"examples that left no figure: {', '.join(bare)}")


def setup(app: Any) -> dict[str, Any]:
    """Check the gallery when the pages are there."""
    app.connect("build-finished", check_figures)
    return {"version": "1", "parallel_read_safe": True}
