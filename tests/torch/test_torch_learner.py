"""Training by the loop, without Spark: against plain PyTorch, over several ranks, and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparkml.errors import ConfigError, DataError, StorageError, TrainingError
from sparkml.launch.torch_worker import TorchWorker
from sparkml.learners import torch_file
from sparkml.learners.feed import Layout
from sparkml.learners.inputs import Input, Target
from sparkml.learners.torch_job import TorchJob, train_rows
from sparkml.learners.torch_net import torch_source_of
from sparkml.storage import Store
from tests.spark.keras_rows import LAYOUT, Memory, blobs
from tests.torch.torch_rows import AloneTorch, a_job, on_ranks


def run(job: TorchJob, rows: Memory, validation: Memory | None = None) -> dict[str, Any]:
    history, learner = train_rows(AloneTorch(), job, rows, validation)
    return {**history, "weights": learner.weights()}


def linear(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    return torch.nn.Linear(shape[0], outputs)


def plain(rows: Memory, batch: int, epochs: int, optimizer: Any, weight: Any = None) -> dict[str, Any]:
    """An ordinary PyTorch loop on the same rows in the same order: the other side of the comparison."""
    torch.manual_seed(5)
    net = torch.nn.Linear(3, 3)
    steps = optimizer(net.parameters())
    for epoch in range(epochs):
        for block in rows.batches(batch, epoch=epoch):
            x, y = torch.tensor(block["features"]), torch.tensor(block["label"]).long()
            losses = torch.nn.functional.cross_entropy(net(x), y, reduction="none")
            loss = (losses if weight is None else losses * torch.tensor(block["weight"])).mean()
            steps.zero_grad()
            loss.backward()
            steps.step()
    return {name: value.detach().numpy() for name, value in net.named_parameters()}


@pytest.mark.parametrize("weighted", [False, True])
def test_one_rank_does_what_a_plain_loop_does(weighted: bool) -> None:
    rows = blobs(53)  # the last batch of 16 has five
    layout = LAYOUT
    if weighted:
        rows = replace(rows, weight=np.linspace(0.1, 3, 53).astype(np.float32))
        layout = replace(LAYOUT, weight="weight")
    found = run(a_job(build=linear, layout=layout, epochs=4), rows)["weights"]
    wanted = plain(rows, 16, 4, partial(torch.optim.Adam, lr=0.05), weight=weighted or None)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def _share(worker: TorchWorker, rows: Memory, cut: list[int], job: TorchJob, store: str = "") -> bytes:
    """Train with rows cut[rank] to cut[rank + 1] on each rank."""
    mine = slice(cut[worker.rank], cut[worker.rank + 1])
    sizes = tuple(int(size) for size in np.diff(cut))
    share = replace(rows, x=rows.x[mine], y=rows.y[mine], sizes=sizes, seed=worker.rank)
    history, learner = train_rows(worker, job, share, None)
    weights = {name: value.tolist() for name, value in learner.weights().items()}
    return json.dumps({"weights": weights, "history": history}).encode()


def test_two_ranks_of_a_batch_are_one_rank_of_twice_the_batch() -> None:
    """24 rows a rank in the order of the file: batches of 8 are the two halves of batches of 16."""
    whole = replace(blobs(48), shuffled=False)
    pairs = np.arange(48).reshape(3, 2, 8).transpose(1, 0, 2).ravel()  # rank 0: the first half of every batch of 16
    split = replace(whole, x=whole.x[pairs], y=whole.y[pairs])
    job = a_job(build=linear, batch_size=8)
    found = [json.loads(block) for block in on_ranks(partial(_share, rows=split, cut=[0, 24, 48], job=job), 2)]
    assert found[0]["weights"] == found[1]["weights"]
    wanted = plain(whole, 16, 3, partial(torch.optim.Adam, lr=0.05))
    for name, value in wanted.items():
        np.testing.assert_allclose(found[0]["weights"][name], value, rtol=1e-5, atol=1e-6)
    alone = run(a_job(build=linear), whole)
    assert found[0]["history"]["epochs"][-1]["loss"] == pytest.approx(alone["epochs"][-1]["loss"], rel=1e-5)


def test_shards_of_unequal_size_count_every_row_once() -> None:
    """Rank 1 has 5 of 37 rows: one step with rank 0's first, then none of its own. By hand, on the union of each step."""
    rows = replace(blobs(37), shuffled=False)
    job = a_job(build=linear, epochs=1, optimizer="sgd", optimizer_options={"momentum": 0.0})
    found = [json.loads(block) for block in on_ranks(partial(_share, rows=rows, cut=[0, 32, 37], job=job), 2)]
    assert [rank["rows"] for rank in found[0]["history"]["ranks"]] == [32, 5]
    torch.manual_seed(5)
    net = torch.nn.Linear(3, 3)
    for chosen in ([*range(16), *range(32, 37)], [*range(16, 32)]):
        loss = torch.nn.functional.cross_entropy(net(torch.tensor(rows.x[chosen])), torch.tensor(rows.y[chosen]).long())
        net.zero_grad()
        loss.backward()
        with torch.no_grad():
            for item in net.parameters():
                item -= 0.05 * item.grad
    for name, value in net.named_parameters():
        np.testing.assert_allclose(found[0]["weights"][name], value.detach().numpy(), rtol=1e-5, atol=1e-6)


