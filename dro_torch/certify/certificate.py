"""The certificate: an interval, the law that proves its lower end, and what both cost."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dro_core.described import Drawn, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Certificate(Drawn):
    r"""An interval that contains the worst-case risk, and what it was made of.

    Attributes
    ----------
    lower : float
        Risk of the concrete law `displacement`, evaluated in float64.
    upper : float or None
        :math:`(\sqrt M + \rho\kappa)^2` with a proved κ, combined with the output range where there
        is one, or the exact risk of an affine network (then `affine`); None with the reason in
        `upper_missing`.
    range_bound : float or None
        What the output range alone gives: the worst that any network with that range can do.
    map : str
        Which map all this is about, in float64.
    smoothing : float or None
        σ of a smoothed map.
    failure_probability : float
        That one of both ends is wrong for chance: positive for smoothed maps only, whose ends rest
        on draws, and for all radii of a curve together.
    draws : int
        Network passes per sample that the upper end's draws took.
    precision_defect : float
        Largest norm of the difference between outputs in the network's own precision and in float64
        on the samples: measured, no bound elsewhere. Zero for a float64 network.
    rounding : str
        What is and what is not covered.
    linearised : float
        Worst-case risk of the linearised residual, as far as its Lanczos vectors span it: what a
        user would expect if the network were affine. No bound either way.
    nominal : float
        Risk of the unmoved samples, M.
    radius, budget : float
        ρ in the units of the data, and ρ².
    transport_cost : float
        :math:`\sum_i\mu_i\|v_i\|^2` of the law, recomputed in float64; at most the budget.
    multiplier : float
        λ of the linearised worst case.
    modulus, lipschitz : float or None
        κ and the constant of the network it comes from.
    attacks : dict
        Risk of each simple attack of the same cost (float64), by name.
    structure : str
    samples : int
    passes : float
        Network passes per sample that the attack took, backward ones included.
    seconds : float
        Wall time, the Lipschitz bound included.
    displacement : (N, size) tensor
        The law, as `Structure.displace` takes it.
    """

    described_by = (
        "map",
        "structure",
        "radius",
        "samples",
        "nominal",
        "lower",
        "upper",
        "upper_missing",
        "linearised",
        "modulus",
        "failure_probability",
    )

    lower: float
    upper: float | None
    linearised: float
    nominal: float
    radius: float
    transport_cost: float
    multiplier: float
    modulus: float | None
    lipschitz: float | None
    attacks: dict[str, float]
    structure: str
    samples: int
    passes: float
    seconds: float
    upper_missing: str = ""
    affine: bool = False
    range_bound: float | None = None
    map: str = "the network"
    smoothing: float | None = None
    failure_probability: float = 0.0
    draws: int = 0
    precision_defect: float = 0.0
    rounding: str = field(
        repr=False,
        default="risks of laws: float64; dual of the upper end: rounded up; norms of weights: to "
        "first order; network passes in float64: not covered; the network in its own precision: "
        "another map, see precision_defect",
    )
    displacement: Tensor = field(default_factory=lambda: torch.empty(0), repr=False, compare=False)

    @property
    def budget(self) -> float:
        """ρ², the transport budget."""
        return self.radius**2

    @property
    def seconds_per_sample(self) -> float:
        """Wall time of one radius divided by the samples."""
        return self.seconds / self.samples

    @property
    def slack(self) -> float | None:
        """upper / lower >= 1, the width of the interval; None without an upper end."""
        return None if self.upper is None or self.lower == 0 else self.upper / self.lower

    def holds(self, rtol: float = 1e-9) -> bool:
        """The ends are in order, and the law is in the ball, up to `rtol`."""
        in_order = self.upper is None or self.lower <= self.upper * (1 + rtol)
        return in_order and self.transport_cost <= self.budget * (1 + rtol)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, without the displacement, for JSON."""
        content = {f.name: plain(getattr(self, f.name)) for f in fields(self)}
        del content["displacement"]
        return {**content, "budget": self.budget, "slack": self.slack, "holds": self.holds()}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def summary(self) -> str:
        """The interval, what it rests on, the attacks, and the cost, as text."""
        return str(self)

    def __str__(self) -> str:
        upper = f"{self.upper:.6g}" if self.upper is not None else f"none ({self.upper_missing})"
        lines = [
            f"worst-case risk of {self.map} over {self.structure}, radius {self.radius:g}, "
            f"{self.samples} samples",
            f"  nominal risk   {self.nominal:.6g}",
            f"  lower          {self.lower:.6g}   (a law of cost {self.transport_cost:.6g} of "
            f"{self.budget:.6g})",
            f"  upper          {upper}",
        ]
        if self.affine:
            lines[-1] += "   (exact: the network is affine)"
        elif self.modulus is not None:
            lines[-1] += f"   (κ <= {self.modulus:.6g})"
        if self.range_bound is not None:
            lines.append(f"  range alone    {self.range_bound:.6g}")
        if self.slack is not None:
            lines.append(f"  upper / lower  {self.slack:.4g}")
        lines.append(f"  linearised     {self.linearised:.6g}   (no bound)")
        if self.failure_probability > 0:
            lines.append(
                f"  both ends hold with probability >= {1 - self.failure_probability:g} "
                f"({self.draws} draws per sample)"
            )
        lines += [f"  attack, {name:19} {risk:.6g}" for name, risk in self.attacks.items()]
        lines.append(
            f"  {self.passes:.0f} network passes per sample, {self.seconds:.1f} s, "
            f"{self.seconds_per_sample:.3g} s per sample"
        )
        return "\n".join(lines)

    def _draw(self, ax: Axes) -> None:
        """The certified interval with the attacks in it."""
        upper = self.lower if self.upper is None else self.upper
        ax.plot([self.lower, upper], [0, 0], "|-", linewidth=5, markersize=24, label="certified")
        ax.plot(self.nominal, 0, "k|", markersize=16, label="no adversary")
        for name, risk in self.attacks.items():
            ax.plot(risk, 0, ".", label=f"attack, {name}")
        ax.set_yticks([])
        ax.set_xlabel("risk, in squared units of x")
        ax.set_title(f"{self.structure}, radius {self.radius:.4g}")
        ax.legend()
