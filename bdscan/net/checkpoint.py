"""Where an unfinished training is kept on disk: whole or not at all, and taken up again only for the same work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bdscan.facts.atomic_files import AtomicFiles
from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem

KIND = "bdscan.training/1"
SAVE_INTERVAL = 30.0  # seconds: as much work as a power cut may cost
Tensors = dict[str, Tensor]


class TrainingCheckpoint:
    """The one file that holds the finished stages, and the unfinished one as far as it got."""

    def __init__(self, path: Path | None, key: Mapping[str, object]) -> None:
        self.path = path  # None: nothing is kept
        self._key = {name: str(value) for name, value in key.items()}
        self._tensors: Tensors = {}
        self._done: dict[str, int] = {}  # steps of each stage; -1: finished
        self.asked = False  # the user wants to stop: at the next step, when it is saved
        self.busy = False  # in a stage, so that stopping can wait for the step's end

    def resume(self) -> bool:
        """Read what an earlier call left behind; whether there was anything."""
        if self.path is None or not self.path.exists():
            return False
        try:
            with safe_open(self.path, "pt") as file:
                metadata = file.metadata() or {}
                self._tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            key, self._done = json.loads(metadata["key"]), json.loads(metadata["done"])
            assert metadata["kind"] == KIND
        except (OSError, SafetensorError, ValueError, KeyError, AssertionError):
            raise Problem(
                f"`{self.path}` is no unfinished training that can be taken up", hint="delete it and start anew"
            ) from None
        other = [name for name in {**key, **self._key} if key.get(name) != self._key.get(name)]
        if other:
            message = f"`{self.path}` was begun with another {_listed(other)}"
            raise Problem(message, hint="resume with the same command, or delete it and start anew", status=USAGE)
        return True

    def open(self, stage: str, net: nn.Module, records: Mapping[str, Tensor]) -> StageCheckpoint | None:
        """The stage's part; None where it is finished, and then the net and the records are as they were at its end."""
        done = self._done.get(stage, 0)
        for name, record in records.items():
            if done:
                record.copy_(self._tensors[f"{stage}/record.{name}"])
        if done < 0:
            state = self.inner(stage, "net.")
            if state:  # later stages have their own
                net.load_state_dict(state)
            return None
        return StageCheckpoint(self, stage, net, records, done)

    def inner(self, stage: str, kind: str = "") -> Tensors:
        start = f"{stage}/{kind}"
        return {name.removeprefix(start): value for name, value in self._tensors.items() if name.startswith(start)}

    def put(self, stage: str, done: int, state: Tensors) -> None:
        """In the place of what was there of this stage; of finished ones only the records are of use any more."""
        others = {n: v for n, v in self._tensors.items() if not n.startswith(f"{stage}/") and "/record." in n}
        self._tensors = others | {f"{stage}/{name}": value.detach().cpu().contiguous() for name, value in state.items()}
        self._done[stage] = done
        if self.path is not None:
            self._write(self.path)

    def _write(self, path: Path) -> None:
        metadata = {"kind": KIND, "key": json.dumps(self._key), "done": json.dumps(self._done)}
        try:
            with AtomicFiles(synced=False) as files:
                save_file(self._tensors, files.temporary(path), metadata=metadata)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            kept = "the one before it is kept" if path.exists() else "nothing was kept"
            raise Problem(
                f"the checkpoint `{path}` cannot be written ({reason}); {kept}",
                hint="make room and go on with `--resume`",
            ) from None

    def remove(self) -> None:
        """The training is over and its result is written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class StageCheckpoint:
    """One stage's part of it, which `fit` keeps from step to step so that it can be taken up where it was left."""

    def __init__(
        self, whole: TrainingCheckpoint, stage: str, net: nn.Module, records: Mapping[str, Tensor], done: int
    ) -> None:
        self.whole, self.stage, self.net, self.records, self.done = whole, stage, net, records, done
        self.saved = time.monotonic()
        whole.busy = True

    def last(self) -> tuple[int, Tensors] | None:
        """How many steps were done, and the state after them; None at the start."""
        return (self.done, self.whole.inner(self.stage)) if self.done else None

    def step(self, done: int, steps: int, state: Callable[[], Tensors]) -> None:
        """Called after each step; raises `KeyboardInterrupt` to end here."""
        overdue = self.whole.path is not None and time.monotonic() - self.saved > SAVE_INTERVAL
        if self.whole.asked or (overdue and done < steps):
            self.whole.put(self.stage, done, {**state(), **self._recorded()})
            self.saved = time.monotonic()
        if self.whole.asked:
            self.whole.busy = False
            raise KeyboardInterrupt

    def close(self) -> None:
        net = {f"net.{name}": tensor.clone() for name, tensor in self.net.state_dict().items()}
        self.whole.put(self.stage, -1, {**net, **self._recorded()})
        self.whole.busy = False

    def _recorded(self) -> Tensors:
        return {f"record.{name}": record.clone() for name, record in self.records.items()}


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def stopped(path: Path | None) -> Problem:
    """What the user who stopped it is told."""
    if path is None or not path.exists():
        return Problem("stopped by the user; nothing was written", status=COULD_NOT_TELL)
    message = f"stopped by the user; the training so far is kept in `{path}`"
    return Problem(message, hint="the same command with `--resume` goes on", status=COULD_NOT_TELL)
