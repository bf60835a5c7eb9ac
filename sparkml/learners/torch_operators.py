"""Which of PyTorch's operators the file of a net may name: what nets compute with when they predict, and nothing else.

PyTorch's tags ("core", not mutable) are no fence: among those operators, backward passes write at indices that they do not check,
``empty`` returns what lay in memory before, others draw random numbers, and some trust their arguments to fit each other because
the layers that call them have looked. So the names are listed here, and a few are answered by something safer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

# on sizes and on the results of operators that return several
PLAIN: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "getitem", "eq", "ne", "lt", "le", "gt", "ge")
}
DTYPES = frozenset({"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"})
_DEFAULT = """
    abs acos acosh addmm alias amax amin any argmax argmin asin asinh atan atan2 atanh bitwise_not bmm cat ceil clamp clone
    constant_pad_nd convolution copy cos cosh cumsum diagonal elu embedding erf exp expand expm1 flip floor full full_like gather
    gelu hardtanh index_put index_select isinf isnan leaky_relu lift_fresh_copy log log10 log1p log2 logical_and logical_not
    logical_or logical_xor maximum mean minimum mm native_layer_norm neg nonzero permute prod reciprocal relu repeat round rsqrt
    scalar_tensor scatter_add select_scatter sigmoid sign sin sinh slice_scatter sort split_with_sizes sqrt sym_numel tan tanh
    topk trunc unsqueeze view _log_softmax _softmax _to_copy
    adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d
    avg_pool3d max_pool2d_with_indices max_pool3d_with_indices reflection_pad1d reflection_pad2d reflection_pad3d
    linalg_vector_norm replication_pad2d replication_pad3d
"""
_OVERLOADS = """
    any.dim any.dims arange.start_step clamp.Tensor fill.Scalar index.Tensor max.dim mean.dim min.dim prod.dim_int
    scatter.src scatter.value scatter_reduce.two select.int slice.Tensor squeeze.dim squeeze.dims sum.dim_IntList sym_size.int
    upsample_bilinear2d.vec upsample_nearest2d.vec var.correction var.dim where.self
    add.Scalar add.Tensor sub.Scalar sub.Tensor mul.Scalar mul.Tensor div.Scalar div.Scalar_mode div.Tensor div.Tensor_mode
    fmod.Scalar fmod.Tensor remainder.Scalar remainder.Tensor pow.Scalar pow.Tensor_Scalar pow.Tensor_Tensor
    eq.Scalar eq.Tensor ne.Scalar ne.Tensor lt.Scalar lt.Tensor le.Scalar le.Tensor gt.Scalar gt.Tensor ge.Scalar ge.Tensor
    bitwise_and.Scalar bitwise_and.Tensor bitwise_or.Scalar bitwise_or.Tensor bitwise_xor.Scalar bitwise_xor.Tensor
"""
_NAMES = frozenset({*(f"aten.{name}.default" for name in _DEFAULT.split()), *(f"aten.{name}" for name in _OVERLOADS.split())})


def _batch_norm(x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float, /) -> tuple[Any]:
    """Of the three results, only the first is made: the others are for a backward pass."""
    import torch

    return (torch.batch_norm(x, weight, bias, mean, var, False, momentum, eps, False),)


def _instance_norm(x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float, /) -> tuple[Any]:
    import torch

    return (torch.batch_norm(x, weight, bias, None, None, training, momentum, eps, False),)


def _group_norm(x: Any, weight: Any, bias: Any, rows: int, channels: int, pixels: int, groups: int, eps: float, /) -> tuple[Any]:
    import torch

    return (torch.group_norm(x, groups, weight, bias, eps),)


def _empty(size: list[int], /, *, dtype: Any = None, **_: Any) -> Any:
    """Zeros, for what a net (circular padding) is about to fill: not what somebody else left in memory."""
    import torch

    return torch.zeros(size, dtype=dtype)


# for normalisations, PyTorch's own functions with the same kernel, which first compare the sizes of what they are given
_CHECKED: dict[str, Callable[..., Any]] = {
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    "aten._native_batch_norm_legit.no_stats": _instance_norm,
    "aten.native_group_norm.default": _group_norm,
    "aten.empty.memory_format": _empty,
}


def allowed(name: str) -> bool:
    """Return whether a file may name this operator (``aten.add.Tensor``, ``plain.add``)."""
    room, _, rest = name.partition(".")
    return rest in PLAIN if room == "plain" else name in _NAMES or name in _CHECKED


def function(name: str) -> Callable[..., Any]:
    """Return what computes an `allowed` operator. Raises `AttributeError` where this version of PyTorch lacks it."""
    import torch

    room, _, rest = name.partition(".")
    if room == "plain":
        return PLAIN[rest]
    packet, _, overload = rest.partition(".")
    return _CHECKED.get(name) or getattr(getattr(torch.ops.aten, packet), overload)  # type: ignore[no-any-return]
