"""The resume key: a fingerprint of all inputs of an evaluation, without which an interrupted one does not resume."""

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
    reading: dict[str, Any],
    domains: Sequence[Domain],
    settings: EvaluateSettings,
) -> Path:
    """Returns the log beside `output` that belongs to exactly these inputs and this version of the code.

    Args:
        output: the result file of the evaluation; its folder is created.
        draws: the few-shot problems.
        encoder: name of the pretrained encoder.
        reading: how texts are read; see `reading_settings`.
        domains: target and sources.
        settings: of the evaluation. Settings that change no single result are not part of the key: `methods`, `joint`
            and `plot`. `max_length` is part of `reading`.
    """
    keyed = dataclasses.asdict(settings)
    del keyed["methods"], keyed["joint"], keyed["max_length"], keyed["plot"]
    code = [
        __version__,
        RULE_VERSION,
        EPOCHS,
        MIN_TEXTS,
        sorted(Record.__annotations__),
    ]
    key = fingerprint(
        [[dataclasses.asdict(draw) for draw in draws], keyed, reading, encoder, describe_domains(domains), code]
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    return output.with_name(f".{output.name}.{key}.jsonl")


def fingerprint_of_weights(learner: Learner) -> str:
    """Digests all that the predictions of a learner depend on: settings, weights and source classes.

    It hashes bytes, because sums of the weights would depend on the number of threads.
    """
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
    """Returns the settings by which a learner and the baselines in the same table read texts."""
    return {name: getattr(learner.settings, name) for name in ("pooling", "text_prefix", "max_length")}
