"""`Keeper`: when a training writes checkpoints, and how it goes on from one."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

from sparkml.errors import StorageError, TrainingError
from sparkml.launch.worker import Worker
from sparkml.learners import agree
from sparkml.learners.checkpoint import Arrays, Checkpoint, CheckpointFolder
from sparkml.learners.progress import Progress
from sparkml.learners.training import NetOptions
from sparkml.storage import Store

if TYPE_CHECKING:
    from sparkml.learners.loop import Learner


class Keeper:
    """The checkpoints of one training: every epoch, and every so many steps or minutes within it.

    Parameters
    ----------
    store, folder
        Where checkpoints go; a None store keeps none.
    fingerprint
        Of the data and of all settings that shape the course.
    shuffle_bytes
        Size of each rank's shuffle buffer, on which the order of rows within an epoch depends.
    """

    def __init__(self, store: Store | None, folder: str, fingerprint: str, options: NetOptions, shuffle_bytes: int) -> None:
        self.fingerprint = fingerprint
        self._folder = None if store is None else CheckpointFolder(store, folder, fingerprint, options.keep_checkpoints)
        self._where = "" if store is None else store.url(folder)
        self._steps, self._minutes = options.checkpoint_steps, options.checkpoint_minutes
        self.shuffle_bytes = shuffle_bytes
        self.begins_anew = False
        self._last, self._last_step = time.monotonic(), 0

    @property
    def writes(self) -> bool:
        return self._folder is not None

    @property
    def failures(self) -> list[str]:
        """Which checkpoints could not be written, and why."""
        return [] if self._folder is None else self._folder.failures

    def tick(self, progress: Progress) -> None:
        """An epoch begins, or goes on, at `progress`."""
        self._last_step = progress.step
        if progress.step == 0:
            self._last = time.monotonic()

    def due(self, worker: Worker, steps_done: int) -> bool:
        """Return whether rank 0 wants a checkpoint after this step. The others learn it with the step's own all-reduce."""
        if worker.rank != 0 or self._folder is None:
            return False
        by_time = self._minutes is not None and time.monotonic() - self._last >= 60 * self._minutes
        return by_time or (self._steps is not None and steps_done - self._last_step >= self._steps)

    def save(self, worker: Worker, checkpoint: Checkpoint | None, own: Arrays) -> None:
        """Write the checkpoint in the background, with what every rank keeps for itself. Every rank calls."""
        if self._folder is None:
            return
        ranks = agree.gathered_arrays(worker, own) if own else []
        self._last = time.monotonic()
        if checkpoint is not None:
            self._last_step = checkpoint.step
            for rank, arrays in enumerate(ranks):
                checkpoint.arrays.update({f"rank/{rank}/{name}": value for name, value in arrays.items()})
            self._folder.save(checkpoint)

    def close(self) -> None:
        if self._folder is not None:
            self._folder.close()

    def resume(self, worker: Worker, learner: Learner, options: NetOptions) -> Progress:
        """Go on from the newest good checkpoint of this very training; say why one is not used."""
        if self._folder is None:
            return Progress()
        name, refused = self._folder.newest(options.epochs) if worker.rank == 0 else ("", [])
        name, refused, others = agree.gathered(worker, [name, refused, self._folder.others() if worker.rank == 0 else 0])[0]
        body = self._read(name)
        if len(set(agree.gathered(worker, hashlib.sha256(body).hexdigest()))) > 1:
            raise TrainingError(
                f"ranks see different checkpoints at {self._where}",
                hint="choose a checkpointDir on storage that all hosts share",
            )
        told = list(refused)
        if not body:
            if others and not refused:
                told.append(f"the checkpoints of {others} other trainings are not used: they have other data or settings")
            return Progress(resumed=self._tell(worker, told))
        saved = self._folder.decode(body)
        progress = self._restore(worker, learner, saved)
        told.append(f"went on after epoch {saved.epoch}" + (f", step {saved.step}" if saved.step else ""))
        if not self._in_order(worker, saved):
            told[-1] += (
                f", with {_ranks(worker.size)} instead of {saved.size}"
                if saved.size != worker.size
                else f", with a shuffle buffer of {self.shuffle_bytes:,} bytes instead of {saved.notes['shuffle_bytes']:,}"
            )
            told[-1] += ": the weights will not be those of an uninterrupted run"
            told[-1] += f"; rows of epoch {saved.epoch + 1} before the step are seen again" if saved.step else ""
            self.begins_anew = saved.step > 0
        progress.resumed = self._tell(worker, told)
        return progress

    def _in_order(self, worker: Worker, saved: Checkpoint) -> bool:
        """Whether rows come in the order in which they came to the ranks that wrote the checkpoint."""
        return bool(saved.size == worker.size and saved.notes["shuffle_bytes"] == self.shuffle_bytes)

    def begin_anew(self, checkpoint: Checkpoint | None) -> None:
        """Replace the checkpoints within an epoch whose rows came in another order: this one begins it again."""
        if self._folder is not None and checkpoint is not None:
            self._folder.save(checkpoint)
            self._folder.drop_within(checkpoint.epoch)

    def _read(self, name: str) -> bytes:
        assert self._folder is not None
        try:
            return self._folder.read(name) if name else b""
        except StorageError:
            return b""  # this host does not see it: the comparison of hashes tells

    def _restore(self, worker: Worker, learner: Learner, saved: Checkpoint) -> Progress:
        kinds: dict[str, Arrays] = {"best": {}, "rank": {}, "": {}}
        for name, value in saved.arrays.items():
            kind, _, rest = name.partition("/")
            kinds[kind if kind in ("best", "rank") else ""][rest if kind in ("best", "rank") else name] = value
        notes: dict[str, Any] = saved.notes
        same = self._in_order(worker, saved)
        if saved.step and same:
            learner.begin_epoch(saved.epoch)  # what callbacks did then is part of the state that now comes
        learner.restore(kinds[""], notes["learner"])
        if saved.step and same:
            own = f"{worker.rank}/"
            learner.restore_own({name.removeprefix(own): value for name, value in kinds["rank"].items() if name.startswith(own)})
        return Progress(
            saved.epoch,
            saved.step if same else 0,
            notes["history"],
            notes["best_epoch"],
            notes["best_loss"],
            kinds["best"],
            stopped=notes["stopped"],
        )

    @staticmethod
    def _tell(worker: Worker, told: list[str]) -> str:
        text = "; ".join(told)
        if text and worker.rank == 0:
            worker.log(text)
        return text


def _ranks(count: int) -> str:
    return f"{count} rank" + ("s" if count != 1 else "")
