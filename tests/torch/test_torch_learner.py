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

from sparkml.errors import ConfigError, DataError, TrainingError
from sparkml.launch.torch_worker import TorchWorker
from sparkml.learners import torch_file
from sparkml.learners.feed import Layout
from sparkml.learners.inputs import Target
from sparkml.learners.torch_job import TorchJob, train_rows
from sparkml.learners.torch_net import torch_source_of
from sparkml.storage import Store
from tests.spark.keras_rows import LAYOUT, Memory, blobs
from tests.torch.torch_rows import AloneTorch, a_job, normalised, on_ranks


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


class Spare(torch.nn.Module):
    """A layer that no row reaches, one that every row does."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.spare = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        return self.dense(x)


def test_what_no_row_reached_is_left_alone() -> None:
    """As in a plain loop: AdamW shrinks by weight decay what has a gradient, be it of zeros, and nothing else."""
    torch.manual_seed(5)
    first = Spare()
    steps = torch.optim.AdamW(first.parameters(), lr=0.05, weight_decay=0.5)
    rows = blobs(48)
    found = run(a_job(build=Spare, optimizer="adamw", optimizer_options={"weight_decay": 0.5}), rows)["weights"]
    np.testing.assert_array_equal(found["spare.weight"], first.spare.weight.detach().numpy())
    for epoch in range(3):
        for block in rows.batches(16, epoch=epoch):
            steps.zero_grad()
            output = first(torch.tensor(block["features"]))
            torch.nn.functional.cross_entropy(output, torch.tensor(block["label"]).long()).backward()
            steps.step()
    for name, value in first.named_parameters():
        np.testing.assert_allclose(found[name], value.detach().numpy(), rtol=1e-5, atol=1e-6)


class Looks(torch.nn.Module):
    """An embedding of what is on, with a dense or a sparse gradient."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(6, 3, sparse=sparse)

    def forward(self, x: Any) -> Any:
        return self.table((x > 0.5).int() + 2 * torch.arange(3)).sum(1)


def test_a_sparse_gradient_is_one_of_zeros_elsewhere() -> None:
    dense, sparse = (run(a_job(build=partial(Looks, kind), gradient_accumulation=2), blobs(60)) for kind in (False, True))
    np.testing.assert_allclose(sparse["weights"]["table.weight"], dense["weights"]["table.weight"], rtol=1e-5)
    assert sparse["epochs"][-1]["loss"] < sparse["epochs"][0]["loss"]


class Masked(torch.nn.Module):
    """Buffers that are infinite and that are no number, and one that every rank collects."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm = torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)
        self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
        self.register_buffer("third", torch.tensor([1 / 3, -0.0, float("nan")]))

    def forward(self, x: Any) -> Any:
        return self.norm(self.dense(x)) @ torch.softmax(self.mask, 1)


@pytest.mark.parametrize("cut", [[0, 40, 40], [0, 0, 40], [0, 27, 40]])
def test_buffers_that_are_the_same_everywhere_keep_their_bits(cut: list[int]) -> None:
    job = a_job(build=Masked, batch_size=8)
    found = [json.loads(block) for block in on_ranks(partial(_share, rows=blobs(40), cut=cut, job=job), 2)]
    assert str(found[0]["weights"]) == str(found[1]["weights"])
    module = Masked()
    for name in ("mask", "third"):
        np.testing.assert_array_equal(found[0]["weights"][name], getattr(module, name).double().numpy())
    assert np.signbit(found[0]["weights"]["third"][1])
    assert np.isfinite(found[0]["weights"]["norm.running_var"]).all() and found[0]["weights"]["norm.running_var"] != [1.0] * 3


def test_ranks_that_build_different_modules_are_told() -> None:
    import os

    def wider(shape: tuple[int, ...], outputs: int, task: str) -> Any:
        width = 4 + int(os.environ["RANK"])
        return torch.nn.Sequential(torch.nn.Linear(shape[0], width), torch.nn.Linear(width, outputs))

    def fn(worker: TorchWorker) -> bytes:
        with pytest.raises(
            TrainingError, match=r"the modules of ranks \[1\] have other parameters or buffers than that of rank 0"
        ):
            _share(worker, blobs(40), [0, 20, 40], a_job(build=wider))
        return b"told"

    assert on_ranks(fn, 2) == [b"told"] * 2


def test_results_of_any_size_reach_rank_0() -> None:
    assert [len(block) for block in on_ranks(lambda worker: b"x" * (worker.rank * 300_000), 3)] == [0, 300_000, 600_000]


class Activates(torch.nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.dense, self.function = torch.nn.Linear(3, 3), function

    def extra_repr(self) -> str:
        return repr(self.function)  # holds an address

    def forward(self, x: Any) -> Any:
        return self.function(self.dense(x))


def test_a_checkpoint_is_of_what_the_module_computes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    run(a_job(store, build=lambda: Activates(lambda x: torch.relu(x))), blobs(40))
    same = run(a_job(store, build=lambda: Activates(lambda x: torch.relu(x)), epochs=4), blobs(40))
    assert same["resumed"] == "went on after epoch 3"
    other = run(a_job(store, build=lambda: Activates(lambda x: torch.sigmoid(x)), epochs=4), blobs(40))
    assert "they have other data or settings" in other["resumed"]


def test_an_optimizer_may_have_pairs_of_options() -> None:
    found = run(a_job(build=linear, optimizer_options={"betas": [0.8, 0.9]}), blobs(48))["weights"]
    wanted = plain(blobs(48), 16, 3, partial(torch.optim.Adam, lr=0.05, betas=(0.8, 0.9)))
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="optimizer_options do not fit adam: Invalid beta parameter"):
        run(a_job(optimizer_options={"betas": [0.8, 1.5]}), blobs(20))


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
