import pytest
from tests.reference.tiny import CLASSIFIER, images_of, learn

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.methods import Method, learn_task
from gppdm_pipeline.methods import vae_replay as module

TASKS = ((5, 2), (0,))


def vae_replay(**settings):
    vae = {"width": 8, "latent_dim": 2, "steps": 3, "batch_size": 6}
    given = {"name": "vae_replay", "classifier": CLASSIFIER, "vae": vae, **settings}
    return Method.model_validate({**given, "replay": {"images_per_class": 3}})


@pytest.fixture
def seen(monkeypatch):
    """The images that each training is given, by its function."""
    calls = {}
    for name, position in (("fit_classifier", 2), ("fit_vae", 2)):
        fit = getattr(module, name)

        def spy(*args, fit=fit, name=name, position=position, **more):
            calls.setdefault(name, []).append(args[position])
            return fit(*args, **more)

        monkeypatch.setattr(module, name, spy)
    return calls


@pytest.mark.parametrize("distil", [True, False])
@pytest.mark.parametrize("order", ["generator_first", "classifier_first"])
def test_what_each_training_is_given(seen, order, distil):
    method = vae_replay(order=order, distil=distil)
    learn(method, TASKS)
    real = {image.tobytes() for task in TASKS for image in images_of(*task).images}
    _, classifier = seen["fit_classifier"]
    _, vae = seen["fit_vae"]
    assert method.generator_first is (order == "generator_first")
    assert classifier.classes == (0, 2, 5)
    origins = {k: classifier.of_classes([k]).images[0].tobytes() in real for k in (0, 2, 5)}
    assert origins == {0: order == "classifier_first", 2: False, 5: False}
    assert vae.classes == ((0,) if distil else (0, 2, 5))


def test_the_replay_does_not_depend_on_the_order():
    train = images_of(*TASKS[0])
    replays = []
    for order in ("generator_first", "classifier_first"):
        method = vae_replay(order=order)
        state = learn_task(method, learn(method, [])[0], train, train, Context(0, 1))
        replays.append(method.synthesise_replay(state, Context(0, 2))[0])
    assert (replays[0].images == replays[1].images).all()
