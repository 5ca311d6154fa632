"""A private generator: what it promises, what it refuses, and that off is as if it were not."""

import pytest
from tests.reference.tiny import Stopped, differences, gppdm, images_of, learn, stopping, vectors_of

from gppdm_pipeline.algorithm.context import Context
from gppdm_pipeline.algorithm.disk.checkpoint_files import CheckpointFolder
from gppdm_pipeline.algorithm.disk.states import load_state, save_state
from gppdm_pipeline.algorithm.generator.guarantee import guarantee_of
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.methods import Method

TASKS = ((9, 2), (5,), (2, 0))  # class 2 comes back
PRIVATE = {"noise_multiplier": 2.0, "max_grad_norm": 0.5, "delta": 1e-4}


def private(**changes):
    """The tiny private GPPDM, with changed settings."""
    changes = {"private": PRIVATE, "prototypes": {"start": "noise"}, **changes}
    return gppdm(
        **{"memory": "adapters", "adapters": {"rank": 2, "batch_size": 4, "learning_rate": 1e-2}},
        **changes,
    )


@pytest.fixture(scope="module")
def states():
    pytest.importorskip("opacus")
    return learn(private(), TASKS)


def accountants(*trainings):
    from opacus.accountants import RDPAccountant  # noqa: PLC0415 (an extra)

    accountant = RDPAccountant()
    for sample_rate, steps in trainings:
        for _ in range(steps):
            accountant.step(noise_multiplier=2.0, sample_rate=sample_rate)
    return accountant.get_epsilon(1e-4)


def test_each_task_tells_what_the_accountant_says(states):
    # Six images of each class: 8 of 12, 4 of 6; with 3 replayed ones of class 2, 4 / 2 of 9 and 6.
    trainings = [(8 / 12, 5), (4 / 6, 5), (2 / 6, 5)]
    told = guarantee_of(states[3])
    assert [each["epsilon"] for each in told["tasks"]] == [
        pytest.approx(accountants(each), rel=1e-4) for each in trainings
    ]
    assert told["tasks"][1] == {
        **{"noise_multiplier": 2.0, "sample_rate": pytest.approx(4 / 6), "steps": 5},
        "epsilon": told["tasks"][1]["epsilon"],
    }
    # An image of the class that comes back may have been in both of its tasks.
    both = accountants(trainings[0], trainings[2])
    assert told["epsilon"] == pytest.approx(both, rel=1e-4)
    assert guarantee_of(states[2])["epsilon"] == pytest.approx(accountants(trainings[0]), rel=1e-4)
    assert (told["delta"], told["secret"]) == (1e-4, False)


def test_the_log_says_so_and_the_state_keeps_it(states, tmp_path):
    train, context = images_of(9, 2), Context(0, 1)
    _, log = private().train_generator(LearnerState.empty(), train, train.select([]), context)
    told = guarantee_of(states[1])
    assert log.metrics["epsilon"] == told["tasks"][0]["epsilon"]
    assert log.metrics["delta"] == 1e-4
    assert log.metrics["sample_rate"] == pytest.approx(8 / 12)
    save_state(states[3], tmp_path / "state")
    assert guarantee_of(load_state(tmp_path / "state")) == guarantee_of(states[3])


def test_nothing_is_promised_where_a_training_was_not_private(states):
    open_ = private(private={})
    first = learn(open_, TASKS[:1])[-1]
    assert guarantee_of(first) is None
    for before, method in ((states[1], open_), (first, private())):
        train = images_of(5)
        state, _ = method.train_generator(before, train, train.select([]), Context(0, 2))
        assert guarantee_of(state) is None


