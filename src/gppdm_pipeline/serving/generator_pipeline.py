"""Draw images of the classes that a learner knows: a pipeline of diffusers.

    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=folder, trust_remote_code=True, low_cpu_mem_usage=False
    )
    pipeline(classes=["bag"], num_images_per_class=8).images

This file and conditions.py stand beside the weights, and need torch, diffusers and safetensors
alone. They draw the bits that the project gppdm-pipeline draws on the same machine: batches and
threads are as there.

Notation: b images; m conditions of t tokens of width d; (c, h, w) = channels, height, width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .conditions import Conditions, SharedConditions, generator_of, of_gaussian

TENSORS = "conditions.safetensors"
"""prototype.<label>, embedding.<label>, token_map; adapter.<task>.<name> of later tasks;
gaussian.<label>.<name> where drawing begins at those; turn.<label> where tokens are turned."""
_LEAST = 16  # images of a part of a batch


class GppdmPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Images of named classes from a U-Net with class prototypes.

    Args:
        unet: of the first task where later ones have adapters, else of the last.
        scheduler: DPM-Solver++.
        settings: plain JSON values that model_index.json holds.
        tensors: see `TENSORS`; None: those of the folder that the U-Net was read from.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: DPMSolverMultistepScheduler,
        settings: dict[str, Any] | None = None,
        tensors: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        if tensors is None:
            tensors = load_file(Path(unet.config["_name_or_path"]).parent / TENSORS)
        unet.set_attn_processor(SharedConditions())
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(settings=settings or {})
        self._tensors = tensors

    @property
    def classes(self) -> list[str]:
        """What can be drawn."""
        return list(self.config.settings["classes"])

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write what `from_pretrained` reads, this file and conditions.py included."""
        super().save_pretrained(save_directory, **options)
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors.items()}
        save_file(tensors, Path(save_directory) / TENSORS)
        beside = Path(__file__).with_name("conditions.py")
        for name, code in (("pipeline.py", Path(__file__)), (beside.name, beside)):
            (Path(save_directory) / name).write_bytes(code.read_bytes())

    @torch.no_grad()
    def __call__(
        self,
        classes: Sequence[str] | None = None,
        num_images_per_class: int = 1,
        seed: int | None = None,
    ) -> ImagePipelineOutput:
        """Draw.

        Args:
            classes: names among `classes`; None: all of them.
            num_images_per_class: at least 1.
            seed: of the noise; None: that of the run.

        Returns:
            `images`, a list of PIL images, class after class.

        Raises:
            ValueError: if a class is unknown, or no image is asked for.
        """
        settings, count = self.config.settings, num_images_per_class
        known, names = settings["classes"], list(dict.fromkeys(classes or self.classes))
        unknown = [name for name in names if name not in known]
        if unknown or count < 1:
            what = f"classes {unknown} are unknown" if unknown else f"{count} images are asked for"
            raise ValueError(f"{what}; give 1 image at least, of classes among {self.classes}")
        labels, seed = [known[name] for name in names], settings["seed"] if seed is None else seed
        draw = self._together if settings["memory"] == "shared" else self._one_by_one
        images: list[Image.Image] = []
        with self.progress_bar(total=len(labels) * count) as bar:
            for part in draw(labels, count, seed):
                shown = part[..., 0] if part.shape[3] == 1 else part
                images += [Image.fromarray(each) for each in shown]
                bar.update(len(part))
        return ImagePipelineOutput(images=images)

    def _together(self, labels: Sequence[int], count: int, seed: int) -> Iterator[np.ndarray]:
        """Batches of all classes, from one sequence of noise."""
        settings, device, ordered = self.config.settings, self.device, sorted(labels)
        table = Conditions(self._tensors, ordered, settings, device)
        rows = torch.tensor([ordered.index(label) for label in labels]).repeat_interleave(count)
        generator = generator_of(seed, settings["task"], "draw", device)
        size, images = settings["batch_size"], [(k, i) for k in labels for i in range(count)]
        for start in range(0, len(rows), size):
            part = rows[start : start + size].to(device)
            noise = torch.randn(len(part), *settings["shape"], generator=generator, device=device)
            x = self._begun(noise, images[start : start + size], seed)
            yield self._batch(self.unet, table, part, x)

    def _one_by_one(self, labels: Sequence[int], count: int, seed: int) -> Iterator[np.ndarray]:
        """Whole batches of one class, each image from noise of its own, and the first of them."""
        settings, device = self.config.settings, self.device
        most, size = max(count, settings["images_per_class"]), settings["batch_size"]

        def noise_of(label: int, number: int) -> Tensor:
            name = f"replayed image {number} of class {label}"
            return torch.randn(settings["shape"], generator=generator_of(seed, 0, name))

        for label in labels:
            unet = self._unet_of(label)
            table = Conditions(self._tensors, [label], settings, device)
            for start in range(0, count, size):
                images = [(label, i) for i in range(start, min(start + size, most))]
                noise = torch.stack([noise_of(*image) for image in images]).to(device)
                rows = torch.zeros(len(noise), dtype=torch.int64, device=device)
                x = self._begun(noise, images, seed)
                yield self._batch(unet, table, rows, x)[: count - start]

    def _begun(self, noise: Tensor, images: Sequence[tuple[int, int]], seed: int) -> Tensor:
        """What drawing begins with: noise, or images (label, number) of Gaussians with noise."""
        if not self.config.settings["gaussians"]:
            return noise
        solver, first = self._solver()
        share = float(1 / (1 + solver.sigmas[first] ** 2))
        drawn = [of_gaussian(self._tensors, label, number, seed) for label, number in images]
        x = torch.stack(drawn).clamp(-1, 1).view(noise.shape).to(noise.device)
        return math.sqrt(share) * x + math.sqrt(1 - share) * noise

    def _solver(self) -> tuple[DPMSolverMultistepScheduler, int]:
        """With its steps set, and which of them is the first that is taken."""
        settings, solver, first = self.config.settings, copy.deepcopy(self.scheduler), 0
        sigma_max, signal = settings["sigma_max"] or math.inf, settings["gaussians"]
        solver.set_timesteps(settings["sampler_steps"], device=self.device)
        while int((solver.sigmas > sigma_max).sum()) > first:  # so many are left from there on
            first += 1
            solver.set_timesteps(settings["sampler_steps"] + first, device=self.device)
        noisiest = math.sqrt((1 - signal) / signal) if signal else math.inf
        first = max(first, int((solver.sigmas[: len(solver.timesteps) - 1] > noisiest).sum()))
        solver.set_begin_index(first)
        return solver, first

    def _unet_of(self, label: int) -> UNet2DConditionModel:
        """The U-Net with the adapter of a class: W + B A of matrices of a low rank, else W + D."""
        task = self.config.settings["adapters"].get(str(label))
        if task is None:
            return self.unet
        adapter = f"adapter.{task}."
        found = {name: tensor.cpu() for name, tensor in self.unet.state_dict().items()}
        for name, tensor in self._tensors.items():
            layer, _, part = name.removeprefix(adapter).rpartition(".")
            if not name.startswith(adapter) or part in {"down", "step"}:
                continue
            if part == "up":
                update = tensor.float() @ self._tensors[f"{adapter}{layer}.down"].float()
                weight = found[f"{layer}.weight"]
                found[f"{layer}.weight"] = weight + update.view_as(weight)
            elif part == "codes":
                step = self._tensors[f"{adapter}{layer}.step"].float()
                found[layer] = found[layer] + _unpacked(tensor, step, found[layer].shape)
            else:
                found[f"{layer}.{part}"] = found[f"{layer}.{part}"] + tensor.float()
        unet = copy.deepcopy(self.unet)
        unet.load_state_dict(found)
        return unet

    def _batch(self, unet: Any, table: Conditions, rows: Tensor, x: Tensor) -> np.ndarray:
        """Uint8 [b, h, w, c]; on the CPU each thread draws a part."""
        images, threads = len(x), torch.get_num_threads() if x.device.type == "cpu" else 1
        number = max(1, min(threads, images // _LEAST))
        ends = [images * part // number for part in range(number + 1)]

        @torch.no_grad()
        def solve(start: int, end: int) -> Tensor:
            return self._solve(unet, table, rows[start:end], x[start:end])

        solved = _in_threads(solve, [*pairwise(ends)]) if number > 1 else [solve(0, images)]
        pixels = ((torch.cat(solved).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()

    def _solve(self, unet: Any, table: Conditions, rows: Tensor, x: Tensor) -> Tensor:
        """What drawing begins with -> images, float32 [b, c, h, w], with classifier-free guidance.

        guided = (1 + w) e(z) - w e(null) (Ho & Salimans 2022, arXiv 2207.12598).
        """
        settings, b, (solver, first) = self.config.settings, len(rows), self._solver()
        w, (low, high) = settings["guidance"], settings["guidance_interval"] or (0.0, math.inf)
        levels = ((1 - solver.alphas_cumprod) / solver.alphas_cumprod).sqrt()
        guided = (levels > low) & (levels <= high) & (w > 0)
        kept = torch.arange(2 * b, device=x.device) < b if bool(guided.any()) else None
        tokens, which, prototypes = table(rows if kept is None else rows.repeat(2), kept)

        def said(x: Tensor, tau: Tensor) -> Tensor:
            n, of_each = len(x), {"which": which[: len(x)]}
            x = x if prototypes is None else torch.cat([x, prototypes[:n]], dim=1)
            x = nn.functional.pixel_unshuffle(x, settings["patch"])
            (y,) = unet(x, tau.expand(n), tokens, cross_attention_kwargs=of_each, return_dict=False)
            return nn.functional.pixel_shuffle(y, settings["patch"])

        for tau in solver.timesteps[first:]:
            if guided[int(tau)]:
                with_condition, without = said(x.repeat(2, 1, 1, 1), tau).chunk(2)
                output = (1 + w) * with_condition - w * without
            else:
                output = said(x, tau)
            x = solver.step(output, tau, x, return_dict=False)[0]
        return x


def _unpacked(codes: Tensor, step: Tensor, shape: torch.Size) -> Tensor:
    """What two numbers a byte stand for, (k - 7.5) step of their row: float32 of `shape`."""
    numbers = torch.stack([codes & 15, codes >> 4], 2).flatten(1)[:, : shape[1:].numel()]
    return ((numbers.float() - 7.5) * step[:, None]).view(shape)


def _in_threads(solve: Any, pieces: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Each piece in a thread of its own, among which those that torch has are shared."""
    threads, all_there = torch.get_num_threads(), Barrier(len(pieces))

    def begin() -> None:
        torch.get_num_threads()  # a thread's first question sets it to what was last set anywhere
        torch.set_num_threads(threads // len(pieces))
        all_there.wait()

    with ThreadPoolExecutor(len(pieces), initializer=begin) as pool:
        solved = list(pool.map(lambda piece: solve(*piece), pieces))
    torch.set_num_threads(threads)  # of threads that begin later
    return solved
