"""Four fabricated checkpoints, and the folder that they are converted to."""

import pytest

from codi.convert.convert import convert
from tests.convert import fabricated


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """By slot."""
    return fabricated.checkpoints(tmp_path_factory.mktemp("pth"))


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """A folder of tokenizers."""
    return fabricated.tokenizers(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="session")
def converted(files, words, tmp_path_factory):
    """A model folder."""
    out = tmp_path_factory.mktemp("converted") / "model"
    convert(files, out, words=words, geometry=fabricated.TINY)
    return out
