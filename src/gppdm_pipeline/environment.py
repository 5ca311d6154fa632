"""What has to be set before the libraries that read it are imported, and their known warnings."""

import atexit
import ctypes
import gc
import logging
import os
import warnings

DEFAULTS = {
    # Nothing calls home: neither Kedro nor MLflow nor gradio nor the Hugging Face libraries.
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # MLflow tells in a format of its own that it makes its tables.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # Nor a bar for each small file that is read from a run.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # How long threads that share a layer spin while they wait for each other (GNU OpenMP). By
    # default training of small networks is 20 times slower beside one other busy process; asleep at
    # once (OMP_WAIT_POLICY=PASSIVE), 2 times slower on an idle machine. This costs a tenth.
    "GOMP_SPINCOUNT": "2000",
}

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h

KNOWN_WARNINGS = (
    # The name that users know; it goes on working until Kedro 2.
    "Option '--pipeline' is deprecated",
    # A task reads the state of the task before it, which is in another namespace.
    "One or more dataset names contain '.' characters",
    # Kedro uses OmegaConf's older name for this,
    r"register_new_resolver\(\) is deprecated",
    # and reads the fields of a validated parameter from the instance, not from its class.
    "Accessing the 'model_fields' attribute on the instance",
    # Of Pillow: too large an image is refused by name, and an image without its EXIF is read.
    r"Image size \(\d+ pixels\) exceeds limit",
    "Corrupt EXIF data",
)

for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)


def keep_freed_memory() -> None:
    """Have the GNU C library hand freed memory out again rather than give it back to the system.

    Every layer allocates and frees; pages that come new from the system each time cost a fifth of
    the time that it takes to draw images. Other C libraries know nothing of it, and need not.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


keep_freed_memory()


def seek_garbage_rarely() -> None:
    """Have Python look for garbage cycles rarely, and for none when it ends.

    The libraries' objects, which all stay, are looked through again and again while they are
    imported, and once more at the end, where the system takes all memory back: 4 of the 24 CPU
    seconds of a run that learns nothing.
    """
    gc.set_threshold(100_000, 20, 100)
    atexit.register(gc.freeze)


seek_garbage_rarely()


def ignore_known_warnings() -> None:
    """Silence warnings that users can do nothing about, each by its text.

    And MLflow's tracebacks of what its database refuses: it raises that as well, which is told.
    """
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("mlflow.store.db.utils").addFilter(_has_no_traceback)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_shown_as_it_is)


def _has_no_traceback(record: logging.LogRecord) -> bool:
    return not record.exc_info


def _is_shown_as_it_is(record: logging.LogRecord) -> bool:
    """Have rich, which Kedro logs with by default, take no brackets of a path for its markup."""
    if not hasattr(record, "rich_format"):  # what Kedro has coloured
        record.markup = False
    return True
