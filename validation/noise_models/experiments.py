"""Both families, the gap against the samples, and linear maps; what is written."""

from __future__ import annotations

from pathlib import Path

from validation.noise_models.choices import gap_rows, sweep
from validation.noise_models.claims import family_checks, gap_checks, gaussian_checks, widest
from validation.noise_models.linear import linear_checks, refinement_rows
from validation.noise_models.plots import gaussian_figure, poisson_figure
from validation.noise_models.settings import Config
from validation.results import Check, provenance, write_csv, write_json
from validation.tables import Row


def run(config: Config, out: Path) -> list[Check]:
    """Compute sweeps and gaps, write tables and figures to `out`, return the checks."""
    made = provenance("noise-models", config)
    sweeps = {
        family: [sweep(config, family, count) for count in (1, config.samples)]
        for family in ("gaussian", "poisson")
    }
    gaps, refined = gap_rows(config), refinement_rows(config)
    tables: dict[str, list[dict[str, float]] | list[Row]] = {
        **{
            f"{family}_{name}": rows
            for family, pair in sweeps.items()
            for name, rows in zip(("one_sample", "samples"), pair, strict=True)
        },
        "gap": gaps,
        "refinement": refined,
    }
    for name, rows in tables.items():
        write_csv(out / f"{name}.csv", rows)
        write_json(out / f"{name}.json", {**made, "rows": rows})
    gaussian_figure(out / "noise_models", sweeps["gaussian"], gaps)
    poisson_figure(out / "poisson", sweeps["poisson"], refined)
    checks = [
        *family_checks("gaussian", sweeps["gaussian"]),
        *gaussian_checks(config, sweeps["gaussian"]),
        *gap_checks(gaps),
        *family_checks("poisson", sweeps["poisson"]),
        *linear_checks(config, refined),
    ]
    write_json(out / "checks.json", {**made, "checks": checks, "holds": [c.holds for c in checks]})
    for family, pair in sweeps.items():
        for rows in pair:
            row = widest(rows)
            print(
                f"{family}, {row['samples']} sample(s), radius {row['radius']:.3f}: common "
                f"{row['common']:.4f} <= own {row['own']:.4f} < hull = dual {row['hull']:.4f}"
            )
    return checks
