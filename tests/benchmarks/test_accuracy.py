"""benchmarks/accuracy.py: real trainings on tiny data, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import train
import val
from benchmarks import accuracy
from tests.test_train import cpu
from utils.config import ConfigError


def test_each_seed_has_a_row_and_nothing_is_done_twice(
    tiny_coco: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = yaml.safe_load(tiny_coco.read_text(encoding="utf-8"))
    data = tiny_coco.with_name("cells.yaml")
    data.write_text(yaml.safe_dump({**content, "test": content["val"]}), encoding="utf-8")
    called = []

    def call(script: str, *options: str) -> None:
        called.append(script)
        assert {"train.py": train, "val.py": val}[script].main([*options]) == 0

    monkeypatch.setattr(accuracy, "_call", call)
    command = ["--data", str(data), "--cfg", str(tiny_model), "--seeds", "2", "--project", str(tmp_path / "runs")]
    command += ["--", *cpu(), "--epochs", "1", "--batch-size", "4", "--set", "amp=off"]
    assert accuracy.main(command) == 0
    assert called == ["train.py", "val.py"] * 2
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| cells")]
    assert [row[2] for row in rows] == ["0", "1", "mean"]
    for row in rows[:2]:
        folder = tmp_path / "runs" / f"cells-{tiny_model.stem}-{row[2]}"
        for file, column in ((folder / "metrics.json", 3), (folder / "test" / "metrics.json", 6)):
            assert row[column] == f"{json.loads(file.read_text(encoding='utf-8'))['AP']:.3f}"
    assert accuracy.main(command) == 0
    assert len(called) == 4, "what is there is not trained again"


def test_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two sets have the same name: a, a"):
        accuracy.names_of([tmp_path / "a" / "data.yaml", tmp_path / "b" / "a.yaml"])
