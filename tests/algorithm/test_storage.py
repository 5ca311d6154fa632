import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from tests.reference.tiny import CLASSIFIER, differences, gppdm, learn

from gppdm_pipeline.algorithm.diffusion.network import build_unet
from gppdm_pipeline.algorithm.disk import states as storage
from gppdm_pipeline.algorithm.disk.states import StateError, load_state, save_state, verify_state
from gppdm_pipeline.algorithm.state import LearnerState
from gppdm_pipeline.methods import Method

FILES = {
    "adapters": [
        "adapters/task_02/config.json",
        "adapters/task_02/weights.safetensors",
        "classifier.safetensors",
        "denoiser/config.json",
        "denoiser/diffusion_pytorch_model.safetensors",
        "prototypes.safetensors",
        "state.json",
    ],
    "empty": ["state.json"],
    "ewc": [
        "classifier.safetensors",
        "extras/importance/config.json",
        "extras/importance/weights.safetensors",
        "state.json",
    ],
    "exemplar": ["classifier.safetensors", "kept.safetensors", "state.json"],
    "finetune": ["classifier.safetensors", "state.json"],
    "gppdm": [
        "bases.safetensors",
        "classifier.safetensors",
        "denoiser/config.json",
        "denoiser/diffusion_pytorch_model.safetensors",
        "prototypes.safetensors",
        "state.json",
    ],
}


@pytest.fixture(scope="module")
def states():
    small = {
        name: Method.model_validate({"name": name, "classifier": CLASSIFIER})
        for name in ("ewc", "exemplar", "finetune")
    }
    return {
        "adapters": learn(gppdm(memory="adapters"), [(11, 2), (3,)])[-1],
        "empty": LearnerState.empty(),
        **{name: learn(method, [(5, 2), (3,)])[-1] for name, method in small.items()},
        "gppdm": learn(gppdm(), [(11, 2), (3,)])[-1],
    }


@pytest.fixture(scope="module")
def saved(states, tmp_path_factory):
    """A folder of states, to be copied and not to be touched."""
    folder = tmp_path_factory.mktemp("states")
    for name, state in states.items():
        save_state(state, folder / name)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved / "gppdm", tmp_path / "task_02" / "state")


def files_in(folder):
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


@pytest.mark.parametrize("name", FILES)
def test_round_trip(states, saved, name):
    verify_state(saved / name)
    assert differences(load_state(saved / name), states[name]) == []
    assert files_in(saved / name) == FILES[name]


def test_comparison_sees_one_bit(states):
    """Or else the tests above and below could not fail."""
    state = states["gppdm"]
    tensors = {name: tensor.clone() for name, tensor in state.denoiser.tensors.items()}
    tensors["conv_in.weight"].view(torch.int32)[0, 0, 0, 0] ^= 1
    changed = replace(state, denoiser=replace(state.denoiser, tensors=tensors))
    assert differences(changed, state) == ["denoiser/conv_in.weight"]


def test_parents_are_made_and_an_old_state_is_replaced(states, tmp_path):
    folder = tmp_path / "a" / "b" / "state"
    for name in ("gppdm", "empty", "finetune"):
        save_state(states[name], folder)
        assert differences(load_state(folder), states[name]) == []
        assert files_in(folder) == FILES[name]
        assert list(folder.parent.iterdir()) == [folder]


def test_the_same_state_gives_the_same_files(states, saved, tmp_path):
    save_state(load_state(saved / "gppdm"), tmp_path / "state")
    for name in FILES["gppdm"]:
        assert (tmp_path / "state" / name).read_bytes() == (saved / "gppdm" / name).read_bytes()


def test_who_may_read_the_state_may_read_all_of_it(saved):
    for name in FILES:
        files = (file for file in (saved / name).rglob("*") if file.is_file())
        assert len({file.stat().st_mode for file in files}) == 1


def test_tensors_are_named_as_documented(states, saved):
    with safe_open(saved / "gppdm" / "prototypes.safetensors", "pt") as file:
        assert set(file.keys()) == {"token_map"} | {
            f"{kind}.{label}"
            for kind in ("prototype", "start", "embedding")
            for label in (11, 2, 3)
        }
    with safe_open(saved / "gppdm" / "bases.safetensors", "pt") as file:
        assert set(file.keys()) == set(states["gppdm"].bases)
        assert "mid_block.attentions.0.transformer_blocks.0.attn2.to_v" in set(file.keys())


def test_diffusers_reads_the_denoiser(states, saved, caplog, capfd):
    """As the library's how-to says: without accelerate, and without a word about it."""
    folder = saved / "gppdm" / "denoiser"
    unet = UNet2DConditionModel.from_pretrained(folder, low_cpu_mem_usage=False)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    ours = build_unet(states["gppdm"].denoiser)
    x, tau, tokens = torch.randn(2, 2, 8, 8), torch.tensor([3, 900]), torch.randn(2, 5, 32)
    with torch.no_grad():
        assert torch.equal(unet(x, tau, tokens).sample, ours(x, tau, tokens).sample)


def expect_error(folder, file, what):
    for read in (load_state, verify_state):
        with pytest.raises(StateError) as error:
            read(folder)
        message = str(error.value)
        assert message.startswith(f"{folder / file} {what}")
        assert f"Remove the folder {(folder / file).parent}" in message


