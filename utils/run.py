"""Run: the folder of one run (its layout: docs/reference.md)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config import ConfigError, dump_yaml
from utils.files import write_atomically


def new_run_folder(project: Path, name: str) -> Path:
    """Make PROJECT/NAME, or NAME2, NAME3, ... where that exists already.

    Raises:
        ConfigError: the folder cannot be made.
    """
    for number in itertools.count(1):
        folder = project / (name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder.exists() and project.is_dir():
                continue
            raise ConfigError(f"{project}: is a file, expected a folder for runs; choose another --project") from None
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made ({error.strerror}); choose another --project") from None
        return folder
    raise AssertionError("unreachable")


def check_there(weights: Path, *, option: str = "") -> None:
    """Refuse a file that is not there, before torch is imported.

    Where checkpoints lie beside it, `utils.checkpoint` says which of them is whole.

    Args:
        option: that named it, for the message.
    Raises:
        ConfigError: there is no such file.
    """
    told = f"{option} {weights}".strip()
    if weights.suffix.lower() != ".pt":
        if not weights.is_file():
            raise ConfigError(f"{told}: no such file; check the path")
    elif not (weights.is_file() or any(weights.parent.glob("*.pt"))):
        raise ConfigError(f"{told}: no such checkpoint; train one with 'python train.py', or check the path")


@dataclass(frozen=True)
class Run:
    """Paths of a training run.

    Args:
        folder: PROJECT/NAME.
        start: the checkpoint that --resume named; None goes on from last.pt.
    """

    folder: Path
    start: Path | None = None

    @property
    def checkpoint(self) -> Path:
        """The checkpoint to continue from."""
        return self.start or self.last

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "weights" / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best AP."""
        return self.folder / "weights" / "best.pt"

    @classmethod
    def create(cls, project: Path, name: str, config: dict[str, Any]) -> Run:
        """A new folder with config.yaml and weights/."""
        run = cls(new_run_folder(project, name))
        (run.folder / "weights").mkdir()
        run.save_config(config)
        return run

    @classmethod
    def find(cls, name: str, project: Path) -> Run:
        """The run that --resume names: a folder, a checkpoint in it, or '' for the newest of `project`.

        Raises:
            ConfigError: no such run, or one without config.yaml.
        """
        start = None
        if name:
            path = Path(name)
            start = path if path.is_file() and path.parent.name == "weights" else None
            folder = start.parent.parent if start else path
            if not folder.is_dir() and path.name == name and (project / name).is_dir():
                folder = project / name
        else:
            # Not what a dry run that was killed has left: its name begins with a dot.
            runs = [config.parent for config in project.glob("[!.]*/config.yaml")]
            if not runs:
                raise ConfigError(f"--resume: no run in {project}; name one: --resume RUN")
            folder = max(runs, key=_last_change)
        if not (folder / "config.yaml").is_file():
            raise ConfigError(f"--resume {name}: {folder} is not the folder of a run (it has no config.yaml)")
        run = cls(folder)
        return run if start in (None, run.last) else cls(folder, start)

    def save_config(self, config: dict[str, Any]) -> None:
        """Write config.yaml."""
        write_atomically(self.folder / "config.yaml", dump_yaml(config))

    def check_start(self) -> None:
        """Refuse to begin anew in a folder that has results.

        Raises:
            ConfigError: best.pt is there, and no last.pt to go on from.
        """
        if not self.checkpoint.is_file() and self.best.is_file():
            from utils.checkpoint import goes_on  # torch's imports are for those who need them

            if goes_on(self.best) is False:
                start = f"a new run starts from the best weights: --weights {self.best}"
                raise ConfigError(f"{self.last}: is missing; {start}")
            raise ConfigError(f"{self.last}: is missing; to go on from the best checkpoint: --resume {self.best}")

    def lengthen(self, config: dict[str, Any]) -> None:
        """Write config.yaml of a longer training, and take away the final figures of the shorter one."""
        for name in ("metrics.json", "predictions.json", "ground_truth.json", "thumbnails.zip", "report.html"):
            (self.folder / name).unlink(missing_ok=True)
        self.save_config(config)


def _last_change(folder: Path) -> float:
    checkpoint = folder / "weights" / "last.pt"
    return (checkpoint if checkpoint.is_file() else folder / "config.yaml").stat().st_mtime
