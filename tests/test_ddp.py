"""Two and three processes (gloo, CPU) against one: same batches, same losses, same weights, same figures."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import distributed

import train
from data.loader import eval_loader_of
from data.read import read_splits
from engine.evaluate import evaluate
from engine.predictions import EvaluationOptions
from engine.replay import load_replay
from models.build import build_model
from models.config import load_model_config
from models.predictor import open_predictor
from tests.ddp_worker import fault, steps_in_double, watched, without_pictures
from tests.test_train import OVERFIT, assert_same_run, rows
from utils.checkpoint import load_checkpoint
from utils.config import ROOT
from utils.metrics.build import build_metric
from utils.train_config import saved_config

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="this PyTorch has no gloo")

CPU = ["--device", "cpu", "--threads", "1"]
STOPPED = 128 + signal.SIGTERM
PROCESSES = [2, pytest.param(3, marks=pytest.mark.slow)]


def settings(*texts: str) -> list[str]:
    return [part for text in ("amp=off", "anchor_recall=null", "augment.mixup=0.3", *texts) for part in ("--set", text)]


# Two batches of six images an epoch, some of them copies (balance). AdamW's first steps would go by the sign of a
# gradient, be it a rounding error; with channels_last PyTorch's batch normalisation sums in single precision: its
# variances are off by a few millionths.
LONG = ["--epochs", "10", "--batch-size", "6", "--workers", "0"]
LONG += settings("optimizer.type=sgd", "optimizer.lr=0.002", "channels_last=false")
LONG += settings("evaluation.interval=10", "augment.multi_scale=0.3", "balance=repeat", "balance_threshold=0.9")
SYNCED = ["--set", "sync_bn=true"]
# Four batches of two images and two steps an epoch.
SHORT = ["--epochs", "2", "--batch-size", "2", "--workers", "0"]
SHORT += settings("nominal_batch_size=4", "augment.multi_scale=0.3", "optimizer.lr=0.005")


@dataclass
class Runs:
    """Trainings of this test.

    Args:
        folder: of all runs; the names of those that are compared end in their number of processes.
        about: model, data and start of each.
        found: by name, for each rank what ddp_worker.py notes.
    """

    folder: Path
    about: list[str]
    double: dict[str, Any]
    found: dict[str, list[Any]] = field(default_factory=dict)

    def new(self, name: str, *options: str, **about_it: Any) -> dict[str, Any]:
        """A run to start."""
        return {"name": name, "arguments": [*self.about, *options, "--name", name], **about_it}

    def go_on(self, name: str, *, workers: int, **about_it: Any) -> dict[str, Any]:
        """A run to resume."""
        arguments = ["--resume", str(self.folder / name), *CPU, "--workers", str(workers)]
        return {"name": f"{name} resumed", "arguments": arguments, **about_it}

    def in_double(self, name: str, *, frozen: bool, **changes: Any) -> dict[str, Any]:
        about = {**self.double, "frozen": frozen, "file": str(self.folder / f"{name}.pt"), **changes}
        return {"name": name, "double": about}

    def do(self, processes: int, *runs: dict[str, Any]) -> None:
        """Do all runs, one after the other, with so many processes each."""
        found = [self._alone(run) for run in runs] if processes == 1 else self._launch(processes, runs)
        self.found |= {run["name"]: ranks for run, ranks in zip(runs, found, strict=True)}

    def _alone(self, run: dict[str, Any]) -> list[Any]:
        if "double" in run:
            return [steps_in_double(**run["double"])]
        with fault(run.get("fault"), run.get("step", 0)), watched() as seen, redirect_stdout(io.StringIO()) as said:
            seen["code"] = train.main(run["arguments"])
        with open(self.folder / "log.txt", "a") as file:
            file.write(said.getvalue())
        return [seen]

    def _launch(self, processes: int, runs: tuple[dict[str, Any], ...]) -> list[list[Any]]:
        (self.folder / "runs.json").write_text(json.dumps(runs))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command += [str(ROOT / "tests" / "ddp_worker.py")]
        command += [str(self.folder / name) for name in ("found.json", "runs.json")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
        with open(self.folder / "log.txt", "a") as file:
            file.write(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((self.folder / "found.json").read_text())

    def checkpoint(self, name: str) -> dict[str, Any]:
        return load_checkpoint(self.folder / name / "weights" / "last.pt")

    @property
    def log(self) -> str:
        """Whatever all have said."""
        return (self.folder / "log.txt").read_text()

    def log_of(self, name: str) -> str:
        """What a run has said, and what it has said after it was resumed."""
        parts = re.split(r"^Run folder: (.*)$", self.log, flags=re.MULTILINE)
        return "".join(
            text for folder, text in zip(parts[1::2], parts[2::2], strict=True) if folder == str(self.folder / name)
        )


@pytest.fixture(scope="module")
def few(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml with two validation images."""
    folder = tmp_path_factory.mktemp("few")
    content = json.loads((tiny_coco.parent / "val.json").read_text())
    content["images"] = content["images"][1:3]
    chosen = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in chosen]
    (folder / "few.json").write_text(json.dumps(content))
    path = folder / "data.yaml"
    path.write_text(f"path: {tiny_coco.parent}\ntrain: train.json\nval: {folder / 'few.json'}\nimages: images\n")
    return path


