"""The house rules that a reader of one file cannot see: which folder may import which, and what is never called."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from utils.config import ROOT

ALLOWED = {"models": {"models", "utils"}, "data": {"data", "utils"}, "utils": {"utils"}}
UNPICKLES = Path("utils/training/foreign.py")
"""The one file that lets another run code, where the user says --trust."""
OURS = {"data", "models", "utils", "train", "val", "detect", "export"}
FILES = sorted(
    path
    for path in [*ROOT.glob("*.py"), *(file for folder in ALLOWED for file in (ROOT / folder).rglob("*.py"))]
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


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(ROOT)))
def source(request: pytest.FixtureRequest) -> tuple[Path, ast.Module]:
    path: Path = request.param
    return path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def test_arrows_point_one_way(source: tuple[Path, ast.Module]) -> None:
    path, tree = source
    if path.parts[0] in ALLOWED:
        assert imported(tree) & OURS <= ALLOWED[path.parts[0]]


def test_nothing_unsafe_is_called(source: tuple[Path, ast.Module]) -> None:
    path, tree = source
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), f"{path}:{node.lineno}: star import"
        if not isinstance(node, ast.Call):
            continue
        where, keywords = f"{path}:{node.lineno}", {keyword.arg: keyword.value for keyword in node.keywords}
        name = ast.unparse(node.func)
        assert name not in {"eval", "exec", "os.system", "pickle.load", "pickle.loads", "yaml.unsafe_load"}, where
        shell = keywords.get("shell")
        assert shell is None or (isinstance(shell, ast.Constant) and shell.value is False), f"{where}: a shell"
        if name == "torch.load":
            safe = keywords.get("weights_only")
            assert isinstance(safe, ast.Constant), f"{where}: torch.load without weights_only"
            assert safe.value is True or path == UNPICKLES, f"{where}: torch.load that lets a file run code"
        if name == "yaml.load":
            assert "Loader" in ast.unparse(node.args[1]), f"{where}: yaml.load without a safe loader"


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


def test_importing_every_module_writes_nothing_and_prints_nothing(tmp_path: Path) -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.name != "__init__.py"]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import importlib\n" + "\n".join(
        f"importlib.import_module({module!r})" for module in modules
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())
