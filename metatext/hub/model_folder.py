"""Model folders on disk, in the package and on the Hugging Face Hub: their files, download, and messages for errors."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metatext.errors import InputError

METADATA = "metatext.json"
"""File with the metadata of a folder that metatext saved: kind, base model, method, classes, scores."""

CENTRES = "centres.safetensors"
"""File of an adapted classifier that tells where classes added later are measured from."""

BASE_ENCODER = "base_encoder"
"""Key of the metadata of a learner that was saved without its encoder; it describes that encoder."""

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "README.md")
"""Files that are uploaded to and downloaded from the Hub. Pickles (.bin, .pt, .pkl) and logs are left out."""

CHECKPOINTS = "checkpoints/*"
"""Training states to resume from; they are neither uploaded nor downloaded."""

BOX = Path(__file__).parents[1] / "box"
"""Learners in the package: a folder each, named as users name it."""

_LOGIN = "run `hf auth login` or set HF_TOKEN to a token with write access"


def local_folder(name: str) -> Path | None:
    """Returns the folder of this name, or else the learner of this name in the package, or else None.

    A folder of the user comes first, so that a name in a later version of the package never replaces it.
    """
    if name and Path(name).is_dir():
        return Path(name)
    in_box = BOX / name
    return in_box if in_box.parent == BOX and in_box.is_dir() else None


def resolve_folder(id_or_folder: str, revision: str | None = None) -> Path:
    """Returns a `local_folder`; any other name is downloaded from the Hub, or found in its cache.

    Args:
        id_or_folder: A folder, the name of a learner in the package, or that of a model on the Hub (`user/name`).
        revision: Branch, tag or commit on the Hub; ignored for a local folder.

    Returns:
        The local folder.

    Raises:
        InputError: `id_or_folder` is neither a folder nor a model that can be downloaded.
    """
    if folder := local_folder(id_or_folder):
        return folder
    if id_or_folder and Path(id_or_folder).exists():
        raise InputError(f"{id_or_folder!r} is a file; give the folder that holds it or a name on the Hub (user/name)")

    in_box = [path.name for path in BOX.glob("*")]
    if close := difflib.get_close_matches(id_or_folder, in_box, 1, cutoff=0.85):
        raise InputError(f"{id_or_folder!r} was not found, but the package has a learner {close[0]!r}")

    from huggingface_hub import snapshot_download

    not_found = (
        f"{id_or_folder!r} was not found: no folder of that name exists, and the Hub shows no such model to this login "
        "(check the spelling; for a private model run `hf auth login`)"
    )
    with hub_errors(id_or_folder, not_found=not_found, unfinished="repeat the command to fetch the rest"):
        return Path(
            snapshot_download(
                id_or_folder, revision=revision, allow_patterns=list(PATTERNS), ignore_patterns=[CHECKPOINTS]
            )
        )


def read_metadata(folder: Path) -> dict[str, Any]:
    """Returns the metadata of a folder that metatext wrote, or {} for any other folder.

    Raises:
        InputError: the metadata file is damaged, or was not written by metatext.
    """
    path = folder / METADATA
    if not path.exists():
        return {}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged: it cannot be read as JSON ({error}); save the model again") from error
    if not isinstance(metadata, dict) or metadata.get("kind") not in ("classifier", "learner"):
        raise InputError(f"{path} was not written by metatext: its \"kind\" must be 'classifier' or 'learner'")
    return metadata


def check_encoder_files(folder: Path, name: str | Path) -> None:
    """Checks that a folder holds a configuration and weights.

    Raises:
        InputError: names the model by `name`, and says what is missing.
    """
    if not (folder / "config.json").exists():
        raise InputError(f"{name} holds no model: there is no config.json (expected a learner or an encoder)")
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{name} holds no weights in safetensors format; metatext loads no pickles such as *.bin")


@contextmanager
def hub_errors(hub_id: str, not_found: str, unfinished: str) -> Iterator[None]:
    """Context manager that turns an exception of huggingface_hub into an `InputError` of one sentence.

    Args:
        hub_id: The requested name.
        not_found: The message for a model that is missing or not visible to the login.
        unfinished: The end of the message for a broken connection: what was done so far, and how to continue.

    Raises:
        InputError: an exception of the Hub, the network or the disk.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, UnicodeEncodeError) or "Bearer" in str(error):
            # The HTTP header with the token could not be encoded. `from None` keeps the token out of the traceback.
            raise InputError(f"the Hub token contains a character that no token has; {_LOGIN}") from None
        message = _hub_message(error, hub_id, not_found, unfinished)
        if message is None:
            raise
        raise InputError(message) from error


def _hub_message(error: Exception, hub_id: str, not_found: str, unfinished: str) -> str | None:
    """Returns the message for an exception of the Hub, the network or the disk, or None for any other exception."""
    from json import JSONDecodeError

    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # Versions of huggingface_hub use different HTTP libraries (requests, httpx, httpx2). The error class of the library
    # is always a base of HfHubHTTPError. A failed upload of a large file raises RuntimeError.
    connection_errors = (*(base for base in HfHubHTTPError.__bases__ if base is not OSError), ConnectionError)
    connection_errors += (TimeoutError, RuntimeError, JSONDecodeError)

    if isinstance(error, LocalTokenNotFoundError):
        return f"not logged in to the Hugging Face Hub; {_LOGIN}"
    if isinstance(error, HFValidationError):
        return (
            f"{hub_id!r} is neither a folder nor a name on the Hub; such a name is user/name, of letters, digits, '-', "
            "'_' and '.'"
        )
    if isinstance(error, LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE is set" if isinstance(error.__cause__, OfflineModeIsEnabled) else "the Hub did not answer"
        return (
            f"{hub_id!r} was not found: no folder of that name exists (check the name), {why}, and the whole model is "
            f"not in the cache of this machine; if it is on the Hub, {unfinished} once there is a connection"
        )
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so {hub_id!r} cannot be reached; unset it; {unfinished}"
    if isinstance(error, RepositoryNotFoundError):
        return not_found
    if isinstance(error, RevisionNotFoundError):
        return f"{hub_id!r} exists on the Hub, but not in the revision that was asked for (branch, tag or commit)"
    if isinstance(error, HfHubHTTPError):
        return _http_message(error.response.status_code, error.server_message, hub_id, unfinished)
    if isinstance(error, connection_errors):
        return f"the connection to the Hub broke off or could not be made ({type(error).__name__}); {unfinished}"
    if isinstance(error, OSError | ValueError):
        return f"{hub_id!r} could not be exchanged with the Hub: {_one_line(str(error))}"
    return None


def _http_message(status: int, message: str | None, hub_id: str, unfinished: str) -> str:
    """Returns the message for an HTTP status code; `message` is what the server said, if anything."""
    if status == 401:
        return f"the Hub refused the login for {hub_id!r} (the token is wrong or has expired); {_LOGIN}"
    if status == 403:
        return (
            f"this login may not write to {hub_id!r}: use your own user name, or an organisation that you may write "
            "to, before the slash, and a token with write access"
        )
    if status in (408, 429) or status >= 500:
        return f"the Hub is busy or out of order (HTTP {status}); {unfinished}"
    return f"the Hub refused {hub_id!r} (HTTP {status}): {_one_line(message or 'it gave no reason')}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
