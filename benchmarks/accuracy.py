"""AP on several sets as one table: python benchmarks/accuracy.py --data bccd/data.yaml chess/data.yaml --seeds 2.

Each set is trained on with each seed by train.py; best.pt, chosen on val, is judged once on test by val.py, where the
set has that split. A run that is there is not repeated, and one that was stopped goes on. AP is pycocotools'.

What follows -- goes to train.py:

    python benchmarks/accuracy.py --data chess/data.yaml --seeds 2 -- --img-size 320 --epochs 60
    python benchmarks/accuracy.py --data chess/data.yaml --cfg yolox-nano -- --weights yolox_nano.pth
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.config import load_data_config
from utils.arguments import Parser, whole_number
from utils.config import ROOT, ConfigError
from utils.faults import report
from utils.log import say

FIGURES = ("AP", "AP50", "APs")


@dataclass(frozen=True)
class Run:
    """A training and its evaluation on test.

    Args:
        folder: of the run; the evaluation is in its folder 'test'.
        options: of train.py.
    """

    cfg: str
    data: Path
    seed: int
    folder: Path
    options: tuple[str, ...]

    def do(self) -> None:
        """Train and evaluate, as far as that is not done.

        Raises:
            ConfigError: train.py or val.py ends with an error, which it has printed.
        """
        if not (self.folder / "metrics.json").is_file():
            if (self.folder / "weights" / "last.pt").is_file():
                _call("train.py", "--resume", str(self.folder))
            else:
                where = ["--project", str(self.folder.parent), "--name", self.folder.name]
                what = ["--cfg", self.cfg, "--data", str(self.data), "--seed", str(self.seed)]
                _call("train.py", *what, *where, *self.options)
        if load_data_config(str(self.data)).test and not (self.folder / "test" / "metrics.json").is_file():
            weights = ["--weights", str(self.folder / "weights" / "best.pt"), "--data", str(self.data)]
            _call("val.py", *weights, "--split", "test", "--project", str(self.folder), "--name", "test")

    def figures(self) -> list[float | None]:
        """FIGURES of val, then of test, and the minutes that the epochs took."""
        found: list[float | None] = []
        for file in (self.folder / "metrics.json", self.folder / "test" / "metrics.json"):
            values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            found += [values.get(name) for name in FIGURES]
        with (self.folder / "results.csv").open(encoding="utf-8", newline="") as lines:
            seconds = sum(float(row["seconds"]) for row in csv.DictReader(lines))
        return [*found, seconds / 60]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    own, options = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = Parser(description="AP on several sets as one table; what follows -- goes to train.py.")
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="data YAML files")
    parser.add_argument("--cfg", nargs="+", default=["cspdet-n"], help="models")
    parser.add_argument("--seeds", type=whole_number, default=1, help="trainings of each, from seed 0 on")
    parser.add_argument("--project", type=Path, default=Path("runs/accuracy"), help="folder of the runs")
    args = parser.parse_args(own)
    try:
        names = names_of(args.data)
        runs = [
            Run(cfg, data, seed, args.project.absolute() / f"{names[data]}-{Path(cfg).stem}-{seed}", tuple(options))
            for data in args.data
            for cfg in args.cfg
            for seed in range(args.seeds)
        ]
        for run in runs:
            run.do()
    except ConfigError as error:
        return report(error)
    say(table(runs, names))
    return 0


def names_of(files: Sequence[Path]) -> dict[Path, str]:
    """A name for each data YAML: its own, or that of its folder if it is called data.yaml.

    Raises:
        ConfigError: two have the same name.
    """
    names = {file: file.absolute().parent.name if file.stem == "data" else file.stem for file in files}
    if len(set(names.values())) < len(files):
        raise ConfigError(f"--data: two sets have the same name: {', '.join(sorted(names.values()))}; rename a file")
    return names


def table(runs: Sequence[Run], names: dict[Path, str]) -> str:
    """Markdown: a row for each run, and one for the mean of the seeds."""
    columns = [f"{split} {name}" for split in ("val", "test") for name in FIGURES]
    head = ["set", "network", "seed", *columns, "minutes"]
    lines = [head, ["---"] * len(head)]
    groups: dict[tuple[Path, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.data, run.cfg), []).append(run)
    for (data, cfg), group in groups.items():
        figures = [run.figures() for run in group]
        start = [names[data], Path(cfg).stem]
        for run, row in zip(group, figures, strict=True):
            lines.append([*start, str(run.seed), *map(_shown, row[:-1]), f"{row[-1]:.1f}"])
        if len(group) > 1:
            columns_of = [[value for value in column if value is not None] for column in zip(*figures, strict=True)]
            means = [statistics.mean(column) if len(column) == len(group) else None for column in columns_of]
            lines.append([*start, "mean", *map(_shown, means[:-1]), f"{means[-1]:.1f}"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _call(script: str, *options: str) -> None:
    say(f"{script} {' '.join(options)}")
    if subprocess.run([sys.executable, str(ROOT / script), *options], check=False).returncode:
        raise ConfigError(f"{script} {' '.join(options)}: ended with an error")


if __name__ == "__main__":
    sys.exit(main())