def normalised(shape: tuple[int, ...], outputs: int, task: str) -> Any:
    return torch.nn.Sequential(
        torch.nn.Linear(shape[0], 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, outputs)
    )


class KilledError(Exception):
    pass


def _killed(worker: TorchWorker, rows: Memory, cut: list[int], job: TorchJob, step: int) -> bytes:
    """The same until a step of the second epoch, of which checkpoints are there."""
    share = replace(rows, x=rows.x[cut[worker.rank] : cut[worker.rank + 1]], sizes=tuple(int(n) for n in np.diff(cut)))
    share = replace(share, y=rows.y[cut[worker.rank] : cut[worker.rank + 1]], seed=worker.rank)
    noted = worker.note

    def note(phase: str, number: int) -> None:
        if (phase, number) == ("step", step):
            note.seen += 1  # type: ignore[attr-defined]
            if note.seen == 2:  # type: ignore[attr-defined]
                raise KilledError
        noted(phase, number)

    note.seen = 0  # type: ignore[attr-defined]
    worker.note = note  # type: ignore[method-assign]
    try:
        train_rows(worker, job, share, None)
    except KilledError:
        return b"killed"
    return b""


def test_a_training_killed_within_an_epoch_goes_on_bit_by_bit(tmp_path: Path) -> None:
    """Dropout, batch statistics and momentum included; two ranks with unequal shards."""
    rows, cut = blobs(160), [0, 90, 160]
    options = {"build": normalised, "epochs": 3, "batch_size": 16, "gradient_accumulation": 2, "checkpoint_steps": 2}
    whole = on_ranks(partial(_share, rows=rows, cut=cut, job=a_job(Store(str(tmp_path / "a")), **options)), 2)
    job = a_job(Store(str(tmp_path / "b")), **options)
    assert on_ranks(partial(_killed, rows=rows, cut=cut, job=job, step=4), 2) == [b"killed"] * 2
    again = on_ranks(partial(_share, rows=rows, cut=cut, job=job), 2)
    first, second = (json.loads(blocks[0]) for blocks in (whole, again))
    assert second["history"]["resumed"] == "went on after epoch 1, step 4"
    assert second["weights"] == first["weights"] and second["history"]["digest"] == first["history"]["digest"]
    assert [epoch["loss"] for epoch in second["history"]["epochs"]] == [epoch["loss"] for epoch in first["history"]["epochs"]]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop", "adagrad", "adadelta", "adamax", "nadam"])
def test_every_optimizer_resumes_bit_by_bit(optimizer: str, tmp_path: Path) -> None:
    rows, store = blobs(60), Store(str(tmp_path))
    run(a_job(store, optimizer=optimizer, epochs=2), rows)
    again = run(a_job(store, optimizer=optimizer, epochs=4), rows)
    assert again["resumed"] == "went on after epoch 2"
    assert again["digest"] == run(a_job(optimizer=optimizer, epochs=4), rows)["digest"]


def test_early_stopping_keeps_the_best_weights() -> None:
    history = run(a_job(epochs=40, learning_rate=0.5, patience=2), blobs(60, 1), blobs(41, 3))
    assert len(history["epochs"]) == history["best_epoch"] + 2 < 40


def test_rates_rise_and_fall_as_the_schedule_says() -> None:
    job = a_job(epochs=4, schedule="cosine", warmup_epochs=1.0, learning_rate=0.1)
    rates = [epoch["learning_rate"] for epoch in run(job, blobs(64))["epochs"]]
    np.testing.assert_allclose(rates, [0.1, 0.075, 0.025, 0.0], atol=1e-9)


def test_a_label_far_from_zero_is_learnt_in_its_own_units() -> None:
    rows = blobs(200)
    rows = replace(rows, y=(1e4 + 300 * rows.x[:, 0]).astype(np.float64))
    target = Target("label", "regression", 1, float(rows.y.mean()), float(rows.y.std()))
    history, learner = train_rows(
        AloneTorch(), a_job(build=linear, layout=Layout(LAYOUT.inputs, (target,)), epochs=60), rows, None
    )
    graph = torch_file.load(torch_file.dump(learner.saved(), LAYOUT.inputs), "it")
    np.testing.assert_allclose(graph(torch.tensor(rows.x)).detach().numpy()[:, 0], rows.y, atol=30)
    assert history["epochs"][-1]["rmse"] < 10


# what a model may be


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: 3, "must return a torch.nn.Module, it returned int"),
        (lambda one, two: None, r"takes \(one, two\)"),
        (lambda: torch.nn.Linear(3, 4), r"shape \(4,\) per row, classification needs \(3,\)"),
        (lambda: torch.nn.Linear(5, 3), r"does not take the features \(features float32\(3,\) per row\)"),
        (lambda: torch.nn.Softmax(1), "no parameters to train"),
    ],
)
def test_models_that_do_not_fit_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(a_job(build=build), blobs(20))


