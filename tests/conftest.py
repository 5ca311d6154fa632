import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Where images are prepared, of each test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GPPDM_CACHE", str(folder))
    return folder
