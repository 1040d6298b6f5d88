"""Writes the model card of a saved classifier or learner from its metatext.json."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metatext.errors import InputError
from metatext.hub.markdown import cell, markdown_table
from metatext.hub.model_folder import read_metadata

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD_MARK = "<!-- Written by `metatext export`; take this line out to keep your own changes. -->"
"""Marks a README.md that metatext wrote. A README.md without this line is the user's own and is uploaded unchanged."""

# Keys of metatext.json and config.json for class names and tokens: these may look like paths, but are not.
_LABEL_KEYS = {"classes", "support", "id2label", "label2id", "labels", "tokens", "source_classes"}


def model_card(folder: Path, hub_id: str, table: Path | None = None) -> str:
    """Returns the README.md of a saved folder.

    It has the YAML metadata that the Hub reads, a summary, the classes, the results, example code and the limits.

    Args:
        folder: A folder that metatext saved; facts that its metatext.json lacks are left out.
        hub_id: The name on the Hub, `user/name`, for the example code.
        table: A JSON file that `metatext evaluate` wrote, for the scores.

    Raises:
        InputError: `table` was not written by `metatext evaluate`.
    """
    from huggingface_hub import ModelCard, ModelCardData

    metadata = read_metadata(folder) or {"kind": "classifier"}
    if table:
        metadata["results"] = results_of(table)
    base_model = metadata.get("base_model")
    metadata = without_local_paths(metadata)
    is_learner = metadata["kind"] == "learner"
    scores = _eval_results(metadata)
    data = ModelCardData(
        language=metadata.get("language"),
        license=metadata.get("license"),
        library_name="metatext" if is_learner else "transformers",
        pipeline_tag=None if is_learner else "text-classification",
        tags=["metatext", "few-shot", "meta-learning", "text-classification"],
        base_model=base_model if _is_hub_id(base_model) else None,
        metrics=sorted({score.metric_type for score in scores}) or None,
        model_name=hub_id.split("/")[-1] if scores else None,
        eval_results=scores or None,
    )
    sections = [
        CARD_MARK,
        f"# {hub_id.split('/')[-1]}",
        _summary(metadata),
        _facts(metadata),
        _classes(metadata),
        _results(metadata),
        _usage(metadata, hub_id),
        _limits(metadata),
    ]
    body = "\n\n".join(section for section in sections if section)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def results_of(table: Path) -> list[dict[str, Any]]:
    """Returns the scores in a JSON file of `metatext evaluate`: one entry per method, number of shots and metric.

    Raises:
        InputError: The file does not exist or was not written by `metatext evaluate`.
    """
    if not table.is_file():
        raise InputError(f"there is no file {str(table)!r}; give the output of `metatext evaluate`")
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        return [
            {"target": content["target"], "shots": row["shots"], "method": row["method"], "draws": row["draws"]}
            | {"metric": metric, "mean": row[metric], "ci95": row[f"{metric}_ci95"]}
            for row in content["rows"]
            for metric in ("accuracy", "macro_f1")
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{table} was not written by `metatext evaluate`") from error


def without_local_paths(value: Any) -> Any:
    """Returns a JSON value with each absolute path cut to its last component, since a path can reveal a user's name.

    Class names are not changed. A base model that is a local folder becomes `./last-component`, so that it is not
    mistaken for a model on the Hub.

    Example:
        >>> without_local_paths({"table": "/home/user/runs/table.json", "classes": ["/a/b"]})
        {'table': 'table.json', 'classes': ['/a/b']}
    """
    if isinstance(value, dict):
        public = {key: item if key in _LABEL_KEYS else without_local_paths(item) for key, item in value.items()}
        base_model = value.get("base_model")
        if isinstance(base_model, str) and (public["base_model"] != base_model or Path(base_model).exists()):
            public["base_model"] = f"./{_last_component(base_model)}"
        return public
    if isinstance(value, list):
        return [without_local_paths(item) for item in value]
    if isinstance(value, str) and re.match(r"/[^/]+/|~[^/\s]*/|[A-Za-z]:[\\/]|\\\\", value):
        return _last_component(value)
    return value


def _last_component(path: str) -> str:
    """Returns the last component of a POSIX or Windows path."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _is_hub_id(name: object) -> bool:
    """Returns whether `name` has the form of a Hub id (`name` or `user/name`) and no local folder has this name."""
    pattern = r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*"
    return isinstance(name, str) and re.fullmatch(pattern, name) is not None and not Path(name).exists()


def _own_results(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the results of the model's own method that have a score; baselines are not scores of this model."""
    method = metadata.get("method")
    return [
        row
        for row in metadata.get("results") or []
        if _is_number(row.get("mean")) and (method is None or row.get("method", method) == method)
    ]


def _is_number(value: object) -> bool:
    """Returns whether a JSON value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _eval_results(metadata: dict[str, Any]) -> list[EvalResult]:
    """Returns the model's own results in the form that the Hub shows beside the card."""
    from huggingface_hub import EvalResult

    results = []
    for row in _own_results(metadata):
        target, metric = str(row.get("target") or "unnamed"), str(row.get("metric") or "accuracy")
        details = [metric]
        if "shots" in row:
            details.append(f"{row['shots']} labelled texts a class")
        if "draws" in row:
            details.append(f"mean of {row['draws']} draws")
        if _is_number(row.get("ci95")):
            details.append(f"95% CI ± {row['ci95']:.3f}")
        results.append(
            EvalResult(
                task_type="text-classification",
                task_name="Few-shot text classification",
                dataset_type=target,
                dataset_name=target,
                metric_type=metric,
                metric_name=", ".join(details),
                metric_value=row["mean"],
                metric_args={key: row[key] for key in ("shots", "draws", "ci95") if key in row} or None,
            )
        )
    return results


def _summary(metadata: dict[str, Any]) -> str:
    if metadata["kind"] == "learner":
        return (
            "A few-shot learner for text classification: an encoder whose weights were meta-trained so that a few "
            "labelled texts per class turn it into a classifier."
        )
    classes = metadata.get("classes") or []
    count = f"{len(classes)} classes" if classes else "the classes below" if metadata.get("support") else "few labels"
    return f"A text classifier for {count}, adapted from a few labelled texts per class with metatext."


def _facts(metadata: dict[str, Any]) -> str:
    base_model, method, steps = metadata.get("base_model"), metadata.get("method"), metadata.get("inner_steps")
    prefix, epochs = metadata.get("text_prefix"), metadata.get("epochs")
    if isinstance(base_model, str) and not _is_hub_id(base_model):
        base_model = f"{_last_component(base_model)} (a local folder)"
    facts = {
        "Base model": base_model,
        "Method": f"{method}, {steps} inner steps" if method and steps else method,
        "Meta-trained on": ", ".join(cell(source) for source in metadata.get("sources") or []),
        "Fine-tuning": f"{epochs} passes over the labelled texts" if _is_number(epochs) and epochs else None,
        "Unlabelled texts": metadata.get("unlabelled"),
        "Text prefix": f"`{prefix}`, which the tokenizer puts before every text by itself" if prefix else None,
        "Longest text": f"{metadata['max_length']} tokens" if metadata.get("max_length") else None,
        "Pooling": metadata.get("pooling"),
        "metatext version": metadata.get("metatext_version"),
    }
    return "\n".join(f"- **{name}:** {cell(value)}" for name, value in facts.items() if value)


def _classes(metadata: dict[str, Any]) -> str:
    support = metadata.get("support") or {}
    classes = metadata.get("classes") or list(support)
    if not classes:
        return ""
    rows = [[name, support.get(name, "")] for name in classes]
    return "## Classes\n\n" + markdown_table(["class", "labelled texts"], rows)


def _results(metadata: dict[str, Any]) -> str:
    results = [row for row in metadata.get("results") or [] if _is_number(row.get("mean"))]
    if not results:
        return "## Results\n\nNo scores were saved with this model; measure it on labelled texts of your own."
    rows = []
    for row in results:
        interval = f" ± {row['ci95']:.3f}" if _is_number(row.get("ci95")) else ""
        cells = [row.get(key, "") for key in ("target", "shots", "method", "metric")]
        rows.append([*cells, f"{row['mean']:.3f}{interval}", row.get("draws", "")])
    heading = ["target", "labelled texts a class", "method", "metric", "mean ± 95% CI", "draws"]
    return "## Results\n\n" + markdown_table(heading, rows)


def _usage(metadata: dict[str, Any], hub_id: str) -> str:
    if metadata["kind"] == "learner":
        code = f"""\
from metatext import FewShotClassifier, Learner

texts = ["...", "..."]  # a few texts of each class
labels = ["...", "..."]  # their classes
learner = Learner.from_pretrained({hub_id!r})
classifier = FewShotClassifier(learner).fit(texts, labels)
print(classifier.predict(["a text to classify"]))"""
        return f"## Use\n\n```python\n{code}\n```"
    max_length = metadata.get("max_length")
    truncation = f"truncation=True, max_length={max_length}" if max_length else "truncation=True"
    code = f"""\
from transformers import pipeline

classifier = pipeline("text-classification", model={hub_id!r})
print(classifier(["a text to classify"], {truncation}))"""
    return f"## Use\n\nPlain transformers, no metatext needed:\n\n```python\n{code}\n```"


def _limits(metadata: dict[str, Any]) -> str:
    support = [count for count in (metadata.get("support") or {}).values() if _is_number(count)]
    few = f"{min(support)} to {max(support)} labelled texts per class" if support else "few labelled texts per class"
    if support and min(support) == max(support):
        few = f"{support[0]} labelled texts per class"
    learned = "Classifiers made from it see" if metadata["kind"] == "learner" else "It saw"
    return f"""\
## Limits

- **Few labels.** {learned} {few}: another choice of texts gives other predictions. Check it on labelled texts of your
  own before relying on it.
- **Domain.** Scores hold for texts like those they were measured on. Other sources, styles or years may do worse, and a
  text of none of the classes still gets one of them.
- **Encoder.** Languages, biases and licence terms come from the base model."""
