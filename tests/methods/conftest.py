import pytest
import torch

torch.set_num_threads(1)  # the networks are too small for more


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
