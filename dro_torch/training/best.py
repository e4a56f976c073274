"""The best validation of a run, the modules as they were then, and whether to wait for another."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from torch import nn

from dro_torch.models import bare_copy
from dro_torch.training.modules import State, load_state, state_of

#: A number of the validation, and whether the largest or the smallest is wanted.
Goal = tuple[str, Literal["max", "min"]]
DIRECTIONS = ("max", "min")


class BestState(TypedDict):
    """What a checkpoint holds of it."""

    row: dict[str, float]
    modules: dict[str, State]


def as_goal(value: object) -> Goal | None:
    """A goal as it is given to `fit`."""
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(pair) != 2 or not isinstance(pair[0], str) or pair[1] not in DIRECTIONS:
        raise ValueError(
            f"best: {value!r}; allowed: the name of a number of the validation and 'max' or 'min', "
            "as in ('PSNR', 'max')"
        )
    return pair[0], pair[1]


class Best:
    """Keeps a copy of the modules whenever a validation is better than all before it.

    The copy is part of every checkpoint: it can neither be newer nor older than the run that a
    resume goes on with.

    Attributes
    ----------
    row : dict or None
        The best row of the validation.
    """

    def __init__(self, goal: Goal | None) -> None:
        self.goal, self.row = goal, None if goal is None else dict[str, float]()
        self._states: dict[str, State] = {}

    def consider(self, row: Mapping[str, float], modules: Mapping[str, nn.Module]) -> None:
        """Keep the modules if this validation is the best one; NaN never is, and a tie is not."""
        if self.goal is None:
            return
        name, direction = self.goal
        if name not in row:
            found = ", ".join(key for key in row if key != "step")
            raise ValueError(f"best: {name!r}, but validate returned {found or 'nothing'}")
        sign = 1.0 if direction == "max" else -1.0
        before = sign * self.row[name] if self.row else -math.inf
        if not math.isnan(row[name]) and (not self.row or sign * row[name] > before):
            self.row = dict(row)
            self._states = {key: copy.deepcopy(state_of(m)) for key, m in modules.items()}

    def since(self, rows: Sequence[Mapping[str, float]]) -> int:
        """How many of the validations (all rows of the run so far) came after the best one."""
        best = self.row["step"] if self.row else -math.inf
        return sum(row["step"] > best for row in rows)

    def modules(self, like: Mapping[str, nn.Module]) -> dict[str, nn.Module] | None:
        """Copies of these modules as they were at the best validation, in evaluation mode."""
        if not self.row:
            return None
        found = {}
        for name, module in like.items():
            found[name] = bare_copy(module).requires_grad_(False).eval()
            load_state(found[name], dict(self._states[name]))
        return found

    def state(self) -> BestState | None:
        """For a checkpoint."""
        return {"row": self.row, "modules": self._states} if self.row else None

    def restore(self, state: Any) -> None:
        """From a checkpoint."""
        if state is not None and self.goal is not None:
            self.row, self._states = state["row"], state["modules"]