class Branches(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        return self.dense(x) if x.sum() > 0 else -self.dense(x)


def test_a_model_that_cannot_be_saved_is_refused_before_it_is_trained() -> None:
    with pytest.raises(ConfigError, match="cannot be written down as a graph"):
        run(a_job(build=lambda: Branches()), blobs(20))


@pytest.mark.parametrize("model", [3, torch.nn.Linear(3, 3), {"type": "mlpp"}, {"type": "mlp", "hiden": [3]}, "resnet"])
def test_what_is_no_model_is_refused_by_name(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"model must be a name|no plugin|hiden"):
        torch_source_of(model)


def test_no_rows_and_a_loss_that_is_not_finite() -> None:
    with pytest.raises(DataError, match="no training rows"):
        run(a_job(), blobs(0))
    with pytest.raises(TrainingError, match="the loss of epoch 1 is nan"):
        run(
            a_job(build=linear, learning_rate=10, optimizer="sgd", optimizer_options={"momentum": 0.0}),
            replace(blobs(20), x=blobs(20).x * 1e30),
        )


# the file

IMAGE = (Input("image", (8, 8, 1)),)
MIXED = (Input("number", ()), Input("word", (), "int32", 9), Input("words", (4,), "int32", 9), Input("vector", (3,)))


def attention() -> Any:
    class Attends(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.last = torch.nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            return self.last(self.layer(x.reshape(x.shape[0], 2, 4)).flatten(1))

    return Attends()


def recurrent() -> Any:
    class Recurrent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.LSTM(2, 5, batch_first=True)
            self.last = torch.nn.Linear(5, 3)

        def forward(self, x: Any) -> Any:
            return self.last(self.layer(x.unflatten(1, (4, 2)))[0][:, -1])

    return Recurrent()


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        ({"type": "cnn", "filters": (4, 8), "dense": 16}, IMAGE),
        ({"type": "mlp", "activation": "gelu"}, MIXED),
        (normalised, LAYOUT.inputs),
        (attention, (Input("x", (8,)),)),
        (recurrent, (Input("x", (8,)),)),
    ],
)
def test_a_file_gives_what_the_module_gives(build: Any, inputs: tuple[Input, ...]) -> None:
    """For one row, for many, and for ids that no training row had."""
    torch.manual_seed(1)
    module = torch_source_of(build).make(inputs, Target("label", "classification", 3)).eval()
    graph = torch_file.load(torch_file.dump(module, inputs), "it")
    for rows in (1, 2, 70):
        tensors = [
            torch.randint(-2, 14, (rows, *item.shape), dtype=torch.int32) if item.is_ids else torch.randn(rows, *item.shape)
            for item in inputs
        ]
        with torch.no_grad():
            np.testing.assert_allclose(graph(*tensors).numpy(), module(*tensors).numpy(), rtol=1e-4, atol=1e-5)


def altered(change: Any) -> bytes:
    """A good file whose graph somebody rewrote."""
    import io

    with np.load(io.BytesIO(torch_file.dump(torch.nn.Linear(3, 3), LAYOUT.inputs))) as file:
        arrays = {name: file[name] for name in file.files}
    head = json.loads(arrays["_graph"].tobytes())
    change(head, arrays)
    arrays["_graph"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def test_the_file_that_is_altered_here_is_otherwise_good() -> None:
    torch_file.load(altered(lambda head, arrays: None), "it")


CHANGES: dict[str, Any] = {
    "writes a file": lambda head, arrays: head["nodes"][0].update(op="aten.save.default"),
    "reads a file": lambda head, arrays: head["nodes"][0].update(op="aten.from_file.default"),
    "changes its arguments": lambda head, arrays: head["nodes"][0].update(op="aten.add_.Tensor"),
    "another room": lambda head, arrays: head["nodes"][0].update(op="prims.add.default"),
    "Python": lambda head, arrays: head["nodes"][0].update(op="plain.__import__"),
    "no operator": lambda head, arrays: head["nodes"][0].update(op="aten.__class__.__name__"),
    "an attribute of torch": lambda head, arrays: head["nodes"][0].update(kwargs={"x": {"dtype": "load"}}),
    "a node that comes later": lambda head, arrays: head["nodes"][0].update(args=[{"node": head["nodes"][-1]["name"]}]),
    "an unknown mapping": lambda head, arrays: head["nodes"][0].update(args=[{"call": "os.system"}]),
    "a missing array": lambda head, arrays: arrays.pop("value/0000"),
    "pickled objects": lambda head, arrays: arrays.update({"value/0000": np.array([{"a": 1}], dtype=object)}),
    "another format": lambda head, arrays: head.update(format=2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_are_not_ours_are_refused(change: str) -> None:
    with pytest.raises(StorageError):
        torch_file.load(altered(CHANGES[change]), "it")


def test_torn_files_are_refused() -> None:
    body = torch_file.dump(torch.nn.Linear(3, 3), LAYOUT.inputs)
    for damaged in (b"", b"not a file", body[: len(body) // 2]):
        with pytest.raises(StorageError):
            torch_file.load(damaged, "it")
