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
from metatext.learners.text_length import encoder_length


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
        reading: how the baselines read texts; see `baseline_reading`.
        domains: target and sources.
        settings: of the evaluation. Settings that change no single result are not part of the key: `methods`, `joint`
            and `plot`. `max_length` is part of `reading` and, for the learners, of `fingerprint_of_weights`.
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
    """Digests all that the predictions of a learner depend on: settings, maximum length, weights and source classes.

    It hashes bytes, because sums of the weights would depend on the number of threads.
    """
    settings = dataclasses.asdict(learner.settings) | {"classes": list(learner.settings.classes)}
    state = hashlib.sha256(json.dumps([settings, learner.tokens.max_length]).encode())
    tensors = [*learner.parameters(), *(learner.pretrained or {}).values()]
    if learner.source_classes:
        state.update(json.dumps(learner.source_classes.names).encode())
        tensors += [tensor for tensor in learner.source_classes[1:] if tensor is not None]
    for tensor in tensors:
        state.update(tensor.detach().cpu().numpy().tobytes())
    return state.hexdigest()[:12]


def reading_settings(learner: Learner) -> dict[str, Any]:
    """Returns the settings by which all learners and baselines in the same table read texts."""
    return {name: getattr(learner.settings, name) for name in ("pooling", "text_prefix")}


def baseline_reading(learner: Learner, max_length: int | None) -> dict[str, Any]:
    """Returns the settings by which the baselines in the table of a learner read texts.

    Their maximum length is `max_length` or, if that is None, the one that suits the encoder. Meta-training may have
    taken a shorter one to save time, which is no reason to cut texts for the baselines.
    """
    return reading_settings(learner) | {"max_length": max_length or encoder_length(learner)}
