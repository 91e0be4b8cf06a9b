"""One place for the tiny pipelines of a test session, which the workers of pytest-xdist share."""

import os

import pytest

from tests.compose import tiny_foreign


@pytest.fixture(scope="session", autouse=True)
def tiny_folders(tmp_path_factory):
    """The folder that `tiny_foreign.folder` builds in."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers
    root = base / "tiny-foreign"
    root.mkdir(exist_ok=True)
    tiny_foreign.use(root)
    return root
