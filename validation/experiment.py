"""How an experiment with trained arms runs: settings, data, arms, measures, claims, plots.

`Study.run` goes through these stages in that order and writes what they give: a table per measure,
the claims, the checks, and what made them. A family of experiments derives from `Study` once; an
experiment of the family is one file with its arms and claims.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch

from dro_torch.data import DataFileError
from dro_torch.training import CheckpointError
from validation.errors import mendable
from validation.plan import Planned, costs, kept_plan, plan_table
from validation.results import Check, at_least, provenance, write_csv, write_json
from validation.settings import without_folders
from validation.tables import Tables

#: What the user's data and folders can cause: damaged files, and runs with other settings.
user_errors = mendable(DataFileError, CheckpointError)

#: Columns that are NaN where there is nothing to say.
MAY_BE_MISSING = ("certified_rmse", "lipschitz")


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, or a control, with our number; it holds within [low, high]."""

    claim: str
    value: float
    band: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def holds(self) -> bool:
        """Never for NaN."""
        return self.low <= self.value <= self.high

    @property
    def verdict(self) -> str:
        """Whether that is decided: "undecided" where the band reaches over the end of the range."""
        nearest = min(self.value - self.low, self.high - self.value)
        if math.isnan(self.value) or abs(nearest) <= self.band:
            return "undecided"
        return "holds" if self.holds else "does not hold"


def over_seeds(claims: Sequence[Sequence[Claim]]) -> list[Claim]:
    """The same claims of several trainings: their means, with a band over seeds and subsets."""
    if len(claims) == 1:
        return list(claims[0])
    combined = []
    for same in zip(*claims, strict=True):
        values, bands = (np.array([getattr(c, name) for c in same]) for name in ("value", "band"))
        band = math.hypot(values.std(ddof=1), math.sqrt((bands**2).mean()))
        combined.append(dataclasses.replace(same[0], value=float(values.mean()), band=band))
    return combined


class Sized(Protocol):
    """Settings of a family of experiments."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]

    @property
    def preset(self) -> str:
        """The name of the scale."""

    @property
    def device(self) -> str:
        """Where arms are trained and measured."""

    @property
    def plan(self) -> bool:
        """Whether only the plan is asked for."""

    @property
    def jobs(self) -> int:
        """Arms that are trained side by side."""


@dataclass(frozen=True)
class Verdict:
    """What is said of the claims: in print, in the file of results, and in checks."""

    text: str
    claims: list[dict[str, float | str | bool]]
    checks: list[Check]
    judged: bool  #: whether the checks judge the claims; otherwise they are for information


S = TypeVar("S", bound=Sized)
#: What is loaded, what is trained for an arm, and what is measured.
Data = TypeVar("Data")
Arm = TypeVar("Arm")
Measured = TypeVar("Measured")


class Study(ABC, Generic[S, Data, Arm, Measured]):
    """A family of experiments: every stage is a method that sees what the stages before it gave."""

    name: ClassVar[str]  #: on the command line; its last word is that of the file of results

    @abstractmethod
    def data(self, settings: S) -> Data:
        """What is trained with and measured on."""

    def tuned(self, settings: S, data: Data, out: Path) -> S:
        """The settings that the arms are trained with: chosen on validation data, or as given."""
        return settings

    @abstractmethod
    def arms(self, settings: S, data: Data, out: Path) -> Sequence[Arm]:
        """Every arm, trained; stored in `out`, or read where it is finished."""

    @abstractmethod
    def measures(self, settings: S, data: Data, arms: Sequence[Arm]) -> Measured:
        """All arms on the same test data."""

    def again(self, settings: S, data: Data, out: Path) -> Measured:
        """What the claims need of a further training."""
        return self.measures(settings, data, self.arms(settings, data, out))

    @abstractmethod
    def tables(self, arms: Sequence[Arm], measured: Measured) -> Tables:
        """Rows of every file of numbers."""

    @abstractmethod
    def claims(self, settings: S, measured: Measured) -> list[Claim]:
        """The paper's claims, and the controls."""

    def repeated(self, settings: S) -> list[S]:
        """The settings of further trainings, whose claims are averaged with these."""
        return []

    def prepared(self, settings: Sequence[S], data: Data, out: Path) -> None:
        """Train what can be trained side by side, before the arms are read one by one."""
        return

    def planned(self, settings: S, data: Data) -> list[Planned]:
        """What will be trained and how long that takes; nothing where nobody asks for it."""
        return []

    def minutes(
        self, settings: S, data: Data, arms: Sequence[Arm], out: Path
    ) -> Mapping[str, float]:
        """Minutes of one core that the planned arms took, by their names."""
        return {}

    @abstractmethod
    def plots(
        self, settings: S, data: Data, arms: Sequence[Arm], measured: Measured, out: Path
    ) -> None:
        """The figures, drawn into `out`."""

    @abstractmethod
    def verdict(
        self, settings: S, arms: Sequence[Arm], claims: list[Claim], tables: Tables
    ) -> Verdict:
        """What is said of the claims."""

    def about(self, settings: S) -> dict[str, object]:
        """What the file of results says beside settings, claims, tables and checks."""
        return {}

    @user_errors
    def run(self, settings: S, out: Path) -> list[Check]:
        """Train, measure, judge; written to `out`."""
        data = self.data(settings)
        if settings.plan:
            print(plan_table(self.planned(settings, data), max(1, settings.jobs)))
            return []
        asked, own = without_folders(settings), settings
        plan = kept_plan(out, asked, lambda: self.planned(own, data))
        settings = self.tuned(settings, data, out)
        others = self.repeated(settings)
        self.prepared([settings, *others], data, out)
        arms = self.arms(settings, data, out)
        measured = self.measures(settings, data, arms)
        self.plots(settings, data, arms, measured, out)
        tables = self.tables(arms, measured)
        judged = [self.claims(settings, measured)]
        for other in others:
            judged.append(self.claims(other, self.again(other, data, out)))
        for name, rows in tables.items():
            write_csv(out / f"{name}.csv", rows)
        cost = costs(plan, self.minutes(settings, data, arms, out)) if plan else []
        claims = over_seeds(judged)
        verdict = self.verdict(settings, arms, claims, tables)
        print(verdict.text)
        if not verdict.judged:
            print(f"(preset {settings.preset}: for information, no targets)")
        checks = [finite(tables), *verdict.checks]
        made = {
            **provenance(self.name, without_folders(settings)),
            "torch": torch.__version__,
            "device": hardware(settings.device),
        }
        trainings = [[dataclasses.asdict(claim) for claim in one] for one in judged]
        found = {"claims": verdict.claims, "trainings": trainings, **tables, "checks": checks}
        about = {"cost": cost, **self.about(settings)}
        if twice := sorted({*about, *made} & {*found}):
            raise ValueError(f"tables: {', '.join(twice)} stand for something else in the results")
        write_json(out / f"{self.name.split()[-1]}.json", {**made, **about, **found})
        return checks


def finite(tables: Tables) -> Check:
    """Whether every number that should be there is one."""
    numbers = [
        value
        for rows in tables.values()
        for row in rows
        for key, value in row.items()
        if isinstance(value, float) and key not in MAY_BE_MISSING
    ]
    share = float(np.isfinite(numbers).mean())
    return at_least("numbers in the tables that are finite, share", share, 1.0)


def hardware(device: str) -> str:
    """The kind of it."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
