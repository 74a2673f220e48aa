"""One small suite on disk for all tests of this folder that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.schema import MiniatureConfig
from pipeline.data.miniature.suite import generate_suite
from tests.s3_server import endpoint

__all__ = ["endpoint"]


@pytest.fixture(scope="session")
def suite_config() -> MiniatureConfig:
    """24 samples a modality (text: 2 a domain)."""
    return MiniatureConfig(data_dir="suite", train_modality_samples=24, held_out_samples=24, text_samples_per_domain=2)


@pytest.fixture(scope="session")
def suite_root(suite_config: MiniatureConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project root with `suite/<modality>`."""
    root = tmp_path_factory.mktemp("miniature")
    generate_suite(suite_config, root, processes=1)
    return root
