"""The base encoder of a learner: where it is loaded from, and whether it is the one that the learner was trained on.

Meta-training with scope="lora" leaves the base encoder as it is. If it is on the Hub, the learner is saved without it,
and `metatext.json` has the entry `base_encoder` in its place: what the encoder must look like. It is then loaded from
the Hub, or from a folder that the user names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from metatext.encoders.tokenization import load_tokenizer
from metatext.encoders.transformers_loading import load_encoder
from metatext.errors import InputError
from metatext.hub.model_folder import BASE_ENCODER, check_encoder_files, read_metadata, resolve_folder

_SHAPE = ("model_type", "num_hidden_layers", "hidden_size")
_SAMPLE = 64  # tokens that stand for the vocabulary
_MIN_SHARED = 0.9  # of the sample: two vocabularies that differ in case share about half


class BaseEncoder(NamedTuple):
    """A base encoder and its origin."""

    encoder: Any
    """A transformers base model."""
    tokenizer: Any
    """Its tokenizer, which adds the text prefix of the learner."""
    name: str
    """Hub id or absolute folder."""
    revision: str | None
    """Its commit on the Hub; None if unknown."""
    on_hub: bool
    """Whether the weights are those of `name` on the Hub, so that a learner with adapters need not save them."""


def load_base_encoder(
    name: str | Path, folder: Path, saved: dict[str, Any], text_prefix: str, encoder: str | Path | None = None
) -> BaseEncoder:
    """Loads the encoder of a model that `open_model_folder` has opened.

    Args:
        name: Hub id or folder of the model.
        folder: its local folder.
        saved: its metadata; empty for a plain encoder.
        text_prefix: of the learner. The tokenizer in the folder of a learner already adds it.
        encoder: folder or Hub id of the encoder, for a learner that was saved without it.

    Raises:
        InputError: the encoder cannot be found or loaded, or is another one; `encoder` for a model that has its own.
    """
    if BASE_ENCODER in saved:
        return _load_separate(name, saved, text_prefix, encoder)
    if encoder is not None:
        raise InputError(f"{name} has an encoder of its own: leave out the encoder {str(encoder)!r}")
    model = load_encoder(folder, name)
    tokenizer = load_tokenizer(folder, "" if saved else text_prefix)
    if saved:
        return BaseEncoder(model, tokenizer, saved.get("base_model", str(folder.resolve())), None, False)
    if Path(name).exists():  # absolute: valid in any working directory
        return BaseEncoder(model, tokenizer, str(folder.resolve()), None, False)
    return BaseEncoder(model, tokenizer, str(name), _commit(folder), True)


def describe_encoder(encoder: Any, tokenizer: Any, revision: str | None) -> dict[str, Any]:
    """Returns the entry `base_encoder` of the metadata: revision, shape, and a sample of the vocabulary."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    tokens = sorted((token for token in vocabulary if token not in special), key=lambda token: vocabulary[token])
    sample = tokens[:: max(1, len(tokens) // _SAMPLE)][:_SAMPLE]
    return {"revision": revision} | _shape(encoder) | {"tokens": sample}


def _load_separate(name: str | Path, saved: dict[str, Any], text_prefix: str, given: str | Path | None) -> BaseEncoder:
    """Loads the encoder of a learner that was saved without it."""
    wanted, base_model = saved[BASE_ENCODER], saved["base_model"]
    if given is not None:
        folder = resolve_folder(str(given))
    else:
        try:
            folder = resolve_folder(base_model, wanted["revision"])
        except InputError as error:
            raise InputError(
                f"{name} needs the encoder {base_model}, which is neither in the cache of this machine nor can be had "
                "from the Hub now: connect to the Hub once, or name a folder that holds this encoder, --encoder FOLDER "
                "(in Python encoder=FOLDER)"
            ) from error
    if read_metadata(folder):
        raise InputError(f"{folder} was written by metatext, but {name} needs the plain encoder {base_model}")
    check_encoder_files(folder, folder if given is not None else base_model)
    encoder, tokenizer = load_encoder(folder, folder), load_tokenizer(folder, text_prefix)
    _check_fits(name, base_model, wanted, encoder, tokenizer, folder)
    return BaseEncoder(encoder, tokenizer, base_model, wanted["revision"], True)


def _check_fits(
    name: str | Path, base_model: str, wanted: dict[str, Any], encoder: Any, tokenizer: Any, folder: Path
) -> None:
    """Compares an encoder with the description of the one that the adapters were trained on.

    Raises:
        InputError: another shape or vocabulary. A larger vocabulary with the same tokens is allowed.
    """
    needed = f"{name} was trained on {base_model}"
    shape = _shape(encoder)
    if any(shape[key] != wanted[key] for key in _SHAPE):
        raise InputError(f"{needed} ({_in_words(wanted)}), but {folder} is another encoder ({_in_words(shape)})")
    vocabulary = tokenizer.get_vocab()
    unknown = [token for token in wanted["tokens"] if token not in vocabulary]
    if len(unknown) > (1 - _MIN_SHARED) * len(wanted["tokens"]):
        raise InputError(
            f"{needed}, but the encoder in {folder} has another vocabulary: it lacks {len(unknown)} of "
            f"{len(wanted['tokens'])} tokens, among them {unknown[0]!r}"
        )


def _shape(encoder: Any) -> dict[str, Any]:
    return {key: getattr(encoder.config, key) for key in _SHAPE}


def _in_words(shape: dict[str, Any]) -> str:
    return f"{shape['model_type']}, {shape['num_hidden_layers']} layers, {shape['hidden_size']} wide"


def _commit(folder: Path) -> str | None:
    """Returns the commit of a folder in the cache of the Hub, which is its name; None for another folder."""
    return folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None
