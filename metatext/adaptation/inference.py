"""Loads adapted classifiers and computes class probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metatext.encoders.architectures import positions
from metatext.encoders.sequence_classifier import head_inputs
from metatext.encoders.tokenization import TokenCache, load_tokenizer
from metatext.encoders.transformers_loading import default_device, loading
from metatext.errors import InputError
from metatext.hub.model_folder import read_metadata, resolve_folder


def load_classifier(folder: str | Path) -> tuple[Any, TokenCache, dict[str, Any]]:
    """Loads a saved classifier onto the default device.

    Args:
        folder: a local folder or a Hub id.

    Returns:
        The transformers model in evaluation mode, its tokenizer, and its metadata. The metadata is empty if metatext
        did not write the folder.

    Raises:
        InputError: the folder holds a learner, or no trained sequence classifier.
    """
    from transformers import AutoModelForSequenceClassification

    path = resolve_folder(str(folder))
    metadata = read_metadata(path)
    if metadata.get("kind") == "learner":
        raise InputError(f"{folder} is a learner, which predicts nothing yet: run `metatext adapt {folder} ...` first")
    if not (path / "config.json").exists():
        raise InputError(f"{folder} holds no model: there is no config.json (expected the output of `metatext adapt`)")
    with loading(folder, "classifier"):
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            str(path), use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    if loaded["missing_keys"]:
        raise InputError(f"{folder} holds no trained classifier: it lacks {sorted(loaded['missing_keys'])[0]}")
    model.eval().to(default_device())
    tokenizer = load_tokenizer(path)
    return model, TokenCache(tokenizer, min(tokenizer.model_max_length, positions(model.config))), metadata


@torch.no_grad()
def predict(model: Any, tokens: TokenCache, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """Computes class probabilities with a transformers classifier, float32 (n, classes) on the CPU, in text order."""
    probabilities = torch.empty(len(texts), model.config.num_labels)
    for rows, logits in _passes(model, tokens, texts, batch_size):
        probabilities[rows] = logits.float().softmax(1).cpu()
    return probabilities


@torch.no_grad()
def head_features(model: Any, tokens: TokenCache, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """Computes the learner's features of texts with an adapted classifier, float32 (n, hidden) on the CPU, in order."""
    features = torch.empty(len(texts), model.config.hidden_size)
    with head_inputs(model) as found:
        for rows, _ in _passes(model, tokens, texts, batch_size):
            features[rows] = found.pop().float().cpu()
    return features


def _passes(model: Any, tokens: TokenCache, texts: Sequence[str], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Runs the model on batches of the texts: their numbers, (n,) on the CPU, and their logits, (n, classes)."""
    for batch in tokens.batches(texts, batch_size, model.device):
        yield batch.rows.cpu(), model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
