"""Models that `sparkml.estimators.keras` trains; saved as ``.keras``."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkml.estimators.keras_params import HasColumns, accessible
from sparkml.estimators.net_model import Classifies, Loader, NetModel, NetReader
from sparkml.learners import keras_file
from sparkml.learners.framework import quick_import

if TYPE_CHECKING:
    import keras


class KerasModel(NetModel, HasColumns):
    """What both kinds of model share.

    Attributes
    ----------
    allow
        Layers beside Keras's own that the file may hold. Never saved: whoever loads a model says anew whom to trust.
    """

    _file = "model.keras"

    def __init__(
        self,
        body: bytes = b"",
        history: dict[str, Any] | None = None,
        signature: dict[str, Any] | None = None,
        allow: tuple[str, ...] = (),
    ) -> None:
        super().__init__(body, history, signature)
        self.allow = allow

    def keras(self) -> keras.Model:
        """Return the trained Keras model."""
        return keras_file.load(self.body, self.uid, allow=self.allow)

    def _layers(self) -> str:
        out = io.StringIO()
        self.keras().summary(print_fn=lambda line: out.write(line + "\n"))
        return out.getvalue()

    def _loader(self) -> Loader:
        return _Load([item["name"] for item in self.signature["inputs"]], self.allow)

    @classmethod
    def read(cls) -> _Reader:
        return _Reader(cls)

    @classmethod
    def load(cls, path: str, allow: tuple[str, ...] = ()) -> Any:
        """Load a saved model. `allow` names layers other than Keras's own that it may hold: they can run their author's code."""
        return cls.read().allow(*allow).load(path)


@accessible
class KerasClassificationModel(KerasModel, Classifies):
    __doc__ = Classifies.__doc__


@accessible
class KerasRegressionModel(KerasModel):
    """Adds ``prediction``: a double, or a Vector for a label that is one."""


class _Load:
    def __init__(self, names: list[str], allow: tuple[str, ...]) -> None:
        self._names, self._allow = names, allow

    def __call__(self, body: bytes) -> Callable[[list[Any]], list[Any]]:
        # Spark runs one Python worker per core: each computes on its own
        os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")
        quick_import("keras")
        import tensorflow as tf

        model = keras_file.load(body, "the broadcast model", allow=self._allow)
        compiled = tf.function(lambda x: model(x, training=False), reduce_retracing=True, autograph=False)

        def forward(tensors: list[Any]) -> list[Any]:
            made = compiled(tensors[0] if len(tensors) == 1 else dict(zip(self._names, tensors, strict=True)))
            if isinstance(made, dict):
                made = [made[name] for name in sorted(made)]  # in the order in which training took them
            outputs = made if isinstance(made, list | tuple) else [made]
            return [np.asarray(output) for output in outputs]

        return forward


class _Reader(NetReader):
    _allow: tuple[str, ...] = ()

    def allow(self, *names: str) -> _Reader:
        """Trust these layers, though they can run their author's code (``"Lambda"``, ``"my_package.MyLayer"``)."""
        self._allow = names
        return self

    def check(self, body: bytes, where: str) -> None:
        keras_file.check(body, where, self._allow)

    def make(self, body: bytes, metadata: dict[str, Any]) -> NetModel:
        assert issubclass(self._kind, KerasModel)
        return self._kind(body, metadata["history"], metadata["signature"], self._allow)
