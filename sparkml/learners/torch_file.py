"""The file of a trained PyTorch net: its graph as JSON and its weights as arrays, in one ``.npz``. Loading it runs no code.

Why not PyTorch's own formats: ``torch.save`` of a module is a pickle, and a user's class would have to be there again;
``torch.export.load`` unpickles what the archive says it should and evaluates its symbolic expressions as Python (PyTorch 2.9);
TorchScript is a program that may read and write files. So the graph that ``torch.export`` traces is decomposed to PyTorch's core
operators, which only compute, and written down by their names. On load a name that is not one of them is refused.
"""

from __future__ import annotations

import io
import json
import operator
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkml.errors import ConfigError, StorageError
from sparkml.learners.inputs import Input

if TYPE_CHECKING:
    import torch

FORMAT = 1
_PROBES = 3
_HEAD = "_graph"
# on sizes and on the results of operators that return several
_PLAIN = {
    name: getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem", "eq", "ne", "lt", "le", "gt", "ge")
}
_ALSO = frozenset({"aten.lift_fresh_copy.default"})  # pure, but not tagged as core
_CHECKS = frozenset({"aten._assert_scalar.default", "aten._assert_tensor_metadata.default", "aten._assert_async.msg"})
_KINDS = ("dtype", "memory_format", "layout")  # attributes of the torch module, by the name of their type


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
    program = traced(module, inputs)
    signature = program.graph_signature
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    values: dict[str, str] = {}
    fed: list[str] = []
    for spec in signature.input_specs:
        if spec.kind.name == "USER_INPUT":
            fed.append(spec.arg.name)
        elif spec.kind.name in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR"):
            held = program.state_dict if spec.target in program.state_dict else program.constants
            arrays[f"value/{len(arrays):04d}"] = _array(held[spec.target], spec.target)
            values[spec.arg.name] = f"value/{len(arrays) - 1:04d}"
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
    graph = {"format": FORMAT, "inputs": fed, "values": values, "nodes": nodes, "output": output}
    file = io.BytesIO()
    np.savez(file, **{_HEAD: np.frombuffer(json.dumps(graph).encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]
    body = file.getvalue()
    try:
        load(body, "")
    except StorageError as error:
        raise ConfigError(f"the model cannot be saved: {error.message}") from None
    return body


def _array(tensor: Any, name: str) -> np.ndarray[Any, Any]:
    try:
        return np.array(tensor.detach().cpu().numpy())
    except TypeError as error:  # bfloat16, quantised, sparse
        raise ConfigError(f"the model's {name} cannot be saved: {error}") from None


def _name(target: Any) -> str:
    import torch

    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    name = str(getattr(target, "__name__", target))
    if _PLAIN.get(name) is not target:
        raise ConfigError(f"the model uses {name}, which a file cannot hold")
    return f"plain.{name}"


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
    for kind in _KINDS:
        if isinstance(value, getattr(torch, kind)):
            return {kind: str(value).removeprefix("torch.")}
    raise ConfigError(f"the model uses an argument of type {type(value).__name__}, which a file cannot hold")


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
        import torch

        room, _, rest = name.partition(".")
        if room == "plain" and rest in _PLAIN:
            return _PLAIN[rest]
        packet, _, overload = rest.partition(".")
        found = getattr(getattr(torch.ops.aten, packet, None), overload, None) if room == "aten" else None
        pure = isinstance(found, torch._ops.OpOverload) and not found._schema.is_mutable
        if not pure or not (torch.Tag.core in found.tags or name in _ALSO):  # type: ignore[union-attr]
            raise StorageError(
                f"{self.where} uses {name!r}, which is not one of PyTorch's core operators: refused",
                hint="load only what sparkml has saved",
            )
        return found

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
            if kind in _KINDS:
                _constant(kind, name, self.where)
        elif value is not None and not isinstance(value, bool | int | float | str):
            raise StorageError(f"{self.where} is no graph of a net: {value!r} is not known there")

    def __call__(self, *tensors: Any) -> Any:
        known = {**self._values, **dict(zip(self._inputs, tensors, strict=True))}
        for name, function, args, kwargs in self._nodes:
            given = {key: self._decoded(value, known) for key, value in kwargs.items()}
            known[name] = function(*self._decoded(args, known), **given)
        return self._decoded(self._output, known)

    def _decoded(self, value: Any, known: Mapping[str, Any]) -> Any:
        if isinstance(value, list):
            return [self._decoded(item, known) for item in value]
        if isinstance(value, dict):
            kind, name = next(iter(value.items()))
            return known[name] if kind == "node" else name if kind == "device" else _constant(kind, name, self.where)
        return value


def _constant(kind: str, name: str, where: str) -> Any:
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, getattr(torch, kind)):
        raise StorageError(f"{where} is no graph of a net: there is no {kind} {name!r}")
    return found


def load(body: bytes, where: str) -> Graph:
    """Return the net. Raises `StorageError` for a file that is damaged or uses anything but core operators."""
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        head = json.loads(arrays.pop(_HEAD).tobytes())
        if head["format"] != FORMAT:
            raise StorageError(f"{where} has format {head['format']}, this version of sparkml reads {FORMAT}")
        return Graph(head, arrays, where)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise StorageError(f"{where} is not a whole file of a PyTorch net: {error}") from None
