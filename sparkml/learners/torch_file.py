"""The file of a trained PyTorch net: its graph as JSON and its weights as arrays, in one ``.npz``. Loading it runs no code of it.

Why not PyTorch's own formats: ``torch.save`` of a module is a pickle, and a user's class would have to be there again;
``torch.export.load`` unpickles what the archive says it should and evaluates its symbolic expressions as Python (PyTorch 2.9);
TorchScript is a program that may read and write files. So the graph that ``torch.export`` traces is decomposed to PyTorch's core
operators and written down by their names. On load a name is refused that is not in our own list (`torch_operators`), which has
only what computes on tensors. That is a fence around what a file can ask for, not a proof: PyTorch's kernels were not written for
hostile arguments, and a graph may ask for more memory than there is.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkml.errors import ConfigError, StorageError
from sparkml.learners import torch_operators
from sparkml.learners.inputs import Input

if TYPE_CHECKING:
    import torch

FORMAT = 1
_PROBES = 3
_HEAD = "_graph"
_CHECKS = frozenset({"aten._assert_scalar.default", "aten._assert_tensor_metadata.default", "aten._assert_async.msg"})
# attributes of the torch module, by the name of their type
_KINDS = {
    "dtype": torch_operators.DTYPES,
    "memory_format": frozenset({"contiguous_format", "preserve_format", "channels_last", "channels_last_3d"}),
    "layout": frozenset({"strided"}),
}
_NO_FILE = "compute it another way, with what `sparkml.learners.torch_operators` lists"


def traced(module: torch.nn.Module, inputs: tuple[Input, ...]) -> torch.export.ExportedProgram:
    """Return the module's graph for any number of rows. Raises `ConfigError` for a module that cannot be traced."""
    import torch

    probes = tuple(torch.zeros((_PROBES, *item.shape), dtype=getattr(torch, item.dtype)) for item in inputs)
    rows = torch.export.Dim("rows")
    sizes = (tuple({0: rows} for _ in inputs),)
    try:
        return torch.export.export(_of_a_tuple(module).eval(), (probes,), dynamic_shapes=sizes, strict=False).run_decompositions()
    except Exception as error:  # whatever a user's module raises while it is traced
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"the model cannot be written down as a graph: {reason}",
            hint="forward must take any number of rows, and must not branch on values (see torch.export)",
        ) from error


