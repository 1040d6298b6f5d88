"""Uploads a saved classifier or learner to the Hugging Face Hub, with a model card.

    metatext export my-model --hub-id user/name --private

The login is that of huggingface_hub (`hf auth login` or HF_TOKEN). The local folder is not changed.
"""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from metatext.errors import InputError
from metatext.hub.card import CARD_MARK, model_card, without_local_paths
from metatext.hub.model_folder import PATTERNS, hub_errors, local_folder, read_metadata

__all__ = ["model_card", "push"]
_VOCABULARY_FILES = ("tokenizer*.json", "vocab*.json", "added_tokens.json", "special_tokens_map.json")


def push(folder: str | Path, hub_id: str, private: bool = False, table: str | Path | None = None) -> str:
    """Uploads a folder that metatext saved to the Hub, in one commit.

    After an interruption, a second call uploads only the files that are missing.

    Args:
        folder: A classifier (plain transformers files) or a saved learner; or the name of a learner in the package.
        hub_id: The name on the Hub, `user/name`; the repository is created if it does not exist.
        private: Make a new repository private. An existing public repository is refused.
        table: A JSON file that `metatext evaluate` wrote; its scores go into the model card.

    Returns:
        The URL of the model on the Hub.

    Raises:
        InputError: The folder is incomplete or not one that metatext saved, or the Hub cannot be written to.
    """
    given, found = folder, local_folder(str(folder))
    if found is None:
        raise InputError(f"there is no folder {str(given)!r}; give one that `metatext adapt` or `metatext train` wrote")
    folder = found
    metadata = read_metadata(folder) or {"kind": "classifier"}  # a plain transformers folder
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
        api = HfApi(token=True)  # True requires a login; only huggingface_hub reads the token
        url = api.create_repo(hub_id, private=private or None, exist_ok=True)
        if private and not api.model_info(hub_id).private:
            raise InputError(
                f"{hub_id!r} already exists on the Hub and is public; make it private in its settings there or choose "
                "another name"
            )
        api.create_commit(hub_id, operations, commit_message=f"Upload {metadata['kind']} with metatext")
    return str(url)


def _files(folder: Path) -> dict[str, Path]:
    """Returns file name -> path for the files to upload; subfolders, such as checkpoints, are left out."""
    return {
        path.name: path
        for path in folder.iterdir()
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in PATTERNS)
    }


def _check_complete(folder: Path, metadata: dict[str, Any], files: dict[str, Path]) -> None:
    """Checks that the files to upload have weights and, for a classifier, a config.json.

    Raises:
        InputError: a file is missing.
    """
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
    """Returns whether there is a README.md that metatext did not write.

    Raises:
        InputError: the file is not UTF-8.
    """
    try:
        return readme is not None and CARD_MARK not in readme.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{readme} is not UTF-8 text, which the Hub asks of a model card; save it as UTF-8") from error


def _public_content(path: Path) -> Path | bytes:
    """Returns the path of a file or, if it is JSON with absolute paths, its content without these paths."""
    if path.suffix != ".json" or any(fnmatch(path.name, pattern) for pattern in _VOCABULARY_FILES):
        return path
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return path
    public = without_local_paths(value)
    return path if public == value else json.dumps(public, ensure_ascii=False, indent=2).encode() + b"\n"
