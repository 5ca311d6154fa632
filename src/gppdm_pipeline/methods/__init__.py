"""The methods, by name. To add one: a file beside this, and a line in METHODS."""

from __future__ import annotations

from gppdm_pipeline.methods.analytic import Analytic
from gppdm_pipeline.methods.base import Method, learn_task
from gppdm_pipeline.methods.cpdm import Cpdm
from gppdm_pipeline.methods.ddgr import Ddgr
from gppdm_pipeline.methods.diffusion_replay import DiffusionReplay
from gppdm_pipeline.methods.ewc import Ewc
from gppdm_pipeline.methods.exemplar import Exemplar
from gppdm_pipeline.methods.finetune import Finetune
from gppdm_pipeline.methods.gaussian_replay import GaussianReplay
from gppdm_pipeline.methods.gdumb import Gdumb
from gppdm_pipeline.methods.gppdm import Gppdm
from gppdm_pipeline.methods.joint import Joint
from gppdm_pipeline.methods.lwf import Lwf
from gppdm_pipeline.methods.nearest_mean import NearestMean
from gppdm_pipeline.methods.ranpac import Ranpac
from gppdm_pipeline.methods.slda import Slda
from gppdm_pipeline.methods.vae_replay import VaeReplay
from gppdm_pipeline.wording import nearest

METHODS: dict[str, type[Method]] = {
    "analytic": Analytic,
    "cpdm": Cpdm,
    "ddgr": Ddgr,
    "diffusion_replay": DiffusionReplay,
    "ewc": Ewc,
    "exemplar": Exemplar,
    "finetune": Finetune,
    "gaussian_replay": GaussianReplay,
    "gdumb": Gdumb,
    "gppdm": Gppdm,
    "joint": Joint,
    "lwf": Lwf,
    "nearest_mean": NearestMean,
    "ranpac": Ranpac,
    "slda": Slda,
    "vae_replay": VaeReplay,
}


def method_class(name: str) -> type[Method]:
    """The method called `name`.

    Raises:
        ValueError: if there is none, with the nearest right spelling.
    """
    if name in METHODS:
        return METHODS[name]
    near = nearest(name.lower(), METHODS)
    hint = f"; did you mean {near!r}?" if near else ""
    raise ValueError(f"method is {name!r}; allowed are {', '.join(sorted(METHODS))}{hint}")


__all__ = ["METHODS", "Method", "learn_task", "method_class"]
