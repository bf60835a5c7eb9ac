"""A small pipeline with known answers, run through the real command line in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparkml.storage import Store

TINY = """
source:
  type: csv
  path: [{data}/people.csv]
  header: true
  columns: {{id: bigint, age: double, height: double, city: string, label: string}}
contract:
  columns:
    id: {{type: bigint, nullable: false, unique: true}}
    age: {{type: double, min: 0, max: 130}}
    label: {{type: string, nullable: false, allowed: ["no", "yes"]}}
  max_bad_fraction: 0.05
target: {{column: label, task: classification}}
split: {{key: id, fractions: {{train: 0.6, validation: 0.2, test: 0.2}}}}
features:
  keep: [city]
  stages:
    - {{type: imputer, inputs: [age, height], strategy: median}}
    - {{type: indexer, inputs: [city]}}
    - {{type: one_hot, inputs: [city_index]}}
    - {{type: assembler, inputs: [age, height, city_onehot], output: raw}}
    - {{type: standard_scaler, input: raw, output: features}}
train:
  candidates:
    linear: {{trainer: mllib, algorithm: LogisticRegression, params: {{maxIter: 20}}}}
evaluate: {{metrics: [accuracy, auc, log_loss], slices: [city], bootstrap: {{replicates: 50}}}}
register: {{metric: accuracy, gates: [{{metric: accuracy, min: 0.7}}]}}
"""
NET = """
    net: {trainer: keras, model: {type: mlp, hidden: [8]}, num_proc: 2, epochs: 3, batch_size: 32, learning_rate: 0.01}
"""


def people(rows: int, seed: int = 3) -> str:
    """CSV of people whose label follows age and city, with a few gaps."""
    random = np.random.default_rng(seed)
    lines = ["id,age,height,city,label"]
    for number in range(rows):
        age, height, city = random.uniform(18, 80), random.normal(172, 9), "abc"[random.integers(3)]
        yes = random.random() < 1 / (1 + np.exp(-(age - 50) / 4 - (city == "a") * 2))
        lines.append(f"{number},{'' if number % 37 == 0 else f'{age:.1f}'},{height:.1f},{city},{'yes' if yes else 'no'}")
    return "\n".join(lines) + "\n"


@dataclass
class Tiny:
    """The pipeline's folder, and how to run the command line in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def yaml(self) -> Path:
        return self.root / "tiny.yaml"

    @property
    def csv(self) -> Path:
        return self.root / "data" / "people.csv"

    @property
    def store(self) -> Store:
        return Store(str(self.root / "store"))

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "sparkml.cli", *words, "--env", "local", "--set", f"store={self.root / 'store'}"]

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "XDG_STATE_HOME": str(self.root / "state"), **self.environment}
        return subprocess.Popen(
            self.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=self.root,
            **options,
        )

    def run(self, *words: str, code: int = 0) -> tuple[str, str]:
        """Run to the end, check the exit code, return stdout and stderr."""
        with self.start(*words) as process:
            out, err = process.communicate(timeout=400)
        assert process.returncode == code, f"exit code {process.returncode}, expected {code}\n{out}\n{err}"
        return out, err

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code)[0])


def make_tiny(folder: Path, *, net: bool = False) -> Tiny:
    """Write the pipeline of 600 rows: one MLlib candidate, and with `net` a Keras one on two Horovod ranks."""
    made = Tiny(folder, {"SPARKML_CONF_DIR": str(Path(__file__).parents[2] / "conf")})
    made.csv.parent.mkdir()
    made.csv.write_text(people(600))
    text = TINY.format(data=made.csv.parent)
    made.yaml.write_text(text.replace("evaluate:", NET.strip("\n") + "\nevaluate:") if net else text)
    return made
