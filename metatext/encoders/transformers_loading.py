"""Loads models with transformers: without its log messages, and with one sentence for each failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from metatext.encoders.architectures import check_supported
from metatext.errors import InputError


def default_device() -> torch.device:
    """Returns the accelerator of the machine, or its CPU if it has none."""
    # Without check_available, a CUDA build of torch returns "cuda" even if the machine has no GPU.
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@contextmanager
def loading(name: str | Path, what: str) -> Iterator[None]:
    """Silences transformers within the block, and turns its failures into an InputError.

    Args:
        name: Hub id or folder in the error message.
        what: kind of object in the error message, such as "encoder".
    """
    from safetensors import SafetensorError

    try:
        with quiet():
            yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{name} holds no {what} that transformers can load: {reason}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Lets transformers log nothing but errors within the block."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_encoder(folder: Path, name: str | Path) -> Any:
    """Loads a pretrained encoder in float32.

    Args:
        folder: folder with the model in safetensors format.
        name: name of the model in error messages.

    Raises:
        InputError: the architecture is not supported, or weights are missing.
    """
    from transformers import AutoConfig, AutoModel

    with loading(name, "encoder"):
        check_supported(AutoConfig.from_pretrained(str(folder), trust_remote_code=False), str(name))
        encoder, loaded = AutoModel.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    # The pooler is not used, so an encoder may lack it.
    if missing := sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler.")):
        raise InputError(f"{name} lacks {len(missing)} weights of the encoder, among them {missing[0]}")
    return encoder