@pytest.fixture(scope="module")
def damaged(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml of the same images: five cannot be read, and a sixth is a JPEG file without its last bytes."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(tiny_coco.parent, folder, dirs_exist_ok=True)
    for number in (1, 2, 4, 5, 7):
        (folder / "images" / f"{number}.png").write_bytes(b"damaged")
    image = folder / "images" / "3.png"
    whole = io.BytesIO()
    Image.open(image).save(whole, "JPEG", quality=95, subsampling=0)
    image.write_bytes(whole.getvalue()[:-3])
    return folder / "data.yaml"


@pytest.fixture(scope="module")
def one_to_one(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model YAML with one-to-one branches."""
    path = tmp_path_factory.mktemp("one_to_one") / "model.yaml"
    path.write_text(f"base: {tiny_model}\nhead: {{type: anchor_free, bins: 8, depth: 1, one_to_one: true}}\n")
    return path


@pytest.fixture(scope="module")
def runs(
    tiny_coco: Path, tiny_model: Path, one_to_one: Path, damaged: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runs:
    """All runs, from weights that find something; 'moved' goes from one process to two and back."""
    folder = tmp_path_factory.mktemp("ddp")
    about = ["--cfg", str(tiny_model), "--data", str(tiny_coco), "--project", str(folder), *CPU]
    double = {"cfg": str(tiny_model), "data": str(tiny_coco), "steps": 20}
    double["settings"] = ["batch_size=6", "epochs=10", "augment.mixup=0.3", "amp=off", "optimizer.type=adamw"]
    double["settings"] += ["optimizer.lr=0.002"]
    single = ["batch_size=2", "epochs=5", "augment.mosaic=0", "amp=off", "optimizer.type=sgd"]
    branches = {"frozen": True, "cfg": str(one_to_one), "settings": [*single, "loss.one_to_many=[0.8, 0.1]"]}
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch.setattr)
        runs = Runs(folder, about, double)
        start = [*LONG, *OVERFIT, "--epochs", "40", "--set", "evaluation.interval=40", "--set", "optimizer.type=adamw"]
        runs.do(1, runs.new("start", *start))
        runs.about = [*about, "--weights", str(folder / "start" / "weights" / "last.pt"), "--set", "finetune=null"]
        norms = {name.rpartition(".")[0] for name in runs.checkpoint("start")["ema"] if name.endswith("running_mean")}
        frozen = [*LONG, "--set", f"freeze=[{', '.join(sorted(norms))}]"]
        skipping = [*SHORT, "--data", str(damaged), *settings("bad_images=skip", "cache=false")]
        runs.do(
            1,
            runs.new("frozen1", *frozen),
            runs.new("synced1", *LONG),
            runs.new("moved", *LONG, *SYNCED, fault="stop", step=5),
            runs.in_double("frozen in double 1", frozen=True),
            runs.in_double("synced in double 1", frozen=False),
            runs.in_double("one to one in double 1", **branches),
            runs.new("damaged1", *skipping),
        )
        runs.found["moved 1"] = runs.found["moved"]
        runs.do(
            2,
            runs.new("frozen2", *frozen),
            runs.new("synced2", *LONG, *SYNCED),
            runs.go_on("moved", workers=1, fault="stop", step=7),
            runs.in_double("frozen in double 2", frozen=True),
            runs.in_double("synced in double 2", frozen=False),
            runs.in_double("one to one in double 2", **branches),
            runs.new("whole", *SHORT),
            runs.new("parts", *SHORT, fault="stop", step=3),
            runs.go_on("parts", workers=1),
            runs.new("bad", *SHORT, fault="nan", step=2),
            runs.new("skipped", *SHORT, "--set", "non_finite=skip", fault="nan", step=2),
            runs.new("odd", *SHORT, "--batch-size", "3"),
            runs.new("damaged2", *skipping),
            runs.new("damaged-parts", *skipping, fault="stop", step=3),
            runs.go_on("damaged-parts", workers=1),
        )
        runs.found["moved 2"] = runs.found["moved resumed"]
        runs.do(1, runs.go_on("moved", workers=0))
        runs.found["moved 3"] = runs.found["moved resumed"]
    return runs


@pytest.fixture(scope="module")
def runs_of_three(runs: Runs, few: Path) -> Runs:
    """The same with three processes."""
    frozen = saved_config(runs.folder / "frozen1" / "config.yaml").recipe.freeze
    runs.do(
        3,
        runs.new("frozen3", *LONG, "--set", f"freeze=[{', '.join(frozen)}]"),
        runs.new("synced3", *LONG, *SYNCED),
        runs.in_double("frozen in double 3", frozen=True),
        runs.in_double("synced in double 3", frozen=False),
        runs.new("few3", *LONG, *SYNCED, "--epochs", "1", "--data", str(few)),
    )
    return runs


@pytest.fixture
def compared(request: pytest.FixtureRequest, processes: int) -> Runs:
    """The runs, those of so many processes among them."""
    return request.getfixturevalue("runs" if processes == 2 else "runs_of_three")


def largest_difference(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Of two weights or statistics; those of tensors with numbers above 1 as a share of the largest."""
    assert one.keys() == two.keys()
    pairs = [(one[name].double(), two[name].double()) for name in one]
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1)) for a, b in pairs)


