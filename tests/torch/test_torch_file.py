"""The file of a net: it gives what the module gives, and names nothing but what computes."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch

from sparkml.errors import ConfigError, StorageError
from sparkml.learners import torch_file, torch_operators
from sparkml.learners.inputs import Input, Target
from sparkml.learners.torch_net import torch_source_of
from tests.spark.keras_rows import LAYOUT
from tests.torch.torch_rows import normalised

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


def frozen(backbone: Any, width: int) -> Any:
    """A backbone that is not trained, then a layer that is: how people fine-tune."""

    class Frozen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone.requires_grad_(False)
            self.last = torch.nn.Linear(width, 3)

        def forward(self, x: Any) -> Any:
            with torch.no_grad():
                found = self.backbone(x)
            return self.last(found.flatten(1))

    return Frozen()


def frozen_layers() -> Any:
    return frozen(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU()), 8)


def frozen_attention() -> Any:
    layer = torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return frozen(torch.nn.Sequential(torch.nn.Unflatten(1, (2, 4)), encoder), 8)


def many_images() -> Any:
    """Layers of image nets, one of each kind of operator."""
    from torch import nn

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), nn.GroupNorm(2, 4), nn.SiLU(),
                nn.ConvTranspose2d(4, 4, 2, stride=2), nn.InstanceNorm2d(4, affine=True), nn.PReLU(), nn.MaxPool2d(2),
                nn.Conv2d(4, 4, 3, groups=4, padding="same", padding_mode="circular"),
                nn.Upsample(scale_factor=2), nn.ReplicationPad2d(1), nn.Mish(),
                nn.Upsample(scale_factor=0.5, mode="bilinear"), nn.Hardswish(), nn.ZeroPad2d(1), nn.AvgPool2d(2),
                nn.PixelShuffle(2),
            )  # fmt: skip
            self.pools = nn.ModuleList([nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2), nn.LPPool2d(2, 2)])
            self.last = nn.LazyLinear(3)

        def forward(self, x: Any) -> Any:
            found = self.first(x.permute(0, 3, 1, 2))
            return self.last(torch.cat([pool(found).flatten(1) for pool in self.pools], 1))

    module = Several()
    module(torch.zeros(2, 8, 8, 1))
    return module


def many_vectors() -> Any:
    from torch import nn

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kinds = [nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.LeakyReLU, nn.Softplus, nn.Softsign, nn.Tanhshrink, nn.Hardsigmoid]
            kinds += [nn.LogSigmoid, nn.ReLU6, nn.Hardtanh, nn.Softshrink, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Hardshrink]
            self.kinds = nn.ModuleList(kind() for kind in kinds)
            self.norm, self.gru = nn.LayerNorm(8), nn.GRU(8, 4, 2, bidirectional=True, batch_first=True)
            self.conv = nn.Conv1d(8, 8, 3, padding=2, dilation=2)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.register_buffer("mask", torch.full((17, 17), float("-inf")).triu(1))
            self.centres = nn.Parameter(torch.randn(3, 8))

        def forward(self, x: Any) -> Any:
            found = torch.stack([kind(x) for kind in self.kinds], 1)
            found = found + self.gru(self.norm(found))[0] + self.conv(found.transpose(1, 2)).transpose(1, 2)
            found = found + self.attention(found, found, found, attn_mask=self.mask)[0]
            best = torch.einsum("rsf,f->rs", found, self.centres[0]).topk(3, 1).indices
            found = torch.gather(found, 1, best.unsqueeze(2).expand(-1, -1, 8)).mean(1)
            distance = (found.unsqueeze(1) - self.centres).square().sum(2).sqrt()
            return distance + torch.nn.functional.normalize(found, dim=1).var(1, keepdim=True).log1p()

    return Several()


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        ({"type": "cnn", "filters": (4, 8), "dense": 16}, IMAGE),
        ({"type": "mlp", "activation": "gelu"}, MIXED),
        (normalised, LAYOUT.inputs),
        (attention, (Input("x", (8,)),)),
        (recurrent, (Input("x", (8,)),)),
        (frozen_layers, (Input("x", (8,)),)),
        (frozen_attention, (Input("x", (8,)),)),
        (many_images, IMAGE),
        (many_vectors, (Input("x", (8,)),)),
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


@pytest.mark.parametrize(
    ("forward", "operator"),
    [
        (lambda x: torch.nn.functional.dropout(x, training=True), "aten.(native_dropout|rand)"),
        (lambda x: x + torch.randn(3), "aten.randn"),
        (lambda x: torch.fft.rfft(x).abs() @ torch.ones(2, 3), "aten._fft_r2c"),
        (lambda x: torch.nn.functional.embedding_bag((x > 0).int(), torch.ones(2, 3)), "aten._embedding_bag"),
    ],
)
def test_what_a_file_cannot_hold_is_named(forward: Any, operator: str) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return forward(x)

    with pytest.raises(ConfigError, match=f"^the model uses {operator}.*, which a file cannot hold") as caught:
        torch_file.dump(Module(), LAYOUT.inputs)
    assert caught.value.hint


def altered(change: Any, module: Any = None, inputs: tuple[Input, ...] = LAYOUT.inputs) -> bytes:
    """A good file whose graph somebody rewrote."""
    with np.load(io.BytesIO(torch_file.dump(torch.nn.Linear(3, 3) if module is None else module, inputs))) as file:
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
    "writes at unchecked indices": lambda head, arrays: head["nodes"][0].update(
        op="aten.max_pool2d_with_indices_backward.default"
    ),
    "reads what was in memory": lambda head, arrays: head["nodes"][0].update(op="aten.empty_strided.default"),
    "another view of memory": lambda head, arrays: head["nodes"][0].update(op="aten.as_strided.default"),
    "random numbers": lambda head, arrays: head["nodes"][0].update(op="aten.rand.default"),
    "gives a Python number": lambda head, arrays: head["nodes"][0].update(op="aten._local_scalar_dense.default"),
    "a layout": lambda head, arrays: head["nodes"][0].update(kwargs={"layout": {"layout": "sparse_coo"}}),
    "an odd type": lambda head, arrays: head["nodes"][0].update(kwargs={"dtype": {"dtype": "qint8"}}),
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


def smaller(head: Any, arrays: Any) -> None:
    """Keep one number of each statistic of a normalisation: PyTorch's kernel would read on behind it."""
    for name, value in list(arrays.items()):
        if value.ndim == 1:
            arrays[name] = value[:1]


