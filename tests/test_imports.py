"""The house rules that a reader of one file cannot see: which folder may import which, and what is never called."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from utils.config import ROOT

LAYERS = {
    "engine": {"engine", "models", "data", "utils"},
    "models": {"models", "utils"},
    "data": {"data", "utils"},
    "utils": {"utils"},
}
COMMANDS = {"utils/info.py": {"engine"}}
"""A command that users know under this name, and whose work is on another floor: it parses, and calls one function."""
UNSAFE = re.compile(
    r"eval|exec|compile|__import__|(builtins|code|pty|marshal|shelve|dill|joblib|cloudpickle|jsonpickle)\..*"
    r"|os\.(system|popen|exec\w+|spawn\w+|posix_spawnp?|startfile)|subprocess\.(getoutput|getstatusoutput)"
    r"|(pickle|_pickle|cPickle)\.(loads?|Unpickler)|(pd|pandas)\.read_pickle|torch\.hub\..*|importlib\.reload"
    r"|(logging\.config|socketserver|xmlrpc|http)\..*|ctypes\..*"
)
"""Calls that nothing here needs: they run what they read, or start a shell."""
UNSAFE_CALLS = (
    "eval(text)",
    "exec(text)",
    "__import__(name)",
    "os.system('ls')",
    "os.popen('ls')",
    "os.execvp(a, b)",
    "subprocess.run(a, shell=True)",
    "subprocess.Popen(a, shell=wanted)",
    "subprocess.run('ls -l')",
    "subprocess.getoutput(a)",
    "pickle.load(file)",
    "pickle.Unpickler(file)",
    "marshal.loads(data)",
    "shelve.open(path)",
    "joblib.load(path)",
    "np.load(path, allow_pickle=True)",
    "torch.load(path)",
    "torch.load(path, weights_only=False)",
    "torch.hub.load(a, b)",
    "yaml.load(text, yaml.Loader)",
    "yaml.full_load(text)",
    "importlib.import_module(name)",
    "from os import *",
)
YAML = Path("utils/config.py")
PICKLERS = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "jsonpickle", "code", "codeop", "runpy"}
NETWORK = {"socket", "urllib", "http", "ftplib", "smtplib", "telnetlib", "requests", "httpx", "aiohttp", "webbrowser"}
MAY_IMPORT = {
    "utils/checkpoint.py": {"pickle"},  # for the name of its error
    "utils/weights.py": {"pickle"},
    "engine/replay.py": {"pickle"},
    "models/backbones/timm.py": {"socket", "urllib"},  # pretrained: true, where the user asks for timm's weights
    "data/media/sources.py": {"urllib"},  # a stream that the user names
    "data/media/find.py": {"urllib"},
}
"""The files that need one of these, and why."""
UNPICKLES = Path("utils/weights.py")
"""The one file that lets another run code, where the user says --trust."""
OURS = {"data", "engine", "models", "utils", "train", "val", "detect", "export"}
FILES = sorted(
    path
    for path in [*ROOT.glob("*.py"), *(file for folder in LAYERS for file in (ROOT / folder).rglob("*.py"))]
    if "__pycache__" not in path.parts
)


def imported(tree: ast.Module) -> set[str]:
    """First names of all imported modules."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def imported_modules(tree: ast.Module) -> set[str]:
    """Full names of what is imported anywhere in a file, also under TYPE_CHECKING."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(ROOT)))
def source(request: pytest.FixtureRequest) -> tuple[Path, ast.Module]:
    path: Path = request.param
    return path.relative_to(ROOT), parsed(path)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_arrows_point_one_way(source: tuple[Path, ast.Module]) -> None:
    path, tree = source
    if path.parts[0] in LAYERS:
        assert imported(tree) & OURS <= LAYERS[path.parts[0]] | COMMANDS.get(path.as_posix(), set())


def test_no_module_imports_itself_in_a_circle() -> None:
    """Not even for types alone: a circle means that two files are one, or that a third one is missing."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    arrows = {name: imported_modules(parsed(path)) & modules.keys() - {name} for name, path in modules.items()}
    tuple(graphlib.TopologicalSorter(arrows).static_order())  # raises CycleError, which names the circle


