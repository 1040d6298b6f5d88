"""What an evaluation depends on: an interrupted one goes on only if all of it is the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metatext._version import __version__
from metatext.adaptation.fine_tuning import EPOCHS, MIN_TEXTS
from metatext.adaptation.start_selection import RULE_VERSION
from metatext.data.domains import Domain
from metatext.data.fingerprints import describe_domains, fingerprint
from metatext.evaluation.records import Record
from metatext.evaluation.settings import EvaluateSettings
from metatext.evaluation.support_draws import Draw
from metatext.learners.learner import Learner


def resume_log(
    output: Path,
    draws: Sequence[Draw],
    encoder: str,
    view: dict[str, Any],
    domains: Sequence[Domain],
    settings: EvaluateSettings,
) -> Path:
    """The file beside `output` that holds the results of just these draws, encoder, domains, settings and version."""
    same = dataclasses.asdict(settings)
    del same["methods"], same["joint"], same["max_length"], same["plot"]
    code = [
        __version__,
        RULE_VERSION,
        EPOCHS,
        MIN_TEXTS,
        sorted(Record.__annotations__),
    ]  # a log of other code is another
    found = fingerprint(
        [[dataclasses.asdict(draw) for draw in draws], same, view, encoder, describe_domains(domains), code]
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    return output.with_name(f".{output.name}.{found}.jsonl")


def fingerprint_of_weights(learner: Learner) -> str:
    """Of all that its answers depend on. Of the bytes: sums would differ with the number of threads."""
    settings = dataclasses.asdict(learner.settings) | {"classes": list(learner.settings.classes)}
    state = hashlib.sha256(json.dumps(settings).encode())
    tensors = [*learner.parameters(), *(learner.pretrained or {}).values()]
    if learner.source_classes:
        state.update(json.dumps(learner.source_classes.names).encode())
        tensors += [tensor for tensor in learner.source_classes[1:] if tensor is not None]
    for tensor in tensors:
        state.update(tensor.detach().cpu().numpy().tobytes())
    return state.hexdigest()[:12]


def reading_settings(learner: Learner) -> dict[str, Any]:
    """How a learner reads texts, and so the baselines beside it."""
    return {name: getattr(learner.settings, name) for name in ("pooling", "text_prefix", "max_length")}