def test_all_ranks_end_with_the_same_status(runs: Runs) -> None:
    codes = {name: [rank["code"] for rank in ranks] for name, ranks in runs.found.items() if "double" not in name}
    for name, found in codes.items():
        stopped = name in ("moved", "moved 1", "moved 2", "parts", "damaged-parts")
        assert set(found) == {STOPPED if stopped else 2 if name in ("bad", "odd") else 0}, name
    assert [len(codes[f"synced{count}"]) for count in (1, 2)] == [1, 2]


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("kind", ["frozen", "synced"])
def test_several_processes_train_what_one_trains(compared: Runs, kind: str, processes: int) -> None:
    """Twenty steps; batch normalisation keeps its statistics, or takes those of all processes."""
    one, several = compared.checkpoint(f"{kind}1"), compared.checkpoint(f"{kind}{processes}")
    start = compared.checkpoint("start")["ema"]
    assert one["step"] == several["step"] == 20
    assert largest_difference(one["weights"], start) > 1e-3, "something was learned"
    for part in ("weights", "ema"):
        assert largest_difference(one[part], several[part]) < 1e-6, part
    tables = [rows(compared.folder / f"{kind}{count}") for count in (1, processes)]
    for first, second in zip(*tables, strict=True):
        for key, value in first.items():
            if key.startswith("loss/") or key == "lr":
                assert float(second[key]) == pytest.approx(float(value), rel=1e-5), key


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize(("kind", "bound"), [("frozen", 1e-14), ("synced", 1e-10)])
def test_nothing_but_rounding_differs(compared: Runs, kind: str, bound: float, processes: int) -> None:
    """In double precision, and with AdamW, twenty steps differ by as much less as its numbers are finer."""
    files = [compared.folder / f"{kind} in double {count}.pt" for count in (1, processes)]
    weights = [torch.load(file, weights_only=True) for file in files]
    assert compared.found[f"{kind} in double {processes}"] == [20] * processes
    assert largest_difference(*weights) < bound


