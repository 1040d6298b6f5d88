"""Loads what transformers can load, quietly, with one sentence for what it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from metatext.encoders.sequence_classifier import check_supported
from metatext.errors import InputError


def default_device() -> torch.device:
    """The machine's accelerator, or its CPU."""
    # A build for CUDA names its accelerator on machines without one too, unless it is asked to look.
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@contextmanager
def loading(name: str | Path, what: str) -> Iterator[None]:
    """Transformers loads `what` from `name` in this block: quietly, and what it cannot load is an InputError."""
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
    """Transformers says nothing less than an error in this block; what matters of it becomes an InputError."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_encoder(folder: Path, name: str | Path) -> Any:
    """The pretrained encoder of a folder, in float32.

    Args:
        folder: holds the model in safetensors format.
        name: what errors call it.

    Raises:
        InputError: an architecture that is not supported, or weights that are missing.
    """
    from transformers import AutoConfig, AutoModel

    with loading(name, "encoder"):
        check_supported(AutoConfig.from_pretrained(str(folder)), str(name))
        encoder, loaded = AutoModel.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    # an encoder saved without its pooler is fine: it is not used
    if missing := sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler.")):
        raise InputError(f"{name} lacks {len(missing)} weights of the encoder, among them {missing[0]}")
    return encoder
