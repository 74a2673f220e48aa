"""GPU and CPU agree; what is compared is said in `tests/gpu/agreement.py`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.gpu.agreement import checks

CHECKS = dict(checks())


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_gpu_agrees_with_cpu(check: Callable[[torch.device], None]) -> None:
    check(torch.device("cuda"))