@pytest.mark.parametrize(
    ("name", "processes"),
    [("frozen2", 2), *(pytest.param(name, 3, marks=pytest.mark.slow) for name in ("synced3", "few3"))],
)
def test_an_evaluation_counts_each_image_once(compared: Runs, name: str, tiny_coco: Path, few: Path) -> None:
    """7 images over 2 and 3 processes, 2 images over 3: the start, and after training. The last is rank 0's alone."""
    split = few.parent / "few.json" if name == "few3" else tiny_coco.parent / "val.json"
    expected = sorted(image["id"] for image in json.loads(split.read_text())["images"])
    ranks = [rank["evaluations"] for rank in compared.found[name]]
    *shared, alone = ranks[0]
    assert len(shared) == 2
    assert all(len(rank) == len(shared) for rank in ranks[1:])
    for parts in zip(shared, *ranks[1:], strict=True):
        assert sorted(image for part in parts for image in part) == expected
    assert sorted(alone) == expected
    figures = json.loads((compared.folder / name / "metrics.json").read_text())
    assert figures["images"] == len(expected)
    # Rank 0 alone, with the best weights, gets what all ranks together got.
    counted = [compared.checkpoint(name)["start_figure"], *(row["AP"] for row in rows(compared.folder / name))]
    assert max(float(figure) for figure in counted if figure != "") == pytest.approx(figures["AP"], abs=1e-6)
    assert figures["AP50"] > 0.2, "something is found"


def test_one_to_one_branches_train_on_several_processes(runs: Runs, one_to_one: Path) -> None:
    """Also where a process has an image without objects: each weight has a gradient in every step."""
    assert runs.found["one to one in double 2"] == [20, 20]
    files = [runs.folder / f"one to one in double {count}.pt" for count in (1, 2)]
    one, two = (torch.load(file, weights_only=True) for file in files)
    torch.manual_seed(0)  # as steps_in_double starts
    start = build_model(load_model_config(one_to_one), 2).state_dict()
    own = [name for name in start if name.startswith("head.one_to_one")]
    assert largest_difference(*({name: state[name] for name in own} for state in (start, one))) > 1e-3, "they learn"
    assert largest_difference(one, two) < 1e-8, "the loss is computed in single precision"


def test_damaged_images_of_all_ranks_are_told_and_counted(runs: Runs, damaged: Path) -> None:
    """By rank 0, each file once, as one process tells and counts them; also when a run is stopped in an epoch."""
    logs = {name: runs.log_of(name) for name in ("damaged1", "damaged2", "damaged-parts")}
    counts = {
        name: [int(number) for number in re.findall(r"(\d+) times another image took the place", text)]
        for name, text in logs.items()
    }
    assert min(counts["damaged1"]) >= 5
    assert counts["damaged1"] == counts["damaged2"] == counts["damaged-parts"]
    told = {name: sorted(set(re.findall(r"^Another image.*: (\S+\.png): ", logs[name], re.MULTILINE))) for name in logs}
    bad = [str(damaged.parent / "images" / f"{number}.png") for number in (1, 2, 4, 5, 7)]
    assert told["damaged1"] == told["damaged2"] == told["damaged-parts"] == bad
    for name in ("damaged1", "damaged2"):
        assert logs[name].count("Another image in its place") == 5
        assert logs[name].count(f"{damaged.parent / 'images' / '3.png'}: the file is cut off") == 1
        evaluations = re.findall(r"Evaluation without (\d+) images that cannot be read: (\S+):", logs[name])
        first = bad[0] if name == "damaged1" else bad[1]  # images 1 and 5 are those of rank 1, 2 and 4 those of rank 0
        assert evaluations == [*[("4", first)] * 3, ("4", bad[0])], "of the start, two epochs, and by rank 0 alone"


