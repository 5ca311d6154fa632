import pytest
import torch

torch.set_num_threads(1)  # the networks are too small for more


def pytest_configure(config):
    # diffusers turns tensors into arrays in a way that NumPy 2 will stop to support.
    config.addinivalue_line(
        "filterwarnings",
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    )


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
