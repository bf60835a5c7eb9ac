"""The model card: what a version is, for whom, how good, and where it came from, as Markdown beside the model."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, StrictUndefined

from sparkml.lineage.records import RunRecord
from sparkml.registry.bundle import Bundle
from sparkml.registry.gates import Decision

# Sections after Mitchell et al., "Model Cards for Model Reporting", 2019 (arXiv 1810.03993)
_CARD = """# {{ name }}

{{ bundle.candidate }} of the pipeline `{{ bundle.pipeline }}`, registered {{ run.started }} by run `{{ run.run_id }}`.
Decision: **{{ decision.outcome }}**. {{ decision.reason }}.

## Model
- task: {{ bundle.task }}{% if bundle.classes %}, classes: {{ bundle.classes | join(', ') }}{% endif %}

- trainer: `{{ bundle.trainer }}`
- features: {{ bundle.feature_names | length or bundle.shape }}, target column `{{ bundle.target.column }}`

## Metrics on the held-out test split ({{ evaluation.rows }} rows)
| metric | value | {{ (evaluation.confidence * 100) | round | int }} % interval |
|---|---|---|
{% for metric in evaluation.metrics.values() -%}
| {{ metric.label }} | {{ '%.4f' % metric.value }} | {{ '%.4f' % metric.low }} .. {{ '%.4f' % metric.high }} |
{% endfor %}
Candidates were selected on these same rows: where several competed, the winner's values are a little optimistic.

## Input
| column | type |
|---|---|
{% for column, kind in bundle.signature.inputs.items() -%}
| {{ column }} | {{ kind }} |
{% endfor %}
## Made with
{% for package, version in run.versions.items() %}{{ package }} {{ version }}{{ ', ' if not loop.last }}{% endfor %}

Where every file came from: `sparkml lineage {{ name }}@VERSION`.
"""


def model_card(name: str, bundle: Bundle, evaluation: dict[str, Any], decision: Decision, run: RunRecord) -> str:
    """Return the card of a version that is about to be published."""
    template = Environment(undefined=StrictUndefined, autoescape=False).from_string(_CARD)
    return template.render(name=name, bundle=bundle, evaluation=evaluation, decision=decision, run=run)