def _of_a_tuple(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module with one argument, a tuple: PyTorch 2.9 cannot export ``forward(*tensors)`` of several tensors."""
    import torch

    class OfATuple(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, tensors: Any) -> Any:
            return self.module(*tensors)

    return OfATuple()


def dump(module: torch.nn.Module, inputs: tuple[Input, ...]) -> bytes:
    """Return the file of a module, as it predicts. Raises `ConfigError` for a module that a file cannot hold."""
    return described(module, inputs).body()


@dataclass(frozen=True)
class Description:
    """A module as data: its graph as JSON, its arrays by the names that they have there, and which of them never change."""

    head: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray[Any, Any]]
    constants: tuple[str, ...]

    def mark(self) -> str:
        """Return a hash of what the module computes, whatever its parameters and buffers hold."""
        digest = hashlib.sha256(json.dumps(self.head).encode())
        for name in self.constants:
            digest.update(self.arrays[name].tobytes())
        return digest.hexdigest()

    def body(self) -> bytes:
        """Return the file. Raises `ConfigError` if it could not be loaded again."""
        file = io.BytesIO()
        np.savez(file, **{_HEAD: np.frombuffer(json.dumps(self.head).encode(), np.uint8)}, **self.arrays)  # type: ignore[arg-type]
        body = file.getvalue()
        try:
            load(body, "its file")
        except StorageError as error:
            raise ConfigError(f"the model cannot be saved: {error.message}", hint=error.hint) from None
        return body


def described(module: torch.nn.Module, inputs: tuple[Input, ...]) -> Description:
    """Return what the file of a module says. Raises `ConfigError` for a module that a file cannot hold."""
    program = traced(module, inputs)
    signature = program.graph_signature
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    values: dict[str, str] = {}
    constants: list[str] = []
    fed: list[str] = []
    for spec in signature.input_specs:
        if spec.kind.name == "USER_INPUT":
            fed.append(spec.arg.name)
        elif spec.kind.name in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR"):
            held = program.state_dict if spec.target in program.state_dict else program.constants
            name = f"value/{len(arrays):04d}"
            arrays[name] = _array(held[spec.target], spec.target)
            values[spec.arg.name] = name
            if spec.kind.name == "CONSTANT_TENSOR":
                constants.append(name)
        else:
            raise ConfigError(f"the model holds {spec.target!r}, a {spec.kind.name.lower()}: a file can hold tensors only")
    if [spec.kind.name for spec in signature.output_specs] != ["USER_OUTPUT"]:
        raise ConfigError("the model changes its own buffers when it predicts, or has several outputs: a file cannot hold it")
    nodes: list[dict[str, Any]] = []
    output = None
    for node in program.graph.nodes:
        if node.op == "output":
            output = _encoded(node.args[0][0])
        elif node.op == "call_function":
            name = _name(node.target)
            if name not in _CHECKS:
                kwargs = {key: _encoded(value) for key, value in node.kwargs.items()}
                nodes.append({"name": node.name, "op": name, "args": [_encoded(arg) for arg in node.args], "kwargs": kwargs})
    head = {"format": FORMAT, "inputs": fed, "values": values, "nodes": nodes, "output": output}
    return Description(head, arrays, tuple(constants))


def _array(tensor: Any, name: str) -> np.ndarray[Any, Any]:
    try:
        return np.array(tensor.detach().cpu().numpy())
    except TypeError as error:  # bfloat16, quantised, sparse
        raise ConfigError(f"the model's {name} cannot be saved: {error}") from None


def _name(target: Any) -> str:
    import torch

    if isinstance(target, torch._ops.OpOverload):
        name = str(target)
        if name in _CHECKS or torch_operators.allowed(name):
            return name
    else:
        name = str(getattr(target, "__name__", target))
        if torch_operators.PLAIN.get(name) is target:
            return f"plain.{name}"
    raise ConfigError(f"the model uses {name}, which a file cannot hold", hint=_NO_FILE)


def _encoded(value: Any) -> Any:
    """Return an argument as JSON: plain values as they are, all else as a mapping of its kind to its name."""
    import torch

    if isinstance(value, torch.fx.Node):
        return {"node": value.name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    if isinstance(value, torch.device):
        return {"device": value.type}
    for kind, names in _KINDS.items():
        if isinstance(value, getattr(torch, kind)) and str(value).removeprefix("torch.") in names:
            return {kind: str(value).removeprefix("torch.")}
    raise ConfigError(f"the model uses {value} ({type(value).__name__}), which a file cannot hold", hint=_NO_FILE)


class Graph:
    """A loaded net: called with one tensor per input, it returns the output, rows first."""

    def __init__(self, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]], where: str) -> None:
        import torch

        self.where = where
        self._inputs = [str(name) for name in head["inputs"]]
        self._values = {str(name): torch.from_numpy(arrays[key]) for name, key in head["values"].items()}
        self._nodes = [(str(node["name"]), self._operator(node["op"]), node["args"], node["kwargs"]) for node in head["nodes"]]
        self._output = head["output"]
        known = {*self._inputs, *self._values}
        for name, _, args, kwargs in self._nodes:
            self._check([args, list(kwargs.values())], known)
            known.add(name)
        self._check(self._output, known)

    def _operator(self, name: str) -> Any:
        if not torch_operators.allowed(name):
            raise StorageError(
                f"{self.where} uses {name!r}, which is not one of the operators that a net's file may use: refused",
                hint="load only what sparkml has saved",
            )
        return torch_operators.function(name)

    def _check(self, value: Any, known: set[str]) -> None:
        """Raise for an argument that is not what `_encoded` makes, and for one that is not computed before it is used."""
        if isinstance(value, list):
            for item in value:
                self._check(item, known)
        elif isinstance(value, dict):
            (kind, name), *more = value.items()
            named = not more and isinstance(name, str)
            if not named or not (name in known if kind == "node" else name == "cpu" if kind == "device" else kind in _KINDS):
                raise StorageError(f"{self.where} is no graph of a net: {value!r} is not known there")
            if kind in _KINDS and name not in _KINDS[kind]:
                raise StorageError(f"{self.where} is no graph of a net: {name!r} is no {kind} that it may use")
        elif value is not None and not isinstance(value, bool | int | float | str):
            raise StorageError(f"{self.where} is no graph of a net: {value!r} is not known there")

    def __call__(self, *tensors: Any) -> Any:
        known = {**self._values, **dict(zip(self._inputs, tensors, strict=True))}
        for name, function, args, kwargs in self._nodes:
            given = {key: self._decoded(value, known) for key, value in kwargs.items()}
            known[name] = function(*self._decoded(args, known), **given)
        return self._decoded(self._output, known)

    def _decoded(self, value: Any, known: Mapping[str, Any]) -> Any:
        import torch

        if isinstance(value, list):
            return [self._decoded(item, known) for item in value]
        if isinstance(value, dict):
            kind, name = next(iter(value.items()))
            return known[name] if kind == "node" else name if kind == "device" else getattr(torch, name)
        return value


def load(body: bytes, where: str) -> Graph:
    """Return the net. Raises `StorageError` for a file that is damaged or uses any but `torch_operators`."""
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        head = json.loads(arrays.pop(_HEAD).tobytes())
        if head["format"] != FORMAT:
            raise StorageError(f"{where} has format {head['format']}, this version of sparkml reads {FORMAT}")
        return Graph(head, arrays, where)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise StorageError(f"{where} is not a whole file of a PyTorch net: {error}") from None