def test_one_rank_writes(runs: Runs) -> None:
    folder = runs.folder / "synced2"
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert not (runs.folder / "synced22").exists()
    assert runs.log.count(f"Run folder: {folder}\n") == 1


def test_what_was_measured_is_what_was_saved(runs: Runs, tiny_coco: Path) -> None:
    """With batch normalisation of its own on each rank; that of rank 0 is saved, and counts."""
    for name in ("whole", "parts"):
        config = saved_config(runs.folder / name / "config.yaml")
        images = read_splits(str(tiny_coco)).val
        predictor = open_predictor(runs.folder / name / "weights" / "last.pt", device="cpu")
        metric = build_metric(images, backend="pycocotools")
        options = EvaluationOptions.of_training(config, "detect")
        found = evaluate(predictor, eval_loader_of(images, config), metric, options)
        for key, value in runs.checkpoint(name)["metrics"].items():
            assert found[key] == pytest.approx(value, abs=1e-6), key


def test_a_stop_on_one_rank_stops_all_and_going_on_is_exact(runs: Runs) -> None:
    assert_same_run(runs.folder / "whole", runs.folder / "parts")


def test_a_run_moves_from_one_process_to_two_and_back(runs: Runs) -> None:
    """The images of each step are exactly those of the run that stayed; the weights are equal but for rounding."""

    def order(*names: str) -> dict[int, list[int]]:
        """By step, the images of all ranks in the order of the batch."""
        steps: dict[int, list[int]] = {}
        for name in names:
            for together in zip(*(rank["steps"] for rank in runs.found[name]), strict=True):
                numbers = {step[0] for step in together}
                images = [image for step in together for image in step[1:]]
                steps[numbers.pop()] = images
                assert not numbers
        return steps

    stayed = order("synced1")
    assert len(stayed) == 20
    assert order("moved 1", "moved 2", "moved 3") == stayed
    assert [len(runs.found[f"moved {part}"][0]["steps"]) for part in (1, 2, 3)] == [5, 7, 8]
    assert order("synced2") == stayed
    one, moved = runs.checkpoint("synced1"), runs.checkpoint("moved")
    for part in ("weights", "ema"):
        assert largest_difference(one[part], moved[part]) < 1e-6, part


def test_a_bad_loss_on_one_rank_is_told_once_with_its_step(runs: Runs) -> None:
    told = "the loss of step 3 (epoch 2) is not a finite number: box nan"
    assert runs.log.count(f"error: {told}") == 1
    assert runs.checkpoint("bad")["step"] == 2
    replay = load_replay(runs.folder / "bad" / "replay_step3.pt")
    assert (replay.rank, replay.failure["what"]) == (1, "loss"), "of the rank whose images they are"
    assert [len(batch) for batch in replay.batches] == [1, 1]
    assert runs.log.count(f"Step skipped: {told}") == 1
    assert runs.log.count("Step skipped: the loss of step 4 (epoch 2)") == 1
    assert runs.checkpoint("skipped")["step"] == 4


def test_a_batch_that_cannot_be_split_is_refused_once_and_without_a_folder(runs: Runs) -> None:
    assert runs.log.count("error: batch size 3 cannot be split over 2 processes") == 1
    assert not (runs.folder / "odd").exists()
