"""Where what the catalogue names is."""

from pathlib import Path

from kedro.io import DatasetError


def place_of(filepath: str) -> Path:
    """A path of the catalogue, as one of this machine.

    Raises:
        DatasetError: if it is a URL.
    """
    if "://" in filepath:
        raise DatasetError(
            f"{filepath} (catalog.yml): a run works on files of this machine. Leave the path as it "
            "was, and have a copy kept there: url in conf/local/storage.yml."
        )
    return Path(filepath)
