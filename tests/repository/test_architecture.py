"""The house keeps its shape: imports go downwards, modules stand alone, help is light, files stay small."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ultrachat_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))
FLOORS = [
    {"cli", "__main__"},
    {"commands"},
    {"generate", "dedupe", "data", "explore", "train", "recover", "chat", "reward", "serve", "evaluate"},
    {"filters"},
    {"backends"},
    {"models"},
    {"records"},
    {"config", "registry", "errors", "yaml_lines", "progress", "machine", "signals", "workers", "__init__"},
]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(n for n, rooms in enumerate(FLOORS) if name in rooms)


def imported_rooms(path: Path) -> set[str]:
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [
                f"{node.module}.{alias.name}" if node.module == "ultrachat_cli" else node.module for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "ultrachat_cli" and len(parts) > 1 and parts[1] != "__version__":
                rooms.add(parts[1])
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    own = room(path)
    if own == "__main__":
        return
    for other in imported_rooms(path) - {own}:
        # The ground floor (config, registry, errors, yaml_lines) may use its neighbours.
        allowed = floor(other) > floor(own) or floor(own) == floor(other) == len(FLOORS) - 1
        assert allowed, f"{path.relative_to(ROOT)} imports {other}, which is not below {own}"


def test_every_module_can_be_imported_alone() -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES if path.name != "__main__.py"]
    script = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    for known in [k for k in sys.modules if k.startswith('ultrachat_cli')]: del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["generate", "--help"], ["data", "filter", "--help"], ["eval", "evol", "--help"], ["--version"]],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = ["torch", "transformers", "openai", "numpy", "aiohttp", "xllamacpp", "pyarrow", "orjson", "yaml"]
    if arguments[0] not in ("generate", "data", "eval"):  # Typer itself converts option values with pydantic
        heavy.append("pydantic")
    script = (
        "import sys\nfrom ultrachat_cli.cli import main\n"
        f"code = main({arguments!r})\n"
        f"print('loaded:', [m for m in {heavy!r} if m in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: [] 0"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_nothing_trusts_foreign_code_or_pickles() -> None:
    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        assert "trust_remote_code" not in source, path
        for allowed in ("allow_pickle=False", "_weights_only_unpickler"):  # the second: PyTorch's, which runs nothing
            source = source.replace(allowed, "")
        assert "pickle" not in source, path


def test_top_level_holds_what_it_should() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in tracked.stdout.splitlines()}
    visible = {name for name in top if not name.startswith(".")}
    assert visible == {
        "ultrachat_cli", "configs", "tests", "pyproject.toml", "Makefile", "README.md", "CHANGELOG.md", "LICENSE",
    }  # fmt: skip


def test_tests_of_a_file_share_a_process(request: pytest.FixtureRequest) -> None:
    """Else fixtures of a module are made once in each, and embedded models run beside each other."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("one process runs all tests")
    assert request.node.nodeid.endswith(f"@{request.node.location[0]}")
