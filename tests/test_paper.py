"""docs/paper.md: every command is understood, names what exists, and its figures are those of docs/benchmark.md."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator

import pytest

import train
import val
from models.benchmark.__main__ import parse_args as parse_benchmark
from models.benchmark.selection import load_models
from models.build import check_parts, check_recipe
from models.config import load_model_config
from utils.config import ROOT
from utils.recipe import load_recipe

PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
BENCHMARK = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
PLACEHOLDERS = ("MODEL", "RECIPE", "PX")


def tables(text: str) -> Iterator[list[dict[str, str]]]:
    """Each table as its rows, by the names of the columns; a name that comes again counts for the column before it."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        header, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        names = [name if name != "published" else f"published {before}" for before, name in itertools.pairwise(header)]
        yield [dict(zip([header[0], *names], cells, strict=True)) for cells in body]


def commands() -> list[str]:
    """The commands of the page, with the cells of the tables of their section in place of the words in capitals."""
    found: dict[str, None] = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE):
        lines = [line for fence in re.findall(r"```\n(.*?)```", section, re.DOTALL) for line in fence.splitlines()]
        rows = [row for table in tables(section) for row in table if "row" in row]
        for line in lines:
            if not any(word in line.split() for word in PLACEHOLDERS):
                found[line] = None
                continue
            assert rows, line
            for row in rows:
                cells = {"MODEL": row.get("MODEL"), "RECIPE": row.get("RECIPE", ""), "PX": row.get("px")}
                words = [cells[word] if word in PLACEHOLDERS else word for word in line.split(" ")]
                found[" ".join(word.strip("`") for word in words if word)] = None
    return list(found)


COMMANDS = commands()
TRAINED = set(re.findall(r"--name (\S+)", PAGE))


def test_every_section_has_commands_and_no_word_is_left_to_fill_in() -> None:
    assert len(COMMANDS) > 200
    assert not [command for command in COMMANDS if set(command.split()) & set(PLACEHOLDERS)]
    programs = {command.split(" --")[0].split(" csp")[0] for command in COMMANDS}
    assert {"python train.py", "python val.py", "python -m models.benchmark"} <= programs


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("python train.py ")])
def test_trainings_have_a_model_a_recipe_and_data_that_fit(command: str) -> None:
    args = train.parse_args(shlex.split(command)[2:])
    model = load_model_config(args.cfg, [text.removeprefix("model.") for text in args.set if text.startswith("model.")])
    recipe = load_recipe(args.hyp, [text for text in args.set if not text.startswith("model.")])
    check_parts(model)
    check_recipe(model, recipe)
    assert (ROOT / "cfg" / "data" / f"{args.data}.yaml").is_file()
    assert not args.img_size or not any(side % 32 for side in args.img_size)
    if args.weights:
        found = re.fullmatch(r"runs/train/(\S+)/weights/last\.pt", args.weights)
        assert found
        assert found[1] in TRAINED, "of a training that the page has"
        backbone = load_model_config(found[1]).backbone
        assert backbone["type"] == model.backbone["type"]
        assert backbone["depths"] == model.backbone["depths"] if "depths" in backbone else True


@pytest.mark.parametrize("command", [each for each in COMMANDS if not each.startswith("python train.py ")])
def test_other_commands_are_understood(command: str) -> None:
    _, *words = shlex.split(command)
    if words[0] == "val.py":
        args = val.parse_args(words[1:])
        assert (ROOT / "cfg" / "data" / f"{args.data}.yaml").is_file()
    elif words[:2] == ["-m", "models.benchmark"]:
        args = parse_benchmark(words[2:])
        assert not args.cfg or load_models(args.cfg, args.set)
    else:
        script = (ROOT / words[0]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in script for word in words if word.startswith("--"))


def test_costs_and_accuracies_are_those_of_the_benchmark() -> None:
    known = {}
    for table in tables(BENCHMARK):
        for row in table:
            known[row.get(next(iter(row))), row.get("file"), row.get("px")] = row
    compared = 0
    for row in (row for table in tables(PAGE) for row in table if "px" in row):
        other = known[row["row"], row["MODEL"].strip("`"), row["px"]]
        shared = row.keys() & other.keys()
        assert {key: row[key] for key in shared} == {key: other[key] for key in shared}
        compared += len(shared)
    assert compared > 400
