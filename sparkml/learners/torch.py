"""`TorchLearner`: a ``torch.nn.Module`` trained by the loop of all nets, on ranks that add up their gradients."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sparkml.errors import ConfigError
from sparkml.learners import torch_file
from sparkml.learners.checkpoint import Arrays
from sparkml.learners.feed import Batch, Layout
from sparkml.learners.inputs import Target
from sparkml.learners.torch_net import TorchSource
from sparkml.learners.torch_options import TorchOptions

if TYPE_CHECKING:
    import torch

_PROBES = 3


class Exchange(Protocol):
    """What ranks need to combine tensors; `sparkml.launch.torch_worker.TorchWorker` is one."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def total(self, tensor: Any) -> None:
        """Replace a tensor by its sum over ranks."""

    def broadcast(self, tensor: Any) -> None:
        """Replace a tensor by rank 0's."""


class TorchLearner:
    """`sparkml.learners.loop.Learner` around a module. `graph` is, on rank 0, the hash of what it computes when it predicts.

    A step's gradient is that of the mean loss over the real rows of all ranks, whatever each has: the gradient of the *sum* is
    totalled over ranks and divided by the totalled number of rows. Random numbers (dropout) come from PyTorch's own generator,
    which is seeded anew for every epoch and rank, so that between epochs there is no state of it.

    Parameters
    ----------
    class_weights
        Factor of each class in the loss; None weighs all alike.
    """

    def __init__(
        self,
        source: TorchSource,
        layout: Layout,
        options: TorchOptions,
        exchange: Exchange,
        seed: int,
        *,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        import torch

        (self._target,) = layout.targets
        self.layout, self.options, self._exchange, self._seed = layout, options, exchange, seed
        torch.manual_seed(seed)
        self.module = source.make(layout.inputs, self._target)
        _check(self.module, layout, self._target)
        self.graph = ""
        if exchange.rank == 0:
            written = torch_file.described(self.saved(), layout.inputs)
            written.body()  # a model that cannot be saved is refused before it is trained
            self.graph = written.mark()
        self._class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self._peak = options.learning_rate * (exchange.size if options.scale_learning_rate else 1)
        self.optimizer = _optimizer([item for item in self.module.parameters() if item.requires_grad], options, self._peak)
        self._trained: list[Any] = self.optimizer.param_groups[0]["params"]
        self._updates, self._updates_per_epoch = 0, 1
        self._held_rows = 0.0
        self._sums = np.zeros(3)  # rows, loss, correct rows or squared errors
        self._waited = 0.0

    def start(self, steps_per_epoch: int) -> None:
        self._updates_per_epoch = -(-steps_per_epoch // self.options.gradient_accumulation)
        for tensor in self._state().values():
            self._exchange.broadcast(tensor)

    def begin(self) -> None:
        pass

    def begin_epoch(self, epoch: int) -> None:
        import torch

        name = f"{self._seed}/{epoch}/{self._exchange.rank}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7]))

    def step(self, batch: Batch, number: int, *, last: bool, due: bool) -> bool:
        self.module.train()
        objective = self._objective(batch)
        objective.backward()
        self._held_rows += float(batch.counts.sum())
        if not last and (number + 1) % self.options.gradient_accumulation:
            return False
        return self._combine(due)

    def _combine(self, due: bool) -> bool:
        """Total the gradients over ranks, step the optimizer, and return whether any rank wants a checkpoint now."""
        import torch

        # an embedding may keep its gradient sparse; what no row reached has none
        gradients = [torch.zeros_like(item) if item.grad is None else item.grad.to_dense() for item in self._trained]
        facts = torch.tensor([self._held_rows, float(due), *(float(item.grad is not None) for item in self._trained)])
        together = torch.cat([*(gradient.reshape(-1).to(torch.float32) for gradient in gradients), facts])
        began = time.monotonic()
        self._exchange.total(together)
        self._waited += time.monotonic() - began
        rows, wanted, *reached = together[-len(facts) :].tolist()
        means = (together[: -len(facts)] / max(rows, 1.0)).split([gradient.numel() for gradient in gradients])
        for item, mean, ranks in zip(self._trained, means, reached, strict=True):
            # with a gradient of zeros, weight decay and momentum would move what this step did not use
            item.grad = mean.view_as(item).to(item.dtype) if ranks else None
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._updates += 1
        self._held_rows = 0.0
        return bool(wanted)

    def _rate(self) -> float:
        """Return the learning rate of the next update; see `NetOptions`."""
        warmup = round(self.options.warmup_epochs * self._updates_per_epoch)
        if self._updates < warmup:
            return self._peak * self._updates / warmup
        if self.options.schedule == "constant":
            return self._peak
        done = (self._updates - warmup) / max(1, self.options.epochs * self._updates_per_epoch - warmup)
        return self._peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def evaluate(self, batch: Batch) -> None:
        import torch

        self.module.eval()
        with torch.no_grad():
            self._objective(batch)

    def _objective(self, batch: Batch) -> Any:
        """Return the weighted sum of the loss over the batch's rows, and add it to the totals."""
        import torch

        functional = torch.nn.functional
        (labels,) = batch.labels
        output = self.module(*(torch.from_numpy(np.ascontiguousarray(values)) for values in batch.inputs))
        weights, wanted = torch.from_numpy(batch.weights), torch.from_numpy(np.ascontiguousarray(labels))
        if self._target.task == "classification":
            wanted = wanted.long()
            losses = functional.cross_entropy(output, wanted, reduction="none", label_smoothing=self.options.label_smoothing)
            weights = weights if self._class_weights is None else weights * self._class_weights[wanted]
            scores = (output.detach().argmax(1) == wanted).double()
        else:
            target = self._target
            losses = (output - (wanted - target.mean) / target.std).square().mean(1)
            scores = losses.detach().double() * target.std**2
        objective = (losses * weights).sum()
        found = [
            batch.counts.sum(dtype=np.float64),
            float(objective.detach()),
            float((scores * torch.from_numpy(batch.counts)).sum()),
        ]
        self._sums += np.array(found)
        return objective

    def average(self, rows: int) -> None:
        """Average the statistics that each rank collected from its own batches (batch normalisation), weighted by its rows.

        What is the same on all ranks keeps its bits, be it infinite: a mask may be a buffer, too.
        """
        import torch

        kept = self._collected()
        if kept and self._exchange.size > 1:
            own = torch.cat([buffer.reshape(-1).double() for buffer in kept])
            first = own.clone()
            self._exchange.broadcast(first)
            same = (own == first) | (own.isnan() & first.isnan()) | (rows == 0)
            together = torch.cat([torch.where(same, 0.0, (own - first) * rows), torch.tensor([float(rows)]).double()])
            self._exchange.total(together)
            distance = together[:-1] / together[-1]
            means = torch.where(distance == 0, first, first + distance).split([buffer.numel() for buffer in kept])
            for buffer, mean in zip(kept, means, strict=True):
                buffer.copy_(mean.view_as(buffer))

    def _collected(self) -> list[Any]:
        return [buffer for buffer in self.module.buffers() if buffer.is_floating_point()]

    def end_epoch(self, epoch: int, logs: dict[str, float]) -> bool:
        return False

    def end(self) -> None:
        pass

    def take_wait(self) -> float:
        """Return the seconds since the last call that steps spent in the sum over ranks."""
        seconds, self._waited = self._waited, 0.0
        return seconds

    def totals(self) -> Arrays:
        return {"sums": self._sums.copy()}

    def set_totals(self, totals: Arrays) -> None:
        self._sums = totals["sums"].copy() if totals else np.zeros(3)

    def metrics(self) -> dict[str, float]:
        rows, loss, score = (float(value) for value in self._sums)
        rows = max(rows, 1.0)
        if self._target.task == "classification":
            return {"accuracy": score / rows, "loss": loss / rows}
        return {"rmse": math.sqrt(score / rows), "loss": loss / rows}

    def learning_rate(self) -> float:
        return self._rate()

    def _state(self) -> dict[str, Any]:
        """Return parameters and buffers, also those that a module does not save by itself."""
        found = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        return {name: tensor.detach() for name, tensor in found.items()}

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        arrays = {f"net/{name}": _values(tensor) for name, tensor in self._state().items()}
        for at, item in enumerate(self._trained):
            for name, value in self.optimizer.state.get(item, {}).items():
                if value is not None:
                    arrays[f"optimizer/{at:04d}/{name}"] = _values(value)
        return arrays, {"updates": self._updates}

    def restore(self, arrays: Arrays, notes: dict[str, Any]) -> None:
        import torch

        self.set_weights({name.removeprefix("net/"): value for name, value in arrays.items() if name.startswith("net/")})
        self.optimizer.state.clear()
        for name, value in arrays.items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                at, _, key = rest.partition("/")
                self.optimizer.state[self._trained[int(at)]][key] = torch.from_numpy(value.copy())
        self._updates = notes["updates"]

    def own_state(self) -> Arrays:
        import torch

        kept = {f"kept/{at:04d}": _values(buffer) for at, buffer in enumerate(self._collected())}
        return {**kept, "random": _values(torch.get_rng_state()), "total/sums": self._sums.copy()}

    def restore_own(self, state: Arrays) -> None:
        import torch

        for at, buffer in enumerate(self._collected()):
            buffer.copy_(torch.from_numpy(state[f"kept/{at:04d}"]))
        torch.set_rng_state(torch.from_numpy(state["random"].copy()))
        self._sums = state["total/sums"].copy()

    def weights(self) -> Arrays:
        return {name: _values(tensor) for name, tensor in self._state().items()}

    def set_weights(self, weights: Arrays) -> None:
        import torch

        for name, tensor in self._state().items():
            tensor.copy_(torch.from_numpy(weights[name].copy()))

    def saved(self) -> torch.nn.Module:
        """Return the module that predicts: logits, or numbers in the label's own units."""
        return in_units(self.module, self._target)


def in_units(module: torch.nn.Module, target: Target) -> torch.nn.Module:
    """Return a module that gives numbers in the label's own units instead of standard deviations."""
    if (target.mean, target.std) == (0.0, 1.0):
        return module
    import torch

    class InUnits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Any) -> Any:
            return self.module(*tensors) * target.std + target.mean

    return InUnits()


def _check(module: torch.nn.Module, layout: Layout, target: Target) -> None:
    """Raise `ConfigError` for a module that does not fit the data or has nothing to train."""
    import torch

    if not any(item.requires_grad for item in module.parameters()):
        raise ConfigError("the model has no parameters to train")
    shapes = ", ".join(f"{item.name} {item.dtype}{item.shape}" for item in layout.inputs)
    module.eval()
    try:
        with torch.no_grad():
            output = module(*(torch.from_numpy(values) for values in layout.nothing(_PROBES).inputs))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ConfigError(
            f"the model does not take the features ({shapes} per row): {str(error).strip().splitlines()[0]}",
            hint="set inputShape if rows are flattened tensors; the model gets one tensor per input column",
        ) from None
    if not isinstance(output, torch.Tensor) or tuple(output.shape) != (_PROBES, target.outputs):
        found = f"shape {tuple(output.shape)[1:]} per row" if isinstance(output, torch.Tensor) else type(output).__name__
        raise ConfigError(
            f"the model's output is a {found}, {target.task} needs ({target.outputs},)",
            hint="the model function is called with (input_shape, outputs, task): use `outputs` for the last layer",
        )


def _optimizer(parameters: list[Any], options: TorchOptions, rate: float) -> Any:
    import torch

    extra = dict(options.optimizer_options)
    if options.optimizer == "sgd" and not extra:
        extra = {"momentum": 0.9, "nesterov": True}
    kinds = {name.lower(): kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
    try:
        return kinds[options.optimizer](parameters, lr=rate, **extra)
    except (TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"optimizer_options do not fit {options.optimizer}: {error}") from None


def _values(tensor: Any) -> np.ndarray[Any, Any]:
    return np.array(tensor.detach().numpy())