def test_nothing_unsafe_is_called(source: tuple[Path, ast.Module]) -> None:
    path, tree = source
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), f"{path}:{node.lineno}: star import"
        if not isinstance(node, ast.Call):
            continue
        where, keywords = f"{path}:{node.lineno}", {keyword.arg: keyword.value for keyword in node.keywords}
        name = ast.unparse(node.func)
        assert not UNSAFE.fullmatch(name), f"{where}: {name}"
        shell = keywords.get("shell")
        assert shell is None or (isinstance(shell, ast.Constant) and shell.value is False), f"{where}: a shell"
        assert name.rpartition(".")[2] != "load" or "allow_pickle" not in keywords, f"{where}: {name} of a pickle"
        if name == "importlib.import_module":
            assert path == Path("models/export/formats.py"), f"{where}: a module whose name is made at run time"
        if name.startswith("subprocess."):
            assert not isinstance(node.args[0], ast.Constant | ast.JoinedStr), f"{where}: a command line as one text"
        if name == "torch.load":
            safe = keywords.get("weights_only")
            assert isinstance(safe, ast.Constant), f"{where}: torch.load without weights_only"
            assert safe.value is True or path == UNPICKLES, f"{where}: torch.load that lets a file run code"
        if name.startswith("yaml.") and "load" in name:
            assert name == "yaml.load", f"{where}: {name}"
            assert path == YAML, f"{where}: YAML is read by utils.config.load_yaml, which says where a mistake is"
            assert ast.unparse(node.args[1]) == "_Loader", f"{where}: yaml.load without a safe loader"


def test_nothing_is_imported_that_runs_what_it_reads_or_goes_to_the_network(source: tuple[Path, ast.Module]) -> None:
    path, tree = source
    found = imported(tree) & (PICKLERS | NETWORK)
    assert found <= MAY_IMPORT.get(path.as_posix(), set()), path
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "os", "subprocess", "importlib", "yaml"):
            # Under another name a call would not be seen.
            names = {alias.name for alias in node.names}
            assert not names & {"load", "loads", "Unpickler", "system", "popen", "import_module", "run", "Popen"}, path
    if "pickle" in imported(tree):  # for the name of an error, and nothing else
        assert set(re.findall(r"pickle\.(\w+)", ast.unparse(tree))) <= {"UnpicklingError"}, path


def test_the_loader_of_yaml_is_a_safe_one(tmp_path: Path) -> None:
    from utils import config

    assert issubclass(config._Loader, yaml.SafeLoader)
    path = tmp_path / "model.yaml"
    path.write_text("backbone: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(config.ConfigError, match="python/object/apply"):
        config.load_yaml(path)


@pytest.mark.parametrize("call", UNSAFE_CALLS)
def test_the_search_finds_what_it_is_there_for(call: str) -> None:
    with pytest.raises(AssertionError):
        test_nothing_unsafe_is_called((Path("utils/example.py"), ast.parse(call)))


def test_one_call_lets_a_file_run_code_and_only_if_trusted() -> None:
    tree = ast.parse((ROOT / UNPICKLES).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    unsafe = [node.name for node in functions if "weights_only=False" in ast.unparse(node)]
    callers = [node.name for node in functions if "_load_trusted(" in ast.unparse(node) and node.name not in unsafe]
    assert (unsafe, callers) == (["_load_trusted"], ["load_foreign"])
    before, _, _ = ast.unparse(next(node for node in functions if node.name == "load_foreign")).partition(
        "_load_trusted("
    )
    assert "if not trust:\n                raise" in before


def test_torch_distributed_is_called_in_one_file(source: tuple[Path, ast.Module]) -> None:
    path, tree = source
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in uses for alias in node.names} | {getattr(node, "module", "") or "" for node in uses}
    if any(name.startswith("torch.distributed") for name in names):
        assert path == Path("utils/dist.py")


def test_one_place_prints(source: tuple[Path, ast.Module]) -> None:
    path, tree = source
    if path == Path("utils/log.py"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("print", "tqdm.write"), f"{path}:{node.lineno}: output goes through utils.log.say"
            assert not re.fullmatch(r"sys\.(stdout|stderr)\.write", name), f"{path}:{node.lineno}: use utils.log.say"
            assert name != "argparse.ArgumentParser", f"{path}:{node.lineno}: use utils.arguments.Parser"


def test_importing_every_module_writes_nothing_and_prints_nothing(tmp_path: Path) -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.name != "__init__.py"]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import importlib\n" + "\n".join(
        f"importlib.import_module({module!r})" for module in modules
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())
