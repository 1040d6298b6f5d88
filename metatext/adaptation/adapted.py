"""An adapted classifier and its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from metatext.adaptation.inference import predict
from metatext.encoders.tokenization import TokenCache
from metatext.files import new_folder, write_json
from metatext.hub.model_folder import CENTRES, METADATA


@dataclass(frozen=True)
class Adapted:
    """An adapted classifier."""

    model: Any
    """A plain transformers sequence classifier."""
    tokens: TokenCache
    """Its tokenizer, with a cache of token ids."""
    classes: list[str]
    """Class labels in the order of the logits."""
    metadata: dict[str, Any]
    """How the classifier was made: learner, support sizes, start and fine-tuning."""
    centres: dict[str, Tensor] = field(default_factory=dict)
    """What `add_classes` needs, float32 (hidden,) each: the centre of the texts and, if two classes or more have a
    name, of the names. Empty with a learned head or after inner steps."""

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Writes a plain transformers folder with the metadata in `metatext.json`.

        Raises:
            FileExistsError: the folder is not empty and `overwrite` is not set.
        """
        from safetensors.torch import save_file

        with new_folder(folder, overwrite) as beside:
            self.model.save_pretrained(beside)
            self.tokens.tokenizer.save_pretrained(beside)
            write_json(beside / METADATA, self.metadata)
            if self.centres:
                save_file({name: centre.cpu().contiguous() for name, centre in self.centres.items()}, beside / CENTRES)

    def probabilities(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Computes the class probabilities of `texts`, float32 (n, classes) on the CPU."""
        return predict(self.model, self.tokens, texts, batch_size)
