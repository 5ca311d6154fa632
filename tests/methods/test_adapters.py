"""A memory that cannot decay: what old classes are drawn as stays the same to the byte."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from tests.reference.tiny import differences, gppdm, images_of, learn

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.diffusion.adapters import AdapterConfig, adapter_shapes
from gppdm_pipeline.algorithm.diffusion.network import DenoiserConfig, unet_config
from gppdm_pipeline.algorithm.generator.draw import Drawer
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.catalog.scratch import Scratch
from gppdm_pipeline.images.labelled import LabelledImages

TASKS = ((9, 2), (5,), (2, 0))  # class 2 comes back
ADAPTERS = {"rank": 2, "batch_size": 8, "learning_rate": 1e-2}
OPTIONS = {
    "the default": {},
    "experts": {"adapters": {**ADAPTERS, "rank": "full"}},
    "four bits by Muon": {
        "adapters": {**ADAPTERS, "rank": "full", "bits": 4},
        "denoiser": {"optimiser": "muon", "heads": 2},
    },
    "attention stays": {"adapters": {**ADAPTERS, "attention": False}},
    "Muon and decay": {"denoiser": {"optimiser": "muon", "heads": 2, "weight_decay": 5.0}},
    "guided": {"denoiser": {"label_dropout": 0.3}, "replay": {"guidance": 1.0}},
    "labels alone, the classifier first": {
        "prototypes": {"route": "none"},
        "order": "classifier_first",
    },
    "from Gaussians": {"replay": {"gaussians": 0.2}},
    "capped, in batches of two": {"replay": {"images": 5, "batch_size": 2}},
}


def with_adapters(**changes):
    return gppdm(**{"memory": "adapters", "adapters": ADAPTERS, **changes})


@pytest.fixture(scope="module")
def method():
    return with_adapters()


@pytest.fixture(scope="module")
def states(method):
    return learn(method, TASKS)


def replays(method, states, **context):
    """Of each class, what each task draws of it: [task, images]; task 1 is the first after none."""
    found = {}
    for number, state in enumerate(states[1:], start=2):
        replay, _ = method.synthesise_replay(state, Context(0, number, **context))
        for label in replay.classes:
            found.setdefault(label, []).append(replay.of_classes([label]).images)
    return found


@pytest.mark.parametrize(
    ("option", "precision"),
    [
        *((option, "float32") for option in OPTIONS),
        ("the default", "bfloat16"),
        ("four bits by Muon", "bfloat16"),
    ],
)
def test_old_classes_are_drawn_alike_in_every_task(option, precision):
    method = with_adapters(**OPTIONS[option])
    states = learn(method, TASKS, precision=precision)
    drawn = replays(method, states, precision=precision)
    assert [len(drawn[label]) for label in (9, 2, 5, 0)] == [3, 3, 2, 1]
    for label, alike in ((9, drawn[9]), (2, drawn[2][:2]), (5, drawn[5])):
        for images in alike[1:]:
            both = min(len(images), len(alike[0]))  # a cap leaves the first ones
            assert both > 0
            assert np.array_equal(images[:both], alike[0][:both]), label
    both = min(map(len, drawn[2]))
    assert not np.array_equal(drawn[2][2][:both], drawn[2][1][:both])  # it has learnt more
    first, *_, last = (state.denoiser.tensors for state in states[1:])
    assert all(torch.equal(first[name], last[name]) for name in first)
    for name, tensor in states[2].adapters[2].tensors.items():
        assert torch.equal(tensor, states[3].adapters[2].tensors[name])
    assert not states[3].bases


def test_other_seeds_and_numbers_draw_other_images(method, states):
    counts = {9: 2}
    images = method._draw(states[3], counts, Context(0, 4), "a").images
    assert not np.array_equal(images[0], images[1])
    other = method._draw(states[3], counts, Context(1, 4), "a").images
    assert not np.array_equal(images, other)
    # Neither the task, nor what it is drawn for or with, decides anything.
    with_others = method._draw(states[3], {5: 1, 9: 2, 0: 3}, Context(0, 7), "b")
    assert np.array_equal(with_others.of_classes([9]).images, images)


def test_new_classes_are_learnt_from_their_own_images_alone(method, states):
    train, context = images_of(5), Context(0, 2)
    one, other = (
        method.train_generator(states[1], train, replay, context)[0]
        for replay in (images_of(2, 9), images_of(9, per_class=2))
    )
    assert differences(one, other) == []


def test_a_class_that_comes_back_is_learnt_from_its_replay_too(method, states):
    train, context = images_of(2, 0), Context(0, 3)
    replay, _ = method.synthesise_replay(states[2], context)
    noise = images_of(7, per_class=len(replay.of_classes([9])))

    def learnt(label):
        """With noise in place of the replay of a class."""
        others = replay.of_classes(set(replay.classes) - {label})
        changed = LabelledImages(noise.images, np.full(len(noise), label))
        given = LabelledImages.concatenate([others, changed])
        return method.train_generator(states[2], train, given, context)[0]

    usual, _ = method.train_generator(states[2], train, replay, context)
    assert differences(learnt(9), usual) == []
    assert "3/conv_in.bias" in differences(learnt(2), usual)


def test_an_adapter_goes_on_where_its_classes_come_back_and_old_ones_are_dropped():
    still = with_adapters(adapters={**ADAPTERS, "learning_rate": 1e-12})
    learns = with_adapters()
    state = learn(learns, ((9,), (5,)))[-1]
    train = images_of(5, 3)
    after, _ = still.train_generator(state, train, state_replay(still, state), Context(0, 3))
    assert [*after.adapters] == [3]  # that of task 2 serves no class any more
    assert {label: after.adapter_of(label) for label in (9, 5, 3)} == {9: None, 5: 3, 3: 3}
    for name, tensor in state.adapters[2].tensors.items():
        # Kept as float16 twice: off by a unit of its eleventh bit, or of float32's 24th of W_0.
        torch.testing.assert_close(after.adapters[3].tensors[name], tensor, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("rank", [2, "full"])
def test_an_adapter_begins_as_the_one_before_or_as_nothing(rank):
    adapters = {**ADAPTERS, "rank": rank}
    state = learn(with_adapters(adapters=adapters), ((9,), (5,)))[-1]
    begins = {}
    for start in ("previous", "anew"):
        still = with_adapters(
            adapters={**adapters, "learning_rate": 1e-12, "start": start},
            denoiser={"learning_rate": 1e-12},
        )
        given = (state, images_of(3), LabelledImages.empty((8, 8, 1)), Context(0, 3))
        begins[start] = still.train_generator(*given)[0].adapters[3].tensors
    for name, tensor in state.adapters[2].tensors.items():
        torch.testing.assert_close(begins["previous"][name], tensor, rtol=1e-3, atol=1e-6)
        if not name.endswith(".down"):
            assert begins["anew"][name].abs().max() < 1e-6, name


def state_replay(method, state):
    return method.synthesise_replay(state, Context(0, len(state.tasks) + 1))[0]


def test_what_is_kept_is_not_drawn_again(method, states, tmp_path, monkeypatch):
    batches = []
    batch = Drawer.batch

    def counted(self, *given):
        batches.append(1)
        return batch(self, *given)

    monkeypatch.setattr(Drawer, "batch", counted)

    def synthesised(task, seed=0):
        """What a task draws, and in how many batches; a class has one here."""
        batches.clear()
        context = Context(seed, task, drawn=Scratch(tmp_path, 3600).drawn)
        replay, _ = method.synthesise_replay(states[task - 1], context)
        return replay.images, len(batches)

    expected = {task: state_replay(method, states[task - 1]).images for task in (2, 3, 4)}
    for task, new in ((2, 2), (3, 1), (4, 2), (4, 0)):  # each task's own classes, drawn once
        images, drawn = synthesised(task)
        assert np.array_equal(images, expected[task])
        assert drawn == new, task
    (file,) = (tmp_path / "drawn" / "class_5").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    (tmp_path / "drawn" / "class_9").rename(tmp_path / "elsewhere")
    images, drawn = synthesised(4)
    assert np.array_equal(images, expected[4])
    assert drawn == 2  # one damaged, one missing
    assert synthesised(4, seed=1)[1] == 4  # another run's


def test_a_drawing_that_was_stopped_goes_on(method, states, tmp_path):
    small = with_adapters(replay={"batch_size": 1})

    class StoppedError(Exception):
        pass

    def stops(name, *given):
        place = Scratch(tmp_path, 3600).drawn(name, *given)
        offer = place.offer

        def stopping(take, now=False):
            offer(take, now)
            raise StoppedError

        place.offer = stopping
        return place

    expected = small.synthesise_replay(states[2], Context(0, 3))[0].images
    with pytest.raises(StoppedError):
        small.synthesise_replay(states[2], Context(0, 3, drawn=stops))
    assert len([*(tmp_path / "drawn").rglob("*.safetensors")]) == 1
    kept = Context(0, 3, drawn=Scratch(tmp_path, 3600).drawn)
    assert np.array_equal(small.synthesise_replay(states[2], kept)[0].images, expected)


def test_the_first_of_a_class_are_the_same_however_many_are_asked_for(method, states):
    few = method.replaying(1)
    some, all_ = (m.synthesise_replay(states[2], Context(0, 3))[0] for m in (few, method))
    assert np.array_equal(some.of_classes([9]).images[:1], all_.of_classes([9]).images[:1])


def test_batches_are_whole_however_few_images_are_asked_for(states, monkeypatch):
    """Or else their composition, and so last bits, would depend on the number."""
    sizes, batch = [], Drawer.batch

    def seen(self, rows, start, noise, *more):
        sizes.append((start, len(noise)))
        return batch(self, rows, start, noise, *more)

    monkeypatch.setattr(Drawer, "batch", seen)
    small = with_adapters(replay={"batch_size": 2})
    for count, expected in ((1, [(0, 2)]), (2, [(0, 2)]), (3, [(0, 2), (2, 1)])):
        sizes.clear()
        assert len(small._draw(states[3], {5: count}, Context(0, 4), "a")) == count
        assert sizes == expected


def test_every_task_adds_as_many_bytes(method):
    states = learn(method, ((9,), (2,), (5,), (0,)))
    sizes = [replace(state, classifier=None).bytes() for state in states]
    grown = np.diff(sizes)[1:]
    assert len({*grown.tolist()}) == 1
    assert replace(states[-1], adapters={}).bytes() < states[-1].bytes()
    assert LearnerState.empty().bytes() == 0


@pytest.mark.parametrize(
    ("config", "share"),
    [
        (AdapterConfig(), 0.15),
        (AdapterConfig(rank="full", bits=4), 0.15),
        (AdapterConfig(rank="full", bits=4, attention=False), 0.1),
    ],
)
@pytest.mark.parametrize(
    ("benchmark", "shape"), [("digits", (8, 8, 1)), ("fashion_mnist", (28, 28, 1))]
)
def test_an_adapter_has_few_of_the_denoisers_bytes(benchmark, shape, config, share):
    file = Path("conf/base/benchmarks") / f"{benchmark}.yml"
    section = yaml.safe_load(file.read_text())[benchmark]["generator"]
    denoiser = DenoiserConfig.model_validate(section["denoiser"])
    with torch.device("meta"):
        unet = UNet2DConditionModel(**unet_config(denoiser, shape, True))
    bytes_of = {"codes": 1}  # of a number; else float16
    kept = sum(
        bytes_of.get(name.rpartition(".")[2], 2) * int(np.prod(shape))
        for name, shape in adapter_shapes(unet, config.model_dump()).items()
    )
    assert kept <= share * sum(4 * parameter.numel() for parameter in unet.parameters())


def test_full_adapters_learn_as_the_denoiser_does_and_others_by_adamw():
    denoiser = DenoiserConfig(optimiser="muon", learning_rate=3e-3, muon_learning_rate=0.02)
    full = AdapterConfig(rank="full", muon_learning_rate=0.015, batch_size=8).learning(denoiser)
    assert (full.optimiser, full.learning_rate) == ("muon", 3e-3)
    assert (full.muon_learning_rate, full.batch_size) == (0.015, 8)
    low = AdapterConfig(rank=2, learning_rate=4e-2).learning(denoiser)
    assert (low.optimiser, low.learning_rate, low.batch_size) == ("adamw", 4e-2, 32)
