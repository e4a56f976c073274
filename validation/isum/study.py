"""The experiment as stages for the runner."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from validation.experiment import Claim, Study, Verdict
from validation.isum import data as images
from validation.isum import plots as figures
from validation.isum.arms import COMPARISONS
from validation.isum.claims import claims_of
from validation.isum.scores import Scores, evaluate, rows_of, training_rows
from validation.isum.settings import Config
from validation.isum.training import Trained, chosen, fit_arms, minutes_of, plan_rows
from validation.plan import Planned
from validation.results import at_least, table
from validation.tables import Row, Tables


class Transport(Study[Config, images.Pools, Trained, Scores]):
    """ISUM, its variants and floors on one task."""

    name = "isum"

    def data(self, config: Config) -> images.Pools:
        """Training images of both pools, validation and test images; the threads asked for."""
        if config.threads:
            torch.set_num_threads(config.threads)
        return images.load_images(config)

    def planned(self, config: Config, pools: images.Pools) -> list[Planned]:
        """Arms, steps and expected minutes, from a few iterations of each, on a processor."""
        asked = config.plan or (config.size.targets and config.device == "cpu")
        return plan_rows(config, pools) if asked else []

    def minutes(
        self, config: Config, pools: images.Pools, arms: Sequence[Trained], out: Path
    ) -> dict[str, float]:
        """Of the trainings at the chosen scales, and of those that chose them."""
        return minutes_of(config, arms)

    def arms(self, config: Config, pools: images.Pools, out: Path) -> list[Trained]:
        """Everything that is tried; the chosen ones are marked."""
        return fit_arms(config, pools, out)

    def measures(self, config: Config, pools: images.Pools, arms: Sequence[Trained]) -> Scores:
        """Arms at their chosen scales, and floors."""
        return evaluate(config, pools, chosen(arms))

    def tables(self, arms: Sequence[Trained], scores: Scores) -> Tables:
        """A row per arm and level, and one per training."""
        tables = {"results": rows_of(scores, chosen(arms)), "training": training_rows(arms)}
        more = {"other_noise": scores.other_noise, "drift": scores.after_best}
        return tables | {name: rows for name, rows in more.items() if rows}

    def claims(self, config: Config, scores: Scores) -> list[Claim]:
        """Of the comparisons that are run."""
        return claims_of(config.size.comparisons, config.noise, scores)

    def plots(
        self,
        config: Config,
        pools: images.Pools,
        arms: Sequence[Trained],
        scores: Scores,
        out: Path,
    ) -> None:
        """Scores; and images, but not of Caltech-101, which shows people."""
        rows = rows_of(scores, chosen(arms))
        figures.plot(out / "isum", config.noise, config.seed, rows, chosen(arms))
        if config.size.dataset != "caltech101":
            figures.plot_examples(out / "examples", config, pools, chosen(arms))

    def verdict(
        self, config: Config, arms: Sequence[Trained], claims: list[Claim], tables: Tables
    ) -> Verdict:
        """Every training is there; where there are targets, ISUM beats the measurement."""
        size = config.size
        wanted = sum(len(COMPARISONS[part]) for part in size.comparisons) * size.seeds
        checks = [at_least("trainings at the chosen scale", len(chosen(arms)), wanted)]
        judged = size.targets and "main" in size.comparisons
        if judged:
            first = claims[0]
            checks.append(at_least("ISUM over the measurement, dB", first.value, first.band))
        entries = [{**dataclasses.asdict(c), "verdict": c.verdict} for c in claims]
        text = shown(claims, tables["results"])
        return Verdict(f"{text}\n\n{KNOWS}", entries, checks, judged)

    def about(self, config: Config) -> dict[str, object]:
        """The sizes; whether a map is known to exist; who knows the operator."""
        twist = TWIST[config.task]
        return {"size": dataclasses.asdict(config.size), "twist": twist, "note": KNOWS}


#: What stands beside every table.
KNOWS = (
    "ISUM, its OT variant, the likelihood's cost and all that begins at the linear floor know the "
    "forward operator; the quadratic cost alone, NOT, OTUR and RCOT do not: compare those with "
    "each other."
)
#: Whether the twist condition holds for both terms of the cost (docs/twist.md).
TWIST = {
    "deblur": "holds at weight 1: the blur's spectrum is above -1",
    "sr": "fails: signals have more entries than measurements",
    "hdr": "holds at weight 1: clipping is monotone",
    "nonlinear": "not certified",
}


def shown(claims: Sequence[Claim], rows: Sequence[Row]) -> str:
    """What is printed: scores of all arms, and claims with their verdicts."""
    scores = [("arm", "σ", "PSNR", "95 %", "SSIM", "weight")]
    for row in rows:
        mean, low, high, similarity, noise = (
            float(row[key]) for key in ("psnr", "psnr_low", "psnr_high", "ssim", "noise")
        )
        weight = f"{row['weight']:.3g}" if row["weight"] != "" else ""
        interval = f"{low:.2f} to {high:.2f}"
        numbers = f"{noise:g}", f"{mean:.2f}", interval, f"{similarity:.3f}"
        scores.append((str(row["arm"]), *numbers, weight))
    judged = [("PSNR difference in dB", "mean", "", "verdict")]
    judged += [(c.claim, f"{c.value:+.2f}", f"± {c.band:.2f}", c.verdict) for c in claims]
    return f"\n{table(scores)}\n\n{table(judged)}"


run = Transport().run
