from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from sparkml import plugins
from sparkml.estimators.trainers.keras import KerasOptions


def test_options_name_what_is_wrong() -> None:
    good = KerasOptions.model_validate({"model": {"type": "mlp", "hidden": [32]}, "epochs": 3})
    assert good.model.options.hidden == (32,) and good.strategy.plugin_name() == "allreduce"
    with pytest.raises(ValidationError, match="did you mean 'allreduce'"):
        KerasOptions.model_validate({"model": {"type": "mlp"}, "strategy": "allreduse"})
    with pytest.raises(ValidationError, match="did you mean 'hidden'"):
        KerasOptions.model_validate({"model": {"type": "mlp", "hiden": [32]}})
    with pytest.raises(ValidationError, match="unknown key; did you mean 'batch_size'"):
        KerasOptions.model_validate({"model": {"type": "mlp"}, "batch_siz": 3})


@pytest.mark.parametrize(
    ("kind", "name"),
    [("estimators.trainers", "keras"), ("learners.zoo", "cnn"), ("learners.zoo", "text"), ("strategies", "allreduce")],
)
def test_plugins_load_without_spark_or_tensorflow(kind: str, name: str) -> None:
    """Settings are checked before anything heavy starts."""
    code = f"import sys; from sparkml import plugins; plugins.load({kind!r}, {name!r})"
    check = "; heavy = {'pyspark', 'tensorflow', 'keras', 'horovod'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code + check], check=True)
    assert plugins.load(kind, name).plugin_name() == name
