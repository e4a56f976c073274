"""A run: the iterations, and what happens between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn.utils import get_total_norm

from dro_core.optional import needed
from dro_torch.training import capture
from dro_torch.training.batching import Batching, Source
from dro_torch.training.best import Best
from dro_torch.training.checkpoint import Checkpoints
from dro_torch.training.learner import Learner
from dro_torch.training.modules import Modules
from dro_torch.training.options import Options
from dro_torch.training.phase import Batch, Phase, restore_optimizer
from dro_torch.training.processes import Processes, Signals, set_random_state
from dro_torch.training.record import Record, Row, shown


class Run:
    """The state of a run between two steps."""

    def __init__(
        self,
        phases: Sequence[Phase],
        sources: Mapping[str, Source],
        options: Options,
        processes: Processes,
        checkpoints: Checkpoints,
        *,
        decays: Mapping[str, float],
        compiled: Sequence[str],
    ) -> None:
        self.options, self.processes, self.checkpoints = options, processes, checkpoints
        layout = options.dtype, options.channels_last
        self.modules = Modules(phases, decays, compiled, processes, *layout)
        self.batching = Batching(sources, processes, *layout)
        self.record = Record(phases, processes.device, checkpoints)
        self.best = Best(options.best)
        autocast = options.precision == "bf16"
        self.learners = [
            Learner(
                phase,
                processes,
                self.record,
                seed=options.seed,
                autocast=autocast,
                checks=options.checks,
            )
            for phase in phases
        ]
        if options.capture:
            optimizers = [learner.optimizer for learner in self.learners]
            recorder = capture.recorder_for(processes.device, processes.size, optimizers)
            for learner in self.learners:
                learner.capture(recorder)
        self.step, self.settled = 0, False

    def run(self, signals: Signals) -> None:
        """From the newest checkpoint, if there is one, to the last step or a signal."""
        try:
            self._load()
            self.modules.train()
            hidden = not (self.options.progress and self.processes.rank == 0)
            steps = self.options.steps
            tqdm = needed("tqdm", "the progress bar of training").tqdm
            with tqdm(total=steps, initial=self.step, disable=hidden, unit="step") as bar:
                while self.step < steps and not (self.record.stop or self.settled):
                    self._iterate(signals)
                    if self.processes.size == 1 and signals.number is not None:
                        self.record.stop = True
                    self._report(bar)
                    ends = self.record.stop or self.settled
                    if ends or self.options.saves_after(self.step):
                        self._save()
                    bar.update()
        finally:
            self.modules.train(False)
            for learner in self.learners:
                learner.release()

    def _iterate(self, signals: Signals) -> None:
        """One iteration: every phase that is due, then the averages."""
        factor = self.options.schedule(self.step)
        drawn: dict[int, Batch] = {}
        for number, learner in enumerate(self.learners):
            if self.step % learner.phase.every == 0:
                set_random_state(self.options.seed, self.step, number, self.processes)
                source = self.batching.sources[learner.phase.name]
                if id(source) not in drawn:
                    drawn[id(source)] = self.batching.batch(source, self.step)
                for other in self.learners:
                    other.require_gradients(other is learner)
                stop = signals.number is not None
                called, batch = self.modules.called, drawn[id(source)]
                learner.update(called, batch, self.step, factor, stop)
        self.step += 1
        self.modules.average(self.step)

    def _report(self, bar: Any) -> None:
        """The rows that are due: history on the progress bar, validation, both to the user."""
        rows = []
        if self.options.logs_after(self.step):
            rows.append(self.record.add_history(self.step))
            bar.set_postfix(shown(rows[0]), refresh=False)
        if self.options.validates_after(self.step):
            rows += self._validate()
            self._settle()
        if self.options.log is not None and self.processes.rank == 0:
            for row in rows:
                self.options.log(row)

    def _validate(self) -> list[Row]:
        """A row of validation by the first process, on the averaged modules."""
        self.record.read()
        if self.options.validate is None or self.processes.rank > 0:
            return []
        set_random_state(self.options.seed, self.step, len(self.learners), self.processes)
        self.modules.train(False)
        found = self.options.validate(self.modules.evaluated)
        row = self.record.add_validation(
            self.step, {name: float(value) for name, value in found.items()}
        )
        self.best.consider(row, self.modules.evaluated)
        self.modules.train()
        return [row]

    def _settle(self) -> None:
        """Whether patience is over; the first process, which validates, decides for all."""
        patience = self.options.patience
        if patience is not None:
            waited = self.best.since(self.record.validation) >= patience
            self.settled = self.processes.share(bytes([waited])) == bytes([True])

    def _save(self) -> None:
        """A checkpoint, if all parameters are finite."""
        self.record.read()
        if not bool(get_total_norm(list(self.modules.parameters())).isfinite()):
            raise self.record.diverged("a parameter is NaN or infinite", self.step - 1)
        self.processes.agree(self.modules.buffers())
        states = self.modules.states()
        self.checkpoints.save(
            {
                "step": self.step,
                "modules": states["modules"],
                "averaged": states["averaged"],
                "optimizers": {
                    each.phase.name: each.optimizer.state_dict() for each in self.learners
                },
                "history": self.record.history,
                "validation": self.record.validation,
                "latest": self.record.latest,
                "best": self.best.state(),
            }
        )

    def _load(self) -> None:
        """Continue from the newest readable checkpoint of the folder."""
        here = self.modules.states()["modules"]
        options = self.options
        state = self.checkpoints.load(options.resume, options.steps, here, extend=options.extend)
        if state is None:
            return
        self.modules.load(state["modules"], state["averaged"])
        for learner in self.learners:
            restore_optimizer(learner.optimizer, state["optimizers"][learner.phase.name])
        self.step = state["step"]
        self.best.restore(state.get("best"))
        self.record.restore(state["history"], state["validation"], state["latest"])
        self._settle()
