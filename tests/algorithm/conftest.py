import pytest
import torch

from gppdm_pipeline.algorithm.classifier import regularisation
from gppdm_pipeline.algorithm.generator import objective

torch.set_num_threads(1)  # the networks are too small for more


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(params=["rows of the mask", "all rows, as on CUDA"])
def asks_all(request, monkeypatch):
    """Both ways to compute on some images of a batch; whether all are asked about."""
    everything = request.param.startswith("all")
    if everything:
        for module in (objective, regularisation):
            monkeypatch.setattr(module, "rows_where", lambda mask: torch.arange(len(mask)))
    return everything
