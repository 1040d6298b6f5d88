"""Short digests of data, which say whether two runs read the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from metatext.data.domains import Domain


def describe_domains(domains: Sequence[Domain]) -> str:
    """Names, sizes, and a digest of the rows."""
    rows = fingerprint([[domain.texts, domain.labels] for domain in domains])
    return ", ".join(f"{domain.name} ({len(domain)} rows)" for domain in domains) + f", sha256 {rows}"


def fingerprint(values: Any) -> str:
    """The first 12 digits of the SHA-256 of values as JSON."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]