def larger(head: Any, arrays: Any) -> None:
    for node in head["nodes"]:
        if node["op"] == "aten.native_group_norm.default":
            node["args"][4] = 1 << 20  # channels


@pytest.mark.parametrize("module", [torch.nn.BatchNorm1d(3), torch.nn.GroupNorm(3, 3)])
def test_sizes_that_do_not_fit_are_found_before_memory_is_read(module: Any) -> None:
    body = altered(smaller, module)
    with pytest.raises(RuntimeError, match=r"weight|running_mean"):
        torch_file.load(body, "it")(torch.ones(2, 3))
    right = torch_file.load(altered(larger, module), "it")(torch.ones(2, 3))
    np.testing.assert_allclose(right.detach().numpy(), module.eval()(torch.ones(2, 3)).detach().numpy())


def test_nothing_is_read_that_others_left_in_memory() -> None:
    def leak(head: Any, arrays: Any) -> None:
        head["nodes"][-1].update(op="aten.empty.memory_format", args=[[100_000]], kwargs={"dtype": {"dtype": "float32"}})

    graph = torch_file.load(altered(leak), "it")
    left = [torch.full((100_000,), float(number)) for number in range(20)]
    del left
    assert not any(graph(torch.ones(2, 3)).any() for _ in range(20))


def test_every_operator_that_a_file_may_name_is_there() -> None:
    """And none of them changes its arguments."""
    for name in sorted(torch_operators._NAMES | set(torch_operators._CHECKED)):
        found = torch_operators.function(name)
        assert name in torch_operators._CHECKED or not found._schema.is_mutable, name


def test_the_mark_of_a_module_is_that_of_what_it_computes() -> None:
    class Activates(torch.nn.Module):
        def __init__(self, function: Any, scale: float) -> None:
            super().__init__()
            self.dense, self.function, self.scale = torch.nn.Linear(3, 3), function, torch.tensor([scale])

        def forward(self, x: Any) -> Any:
            return self.function(self.dense(x)) * self.scale

    def mark(function: Any, scale: float) -> str:
        return torch_file.described(Activates(function, scale), LAYOUT.inputs).mark()

    relu, gelu = torch.nn.functional.relu, torch.nn.functional.gelu
    assert mark(relu, 1.0) == mark(relu, 1.0)  # other weights
    assert len({mark(relu, 1.0), mark(gelu, 1.0), mark(relu, 2.0)}) == 3
