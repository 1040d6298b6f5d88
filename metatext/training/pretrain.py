"""Continued pre-training on unlabelled texts of a domain by masked language modelling (Gururangan 2020)."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from metatext.encoders.architectures import check_supported
from metatext.encoders.tokenization import load_tokenizer
from metatext.encoders.transformers_loading import default_device, loading
from metatext.errors import InputError
from metatext.files import check_free, new_folder
from metatext.hub.model_folder import read_metadata, resolve_folder
from metatext.training.settings import PretrainSettings

logger = logging.getLogger(__name__)


def pretrain(encoder: str, texts: Sequence[str], output: str | Path, settings: PretrainSettings) -> float:
    """Trains `encoder` by masked language modelling on `texts`, and writes it to `output` as a transformers folder.

    15% of the tokens are masked (Devlin 2019, section 3.1). The output is the encoder alone, ready for meta-training.
    An encoder without a masked-language-modelling head, such as a sentence encoder, gets a new one, which is trained
    too. With 3,000 texts, such an encoder lost accuracy (docs/tried.md).

    Args:
        encoder: Hub id or folder.
        texts: the texts of the domain.
        output: folder to write.
        settings: passes, learning rate, batch size, precision, seed.

    Returns:
        The mean loss over the last epoch, in nats per masked token.

    Raises:
        InputError: `encoder` has no mask token or is not an encoder; there are no texts; there are several processes.
        FileExistsError: `output` already holds something.
        FloatingPointError: the loss or a weight is not finite; nothing is written.
    """
    from accelerate import PartialState
    from transformers import set_seed

    check_free(output, options="")
    if not texts:
        raise InputError("there are no texts to pre-train on")
    if PartialState().num_processes > 1:
        raise InputError("pre-training runs in one process: start it without a launcher")
    folder = resolve_folder(encoder)
    if kind := read_metadata(folder).get("kind"):
        raise InputError(f"{encoder} holds a {kind}: pre-train an encoder, then meta-train it")
    tokenizer = load_tokenizer(folder)
    if tokenizer.mask_token is None:
        raise InputError(f"the tokenizer of {encoder} has no mask token, which masked language modelling needs")
    with torch.random.fork_rng():
        set_seed(settings.seed)
        model = _masked_language_model(encoder, folder)
        with new_folder(output) as folder_to_write:
            loss = _train(model, tokenizer, texts, settings)
            model.base_model.save_pretrained(folder_to_write)
            tokenizer.save_pretrained(folder_to_write)
    return loss


def _train(model: Any, tokenizer: Any, texts: Sequence[str], settings: PretrainSettings) -> float:
    """Trains `model` in place and returns the mean loss of the last epoch."""
    from datasets import Dataset
    from transformers import (
        DataCollatorForLanguageModeling,
        PrinterCallback,
        ProgressCallback,
        Trainer,
        TrainingArguments,
    )

    length = min(settings.max_length, tokenizer.model_max_length, model.config.max_position_embeddings)
    if length < settings.max_length:
        logger.info("texts are cut at %d tokens, which is what the encoder takes", length)
    logger.info("a guess among its %d tokens has a loss of %.2f", len(tokenizer), math.log(len(tokenizer)))
    prefixed = [settings.text_prefix + text for text in texts]
    rows = Dataset.from_dict({"input_ids": tokenizer(prefixed, truncation=True, max_length=length)["input_ids"]})
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.lr,
            warmup_steps=0.1,  # as a share of all steps
            weight_decay=0.01,
            bf16=settings.mixed_precision == "bf16",
            use_cpu=default_device().type == "cpu",  # bf16 is refused on a CPU otherwise
            seed=settings.seed,
            save_strategy="no",
            logging_strategy="epoch",
            logging_nan_inf_filter=False,
            report_to=[],
            dataloader_pin_memory=torch.cuda.is_available(),  # warns on a CPU otherwise
            disable_tqdm=not settings.progress,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator)
        trainer.remove_callback(PrinterCallback)
        if settings.progress:
            trainer.remove_callback(ProgressCallback)
            trainer.add_callback(type("Bar", (ProgressCallback,), {"on_log": lambda *_, **__: None}))
        trainer.train()
    loss = float(next(entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry))
    if not math.isfinite(loss) or not all(p.isfinite().all() for p in model.parameters()):
        raise FloatingPointError(f"pre-training diverged (loss {loss:g}): lower --lr, or use --mixed-precision no")
    return loss


def _masked_language_model(encoder: str, folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForMaskedLM

    with loading(encoder, "encoder"):
        check_supported(AutoConfig.from_pretrained(str(folder), trust_remote_code=False), encoder)
        model, loaded = AutoModelForMaskedLM.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    prefix = f"{model.base_model_prefix}."
    if missing := sorted(key for key in loaded["missing_keys"] if key.startswith(prefix)):
        raise InputError(f"{encoder} lacks {len(missing)} weights of the encoder, among them {missing[0]}")
    if loaded["missing_keys"]:
        logger.warning(
            "%s has no head for masked words: a new one is learned, which takes many texts, and meanwhile a sentence "
            "encoder loses what it knows (docs/tried.md)",
            encoder,
        )
    return model
