"""Puts a learner with adapters into the package: metatext/box/NAME, without its encoder and in half precision.

    python recipes/box_learner.py runs/general_english_lora/first-order general-english \\
        --base-model sentence-transformers/all-MiniLM-L6-v2

The cards in metatext/box say how the learners there were trained. A card that exists is kept.
"""

from __future__ import annotations

import argparse

from metatext.hub.model_folder import BOX
from metatext.learners.learner import Learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a learner that was trained with --scope lora")
    parser.add_argument("name", help="name of the learner for users")
    parser.add_argument("--base-model", required=True, help="Hub id of its encoder")
    options = parser.parse_args()
    folder = BOX / options.name
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else f"# {options.name}\n"
    learner = Learner.from_pretrained(options.run)
    learner.base_model, learner.base_on_hub = options.base_model, True
    learner.save_pretrained(folder, overwrite=True)
    card.write_text(text, encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
