"""Data, settings and comparisons of the tests that learn: as small as the method allows."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import torch

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.images.labelled import LabelledImages
from gppdm_pipeline.methods import Method, learn_task

SHAPE = (8, 8, 1)
CLASSIFIER = {"width": 8, "steps": 3, "batch_size": 6}
DENOISER = {
    "channels": (8, 16),
    "condition_dim": 32,
    "steps": 5,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "ema_decay": 0.5,
}
PARTS = {
    "classifier": CLASSIFIER,
    "denoiser": DENOISER,
    "replay": {"images_per_class": 3, "sampler_steps": 2},
}
GPPDM = {"name": "gppdm", **PARTS, "projection": {"images_per_class": 2}}


def images_of(*classes, per_class=6, shape=SHAPE):
    """Noise around a brightness and a pattern of each class; the same whoever asks."""
    images = []
    for label in classes:
        rng = np.random.default_rng(label)
        pattern = rng.integers(40, 216, shape)
        noise = rng.integers(-40, 41, (per_class, *shape))
        images.append((pattern + noise).astype(np.uint8))
    return LabelledImages(np.concatenate(images), np.repeat(np.array(classes), per_class))


def vectors_of(*classes, per_class=6, numbers=12):
    """Vectors of an encoder: correlated noise around a mean of each class, far from [-1, 1]."""
    mixed = np.eye(numbers) + 0.2 * np.random.default_rng(99).normal(size=(numbers, numbers))
    vectors = []
    for label in classes:
        rng = np.random.default_rng(label)
        mean, noise = rng.normal(5, 1, numbers), rng.normal(size=(per_class, numbers)) @ mixed
        vectors.append((mean + noise).astype(np.float16)[:, None, None])
    return LabelledImages(np.concatenate(vectors), np.repeat(np.array(classes), per_class))


def maps_of(*classes, per_class=6, shape=(4, 4, 4)):
    """Maps of an autoencoder: noise around a map of each class, far from [-1, 1]."""
    maps = []
    for label in classes:
        rng = np.random.default_rng(label)
        mean, noise = rng.normal(3, 2, shape), rng.normal(size=(per_class, *shape))
        maps.append((mean + noise).astype(np.float16))
    return LabelledImages(np.concatenate(maps), np.repeat(np.array(classes), per_class))


def learn(method, tasks, seed=0, images_of=images_of, **context):
    """States before the first and after each task; joint methods get what they may read."""
    states, earlier = [LearnerState.empty()], []
    for number, classes in enumerate(tasks, start=1):
        train = images_of(*classes)
        given = earlier if method.reads_earlier_images else []
        where = Context(seed, number, **context)
        states.append(learn_task(method, states[-1], train, train, where, given))
        earlier.append(train)
    return states


def gppdm(**changes):
    """The tiny GPPDM, with changed settings: one level deep they are merged, not replaced."""
    settings = copy.deepcopy(GPPDM)
    for key, value in changes.items():
        if isinstance(value, dict):
            settings[key] = {**settings.get(key, {}), **value}
        else:
            settings[key] = value
    return Method.model_validate(settings)


class Stopped(KeyboardInterrupt):
    """As Ctrl-C, told from a real one."""


def stopping(checkpoints, after):
    """The same checkpoints, stopped at the `after`-th offer; a list for the loop's name then."""
    offers, stopped = [], []

    def place(loop):
        inner = checkpoints(loop)

        def offer(take, now=False):
            inner.offer(take, now)
            offers.append(loop)
            if len(offers) == after:
                stopped.append(loop)
                raise Stopped

        return SimpleNamespace(latest=inner.latest, parts=inner.parts, offer=offer)

    return place, stopped


def tensors_of(state):
    """Every tensor of a state, by a name of its own."""
    named = dict(state.bases)
    for part in ("classifier", "denoiser"):
        if getattr(state, part) is not None:
            weights = getattr(state, part).tensors
            named |= {f"{part}/{name}": tensor for name, tensor in weights.items()}
    if state.condition is not None:
        named["token_map"] = state.condition.token_map
        for part in ("embeddings", "prototypes", "starts", "turns"):
            tensors = getattr(state.condition, part)
            named |= {f"{part}/{label}": tensor for label, tensor in tensors.items()}
    for part, weights in {**state.adapters, **state.extras}.items():
        named |= {f"{part}/{name}": tensor for name, tensor in weights.tensors.items()}
    if state.kept is not None:
        named["kept/images"] = torch.from_numpy(state.kept.images)
        named["kept/labels"] = torch.from_numpy(state.kept.labels)
    return named


def differences(a, b):
    """What two states do not share to the last bit: nothing, if they are the same."""
    found = [name for name in ("tasks", "image_shape") if getattr(a, name) != getattr(b, name)]
    for part in ("classifier", "denoiser"):
        weights = [getattr(state, part) for state in (a, b)]
        configs = [None if each is None else dict(each.config) for each in weights]
        if configs[0] != configs[1]:
            found.append(f"{part} config")
    one, other = tensors_of(a), tensors_of(b)
    found += sorted(one.keys() ^ other.keys())
    for name in one.keys() & other.keys():
        same = one[name].dtype == other[name].dtype and torch.equal(one[name], other[name])
        found += [] if same else [name]
    return found
