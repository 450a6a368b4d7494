"""Checkpoints of strangers: tensors alone, whole or not at all, and errors that name the tensor."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from seaalign.backbones.weights import load_into, read_weights


class Boom:
    """What a pickle may hold: it runs when it is loaded."""

    def __reduce__(self):
        return (open, ("boom.txt", "w"))


def net(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.Linear(width, 2))


def test_training_keys_are_left_out_and_state_dicts_unwrapped(tmp_path):
    state = net().state_dict()
    torch.save({**state, "epoch": 3, "step": 700}, tmp_path / "llm.pt")
    torch.save({"state_dict": state, "global_step": 7, "loops": {}}, tmp_path / "last.ckpt")
    for name in ("llm.pt", "last.ckpt"):
        assert read_weights(tmp_path / name).keys() == state.keys()


def test_nothing_is_unpickled_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**net().state_dict(), "hook": Boom()}, "odd.pt")
    with pytest.raises(ValueError, match=r"odd.pt holds more than tensors.*load it with unsafe=True"):
        read_weights("odd.pt")
    assert not (tmp_path / "boom.txt").exists()
    assert len(read_weights("odd.pt", unsafe=True)) == 4 and (tmp_path / "boom.txt").exists()


@pytest.mark.parametrize("unsafe", [False, True])
def test_a_file_of_something_else_is_not_called_dangerous(tmp_path, unsafe):
    (tmp_path / "real.parquet").write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    with pytest.raises(
        ValueError, match=r"real\.parquet is neither a file of torch.save nor one of safetensors"
    ) as told:
        read_weights(tmp_path / "real.parquet", unsafe)
    assert "unsafe=True" not in str(told.value)
    torch.save({"hook": Boom()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"old\.pt holds more than tensors.*load it with unsafe=True"):
        read_weights(tmp_path / "old.pt")


def test_shards_and_folders(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    state = net().state_dict()
    parts = {"a.safetensors": ["0.weight", "0.bias"], "b.safetensors": ["1.weight", "1.bias"]}
    for name, keys in parts.items():
        safetensors.save_file({key: state[key] for key in keys}, tmp_path / name)
    places = {key: name for name, keys in parts.items() for key in keys}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    read = read_weights(tmp_path)
    assert all(torch.equal(read[name], value) for name, value in state.items())
    (tmp_path / "b.safetensors").write_bytes(b"\x00" * 5)
    with pytest.raises(ValueError, match="b.safetensors is no readable safetensors file"):
        read_weights(tmp_path)
    # an index is data: it may not lead out of its folder
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    with pytest.raises(FileNotFoundError, match="no checkpoint .*passwd"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut"])
def test_what_is_no_checkpoint_says_so(tmp_path, content):
    (tmp_path / "odd.pt").write_bytes(content)
    with pytest.raises(ValueError, match="odd.pt"):
        read_weights(tmp_path / "odd.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        read_weights(tmp_path / "nowhere.pt")
    with pytest.raises(FileNotFoundError, match="no weights in"):
        read_weights(tmp_path)


def test_all_or_nothing_with_the_likely_cause():
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    good = {name: torch.ones_like(value) for name, value in before.items()}
    for change, match in (
        ({"1.weight": torch.ones(5, 3), "1.bias": torch.ones(5)}, r"1.weight is \(5, 3\) .* \(2, 3\).*vocabulary"),
        ({"0.weight": torch.ones(3, 4)}, r"0.weight is \(3, 4\) in the file and \(3, 2\).*another size"),
        ({"2.weight": torch.ones(1)}, "the model has no 2.weight. They are weights of another class"),
    ):
        with pytest.raises(ValueError, match=match):
            load_into(model, {**good, **change}, "file")
    with pytest.raises(ValueError, match="it lacks 0.weight"):
        load_into(model, {name: value for name, value in good.items() if name != "0.weight"}, "file", hint="Aha.")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    load_into(model, good, "file")
    assert all(bool((value == 1).all()) for value in model.state_dict().values())


def test_a_tied_tensor_may_be_missing():
    model = net(2)
    model[1].weight = model[0].weight
    state = {name: torch.full_like(value, 7) for name, value in model.state_dict().items() if name != "1.weight"}
    load_into(model, state, "file")
    assert bool((model[1].weight == 7).all())
