"""Continued pre-training: an encoder reads unlabelled texts of a domain, with words masked (Gururangan 2020)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from metatext.classifier import check_supported
from metatext.errors import InputError
from metatext.files import new_folder
from metatext.hub import resolve_folder
from metatext.learner import quiet, saved_settings
from metatext.settings import PretrainSettings
from metatext.tokens import load_tokenizer

logger = logging.getLogger(__name__)


def pretrain(encoder: str, texts: Sequence[str], output: str | Path, settings: PretrainSettings) -> float:
    """Trains `encoder` by masked language modelling on `texts`, and writes it to `output` as a transformers folder.

    15% of the tokens are masked (Devlin 2019, section 3.1). What is written is the encoder alone, for meta-training to
    start from. An encoder that was saved without its head for masked words, such as a sentence encoder, gets a new one,
    which has to be learned first.

    Returns:
        The mean loss of the last epoch's steps, nats a masked token.

    Raises:
        InputError: `encoder` is a saved learner, or cannot be trained so; there are no texts.
        FileExistsError: `output` holds something.
    """
    from transformers import DataCollatorForLanguageModeling, PrinterCallback, Trainer, TrainingArguments

    if not texts:
        raise InputError("there are no texts to pre-train on")
    folder = resolve_folder(encoder)
    if saved_settings(encoder):
        raise InputError(f"{encoder} is a saved learner: pre-train an encoder, then meta-train it")
    tokenizer = load_tokenizer(folder)
    if tokenizer.mask_token is None:
        raise InputError(f"the tokenizer of {encoder} has no mask token, which masked language modelling needs")
    model = _masked_language_model(encoder, folder)
    length = min(settings.max_length, tokenizer.model_max_length, model.config.max_position_embeddings)
    prefixed = [settings.text_prefix + text for text in texts]
    rows = [{"input_ids": ids} for ids in tokenizer(prefixed, truncation=True, max_length=length)["input_ids"]]
    with new_folder(output) as beside, tempfile.TemporaryDirectory() as nowhere:
        arguments = TrainingArguments(
            output_dir=nowhere,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.lr,
            warmup_steps=0.1,  # a share
            weight_decay=0.01,
            bf16=settings.mixed_precision == "bf16",
            seed=settings.seed,
            save_strategy="no",
            logging_strategy="epoch",
            report_to=[],
            dataloader_pin_memory=torch.cuda.is_available(),  # warns otherwise
            disable_tqdm=not settings.progress,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        trainer = Trainer(model, arguments, train_dataset=_Rows(rows), data_collator=collator)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        loss = next(entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry)
        model.base_model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
    return float(loss)


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def _masked_language_model(encoder: str, folder: Path) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForMaskedLM

    try:
        check_supported(AutoConfig.from_pretrained(str(folder)), encoder)
        with quiet():
            model, loaded = AutoModelForMaskedLM.from_pretrained(
                str(folder), dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{encoder} holds no encoder that transformers can load: {reason}") from error
    prefix = f"{model.base_model_prefix}."
    if missing := sorted(key for key in loaded["missing_keys"] if key.startswith(prefix)):
        raise InputError(f"{encoder} lacks {len(missing)} weights of the encoder, among them {missing[0]}")
    if loaded["missing_keys"]:
        logger.warning("%s has no head for masked words: a new one is learned", encoder)
    return model