@pytest.mark.parametrize("task", [1, 3])
def test_what_was_stopped_goes_on_to_the_same_bits_and_epsilon(states, tmp_path, task):
    pytest.importorskip("opacus")
    method, before, train = private(), states[task - 1], images_of(*TASKS[task - 1])
    replay, _ = method.synthesise_replay(before, Context(0, task))
    place, stopped = stopping(CheckpointFolder(tmp_path, "key", 0), after=3)
    with pytest.raises(Stopped):
        method.train_generator(before, train, replay, Context(0, task, checkpoints=place))
    assert stopped == ["train_generator"]
    again = Context(0, task, checkpoints=CheckpointFolder(tmp_path, "key", 0))
    state, _ = method.train_generator(before, train, replay, again)
    usual, _ = method.train_generator(before, train, replay, Context(0, task))
    assert differences(state, usual) == []
    assert guarantee_of(state) == guarantee_of(states[task])


def test_secret_noise_comes_from_no_seed(states):
    pytest.importorskip("opacus")
    secret = private(private={**PRIVATE, "secret": True})
    one, other = (learn(secret, TASKS[:1])[-1] for _ in range(2))
    assert "denoiser/conv_in.bias" in differences(one, other)
    assert guarantee_of(one) == {**guarantee_of(states[1]), "secret": True}


def test_noise_is_in_all_that_moves(states):
    pytest.importorskip("opacus")
    less = learn(private(private={**PRIVATE, "noise_multiplier": 0.5}), TASKS[:2])[-1]
    same = {"tasks", "image_shape", "token_map"} | {f"embeddings/{k}" for k in (9, 2, 5)}
    moved = set(differences(less, states[2])) - same
    assert {"prototypes/9", "prototypes/5", "denoiser/conv_in.weight"} <= moved
    assert {"2/conv_in.up", "2/conv_in.down", "2/conv_in.bias"} <= moved


def test_off_is_as_if_there_were_no_such_setting():
    method = gppdm()
    off = gppdm(private={"max_grad_norm": 3.0})
    assert "private" not in method.model_dump()
    assert off.model_dump() == method.model_dump()
    assert differences(*(learn(each, TASKS[:2])[-1] for each in (method, off))) == []
    assert private().model_dump()["private"] == {**PRIVATE, "secret": False}
    assert Method.model_validate(private().model_dump()) == private()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"memory": "shared"}, "memory is 'shared'.*use memory: adapters"),
        ({"prototypes": {"start": "class_mean"}}, "prototypes.start is 'class_mean'.*noise"),
        ({"replay": {"gaussians": 0.2}}, r"replay.gaussians is 0.2.*use 0"),
        ({"name": "ddgr", "prototypes": None, "projection": None}, "ddgr's replay is guided"),
    ],
)
def test_what_would_carry_images_past_it_is_refused(changes, told):
    values = {**private().model_dump(), **changes}
    values = {name: value for name, value in values.items() if value is not None}
    if values["name"] == "ddgr":
        values = {k: values[k] for k in ("name", "memory", "private", "denoiser")}
    with pytest.raises(ValueError, match=f"(?s)private.noise_multiplier is above 0, but.*{told}"):
        Method.model_validate(values)
    values["private"] = {}
    Method.model_validate(values)


def test_noise_that_promises_nothing_is_refused():
    with pytest.raises(ValueError, match=r"0.01 is so little noise"):
        private(private={"noise_multiplier": 0.01})


def test_prototypes_that_are_not_there_need_no_start():
    values = {"name": "diffusion_replay", "memory": "adapters", "private": PRIVATE}
    assert Method.model_validate(values).private.on


def test_it_is_refused_before_any_work_without_its_package_and_on_features(monkeypatch):
    vectors = vectors_of(9, 2)
    for refused in (
        private().check_encoded,
        lambda: private().train_generator(
            LearnerState.empty(), vectors, vectors.select([]), Context(0, 1)
        ),
    ):
        with pytest.raises(ValueError, match=r"what an encoder makes.*learn pixels"):
            refused()
    gppdm().check_encoded()
    monkeypatch.setattr("gppdm_pipeline.algorithm.generator.guarantee.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install the extra 'privacy'"):
        private().check((8, 8, 1), 3)
    gppdm().check((8, 8, 1), 3)
