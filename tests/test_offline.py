"""No command uses the network."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import detect
import train
import val


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"the network was used: {arguments[-1]!r}")

    def connect(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            refuse(address)
        real(self, address)

    real = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("_no_network")
def test_train_val_and_detect_stay_offline(tiny_coco: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the network was used"):
        socket.create_connection(("localhost", 1))
    common = ["--device", "cpu", "--project", str(tmp_path)]
    arguments = ["--cfg", str(tiny_model), "--data", str(tiny_coco), "--epochs", "1", "--batch-size", "4"]
    assert train.main([*arguments, *common, "--workers", "1", "--threads", "1", "--name", "train"]) == 0
    weights = ["--weights", str(tmp_path / "train" / "weights" / "best.pt")]
    assert val.main([*weights, *common, "--data", str(tiny_coco), "--workers", "0", "--name", "val"]) == 0
    source = ["--source", str(tiny_coco.parent / "images"), "--conf-thres", "0.01"]
    assert detect.main([*weights, *common, *source, "--save-json", "--name", "detect"]) == 0
    assert (tmp_path / "detect" / "detections.json").is_file()
