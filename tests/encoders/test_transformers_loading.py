"""Which device is taken, and what transformers cannot load."""

from __future__ import annotations

import pytest
import torch

from metatext.encoders.transformers_loading import default_device


def test_a_build_for_an_accelerator_that_is_not_there_uses_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def built_for_cuda(check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", built_for_cuda)
    assert default_device() == torch.device("cpu")


def test_an_accelerator_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    assert default_device() == torch.device("cuda")
