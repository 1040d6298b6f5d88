"""Pushes a saved classifier or learner to the Hugging Face Hub, with a model card.

    metatext export my-model --hub-id user/name --private

The login is huggingface_hub's own (`hf auth login` or HF_TOKEN). The local folder is only read.
"""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from metatext.errors import InputError
from metatext.hub.card import CARD_MARK, model_card, without_local_paths
from metatext.hub.model_folder import PATTERNS, hub_errors, read_metadata

__all__ = ["model_card", "push"]
_VOCABULARY_FILES = ("tokenizer*.json", "vocab*.json", "added_tokens.json", "special_tokens_map.json")


def push(folder: str | Path, hub_id: str, private: bool = False, table: str | Path | None = None) -> str:
    """Sends a folder that metatext saved to the Hub as one commit; repeated, it sends only what is missing.

    Args:
        folder: A classifier (plain transformers files) or a saved learner.
        hub_id: `user/name`; the repository is created where it does not exist.
        private: Only you can see it. An existing public repository is refused rather than filled.
        table: The JSON file of `metatext evaluate`; its scores go into the model card.

    Returns:
        The address of the model on the Hub.

    Raises:
        InputError: The folder is not one that metatext saved, or the Hub cannot be written to.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {str(folder)!r}; give one that `metatext adapt` or `metatext train` wrote"
        )
    metadata = read_metadata(folder) or {"kind": "classifier"}  # plain transformers folders are welcome too
    files = _files(folder)
    _check_complete(folder, metadata, files)
    if hub_id.count("/") != 1:
        raise InputError(f"the name on the Hub must have the form user/name, got {hub_id!r}")

    from huggingface_hub import CommitOperationAdd, HfApi

    contents: dict[str, Path | bytes] = {name: _public_content(path) for name, path in files.items()}
    if not _is_users_own(files.get("README.md")):
        contents["README.md"] = model_card(folder, hub_id, Path(table) if table else None).encode()
    operations = [CommitOperationAdd(name, content) for name, content in sorted(contents.items())]
    not_found = f"{hub_id!r} cannot be seen by this login; run `hf auth login` with a token that may write there"
    unfinished = "nothing was changed locally; repeat the command to finish"
    with hub_errors(hub_id, not_found=not_found, unfinished=unfinished):
        api = HfApi(token=True)  # True: a login is required, and only huggingface_hub handles it
        url = api.create_repo(hub_id, private=private or None, exist_ok=True)
        if private and not api.model_info(hub_id).private:
            raise InputError(
                f"{hub_id!r} already exists on the Hub and is public; make it private in its settings there or choose "
                "another name"
            )
        api.create_commit(hub_id, operations, commit_message=f"Upload {metadata['kind']} with metatext")
    return str(url)


def _files(folder: Path) -> dict[str, Path]:
    """The files that travel, by their name in the repository: of the folder itself, not of folders in it."""
    return {
        path.name: path
        for path in folder.iterdir()
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in PATTERNS)
    }


def _check_complete(folder: Path, metadata: dict[str, Any], files: dict[str, Path]) -> None:
    if metadata["kind"] == "learner":
        missing = [] if any(name.endswith(".safetensors") for name in files) else ["weights (*.safetensors)"]
    else:
        weights = {"model.safetensors", "model.safetensors.index.json"}
        missing = [name for name in ("config.json",) if name not in files]
        missing += [] if weights & files.keys() else ["model.safetensors"]
    if missing:
        raise InputError(
            f"{str(folder)!r} is not a {metadata['kind']} that metatext saved: it lacks {' and '.join(missing)}; give "
            "the output folder of `metatext adapt` (classifier) or `metatext train` (learner)"
        )


def _is_users_own(readme: Path | None) -> bool:
    try:
        return readme is not None and CARD_MARK not in readme.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{readme} is not UTF-8 text, which the Hub asks of a model card; save it as UTF-8") from error


def _public_content(path: Path) -> Path | bytes:
    """The file itself, or its JSON with the local paths taken out where it holds any."""
    if path.suffix != ".json" or any(fnmatch(path.name, pattern) for pattern in _VOCABULARY_FILES):
        return path
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return path
    public = without_local_paths(value)
    return path if public == value else json.dumps(public, ensure_ascii=False, indent=2).encode() + b"\n"
