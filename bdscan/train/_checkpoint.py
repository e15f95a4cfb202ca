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
EVERY = 30.0  # seconds between two savings: that much work a power cut may cost
Tensors = dict[str, Tensor]


class TrainingCheckpoint:
    """The one file that holds the finished stages, and the unfinished one as far as it got."""

    def __init__(self, path: Path | None, key: Mapping[str, object]) -> None:
        self.path = path  # None: nothing is kept
        self._key = {name: str(value) for name, value in key.items()}
        self._held: Tensors = {}
        self._done: dict[str, int] = {}  # steps of each stage; -1: finished
        self.asked = False  # the user wants to stop: at the next step, when it is saved
        self.busy = False  # in a stage, so that stopping can wait for the step's end

    def resume(self) -> bool:
        """Read what an earlier call left behind; whether there was anything."""
        if self.path is None or not self.path.exists():
            return False
        try:
            with safe_open(self.path, "pt") as file:
                told = file.metadata() or {}
                self._held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            key, self._done = json.loads(told["key"]), json.loads(told["done"])
            assert told["kind"] == KIND
        except (OSError, SafetensorError, ValueError, KeyError, AssertionError):
            raise Problem(
                f"`{self.path}` is no unfinished training that can be taken up", hint="delete it and start anew"
            ) from None
        other = [name for name in {**key, **self._key} if key.get(name) != self._key.get(name)]
        if other:
            said = f"`{self.path}` was begun with another {_listed(other)}"
            raise Problem(said, hint="resume with the same command, or delete it and start anew", status=USAGE)
        return True

    def open(self, stage: str, net: nn.Module, records: Mapping[str, Tensor]) -> Page | None:
        """The stage's page; None where it is finished, and then the net and the records are as they were at its end."""
        done = self._done.get(stage, 0)
        for name, record in records.items():
            if done:
                record.copy_(self._held[f"{stage}/record.{name}"])
        if done < 0:
            state = self.inner(stage, "net.")
            if state:  # later stages have their own
                net.load_state_dict(state)
            return None
        return Page(self, stage, net, records, done)

    def inner(self, stage: str, kind: str = "") -> Tensors:
        start = f"{stage}/{kind}"
        return {name.removeprefix(start): value for name, value in self._held.items() if name.startswith(start)}

    def put(self, stage: str, done: int, state: Tensors) -> None:
        """In the place of what was there of this stage; of finished ones only the records are of use any more."""
        others = {n: v for n, v in self._held.items() if not n.startswith(f"{stage}/") and "/record." in n}
        self._held = others | {f"{stage}/{name}": value.detach().cpu().contiguous() for name, value in state.items()}
        self._done[stage] = done
        if self.path is not None:
            self._write(self.path)

    def _write(self, path: Path) -> None:
        metadata = {"kind": KIND, "key": json.dumps(self._key), "done": json.dumps(self._done)}
        try:
            with AtomicFiles(synced=False) as files:
                save_file(self._held, files.temporary(path), metadata=metadata)
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


class Page:
    """One stage's part of it: the journal that `fit` keeps."""

    def __init__(
        self, book: TrainingCheckpoint, stage: str, net: nn.Module, records: Mapping[str, Tensor], done: int
    ) -> None:
        self.book, self.stage, self.net, self.records, self.done = book, stage, net, records, done
        self.saved = time.monotonic()
        book.busy = True

    def last(self) -> tuple[int, Tensors] | None:
        return (self.done, self.book.inner(self.stage)) if self.done else None

    def step(self, done: int, steps: int, state: Callable[[], Tensors]) -> None:
        overdue = self.book.path is not None and time.monotonic() - self.saved > EVERY
        if self.book.asked or (overdue and done < steps):
            self.book.put(self.stage, done, {**state(), **self._recorded()})
            self.saved = time.monotonic()
        if self.book.asked:
            self.book.busy = False
            raise KeyboardInterrupt

    def close(self) -> None:
        net = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        self.book.put(self.stage, -1, {**net, **self._recorded()})
        self.book.busy = False

    def _recorded(self) -> Tensors:
        return {f"record.{name}": record.clone() for name, record in self.records.items()}


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def stopped(path: Path | None) -> Problem:
    """What the user who stopped it is told."""
    if path is None or not path.exists():
        return Problem("stopped by the user; nothing was written", status=COULD_NOT_TELL)
    said = f"stopped by the user; the training so far is kept in `{path}`"
    return Problem(said, hint="the same command with `--resume` goes on", status=COULD_NOT_TELL)
