"""Short digests of data; equal digests mean that two runs read the same data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from metatext.data.domains import Domain


def describe_domains(domains: Sequence[Domain]) -> str:
    """Returns one line with the name and size of each domain and a digest of all rows."""
    rows = fingerprint([[domain.texts, domain.labels] for domain in domains])
    return ", ".join(f"{domain.name} ({len(domain)} rows)" for domain in domains) + f", sha256 {rows}"


def fingerprint(values: Any) -> str:
    """Returns the first 12 hexadecimal digits of the SHA-256 of `values` as JSON.

    Example:
        >>> fingerprint(["a text", "another"])
        '5c2acc898c12'
    """
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]