@pytest.mark.parametrize("file", FILES["gppdm"])
def test_a_file_that_is_missing(folder, file):
    (folder / file).unlink()
    expect_error(folder, file, "is missing")


@pytest.mark.parametrize("file", FILES["gppdm"])
@pytest.mark.parametrize("kept", [0, 0.5, -1])
def test_a_file_that_is_cut_short(folder, file, kept):
    content = (folder / file).read_bytes()
    short = content[:-3] if kept < 0 else content[: int(kept * len(content))]
    (folder / file).write_bytes(short)
    expect_error(folder, file, "is damaged")


@pytest.mark.parametrize("file", sorted(set(FILES["gppdm"]) - {"state.json"}))
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_a_file_with_a_flipped_bit(folder, file, place):
    content = bytearray((folder / file).read_bytes())
    content[-1 if place < 0 else int(place * len(content))] ^= 1
    (folder / file).write_bytes(content)
    expect_error(folder, file, "is damaged")


def test_a_manifest_with_a_flipped_bit(folder):
    """Wherever it is: an error that names the file, or (in a space) the same manifest."""
    path = folder / "state.json"
    content = path.read_bytes()
    sound, silent = json.loads(content), 0
    for place in range(0, len(content) - 1, 7):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            verify_state(folder)
        except StateError as error:
            assert str(path) in str(error)
        else:
            silent += 1
            assert json.loads(damaged) == sound
    assert silent < len(content) / 20


@pytest.mark.parametrize(
    ("file", "part", "change", "message"),
    [
        ("classifier.safetensors", "classifier", None, "head.bias is missing, expected [3]"),
        ("classifier.safetensors", "classifier", (7,), "head.bias is [7], expected [3]"),
        (
            "denoiser/diffusion_pytorch_model.safetensors",
            "denoiser",
            (3,),
            "conv_out.bias is [3], expected [1]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, file, part, change, message):
    """Whole files, as a program would write that has another network in mind."""
    state, name = load_state(folder), message.split()[0]
    weights = getattr(state, part)
    tensors = {key: value for key, value in weights.tensors.items() if key != name}
    if change is not None:
        tensors[name] = torch.zeros(change)
    path = folder / file
    path.write_bytes(storage.save(tensors))
    manifest = json.loads((folder / "state.json").read_text())
    manifest["files"][file] = storage._checksum(path.read_bytes())
    del manifest["checksum"]
    manifest["checksum"] = storage._checksum(storage._canonical(manifest))
    (folder / "state.json").write_text(json.dumps(manifest))
    expect_error(folder, file, f"does not fit its network: {message}")


def test_a_state_of_another_format(folder):
    manifest = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**manifest, "format": 99}))
    expect_error(folder, "state.json", "has format 99, this version reads 1")


def test_no_folder(tmp_path):
    expect_error(tmp_path / "state", "state.json", "is missing")


def fail_at(monkeypatch, function, count):
    """Let the `count`-th call of storage's os.fsync or of a rename of the new folder raise."""
    calls = []

    def fails(original, counts):
        def call(*arguments):
            if counts(*arguments):
                calls.append(arguments)
                if len(calls) == count:
                    raise KeyboardInterrupt
            return original(*arguments)

        return call

    if function == "fsync":
        monkeypatch.setattr(storage.os, "fsync", fails(storage.os.fsync, lambda fd: True))
    else:
        new = f".state.{storage.os.getpid()}"
        rename = storage.Path.rename
        monkeypatch.setattr(storage.Path, "rename", fails(rename, lambda path, _: path.name == new))
    return calls


@pytest.mark.parametrize(
    ("function", "count"), [("fsync", 1), ("fsync", 4), ("fsync", 8), ("rename", 1)]
)
@pytest.mark.parametrize("cleans_up", [True, False])
def test_a_stopped_write_leaves_the_old_state(
    states, tmp_path, monkeypatch, function, count, cleans_up
):
    folder = tmp_path / "state"
    save_state(states["finetune"], folder)
    with monkeypatch.context() as patch:
        calls = fail_at(patch, function, count)
        if not cleans_up:  # as if the process had been killed
            patch.setattr(storage.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            save_state(states["gppdm"], folder)
        assert len(calls) == count
    assert differences(load_state(folder), states["finetune"]) == []
    if cleans_up:
        assert list(tmp_path.iterdir()) == [folder]
    save_state(states["gppdm"], folder)
    assert differences(load_state(folder), states["gppdm"]) == []
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("cleans_up", [True, False])
def test_a_stopped_first_write_leaves_no_state(states, tmp_path, monkeypatch, cleans_up):
    folder = tmp_path / "state"
    with monkeypatch.context() as patch:
        fail_at(patch, "rename", 1)
        if not cleans_up:
            patch.setattr(storage.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            save_state(states["gppdm"], folder)
    expect_error(folder, "state.json", "is missing")
    save_state(states["gppdm"], folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_loaded_state_does_not_need_its_folder(states, tmp_path):
    save_state(states["gppdm"], tmp_path / "state")
    loaded = load_state(tmp_path / "state")
    shutil.rmtree(tmp_path / "state")
    assert differences(loaded, states["gppdm"]) == []
