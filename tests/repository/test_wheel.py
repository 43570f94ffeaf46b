"""A wheel installed far from the repository finds its configs, prompts and lists."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_wheel_works_outside_the_repository(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next((tmp_path / "dist").glob("ultrachat_cli-*.whl"))
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import ultrachat_cli, pathlib\n"
        f"assert pathlib.Path(ultrachat_cli.__file__).is_relative_to({str(site)!r}), ultrachat_cli.__file__\n"
        "from ultrachat_cli.cli import main\n"
        "codes = [main(['config', 'check', str(p)]) for p in pathlib.Path(ultrachat_cli.__file__)"
        ".parent.joinpath('configs/generate').glob('*.yaml')]\n"
        "assert codes and not any(codes), codes\n"
        "sys.exit(main(['generate', '--config', 'demo', '-m', 'scripted:synthetic', '-q', '--json',"
        " '--user-model', 'scripted:synthetic']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout[done.stdout.index("{") :])["written"] == 6
    assert len((tmp_path / "runs/demo/dialogues.jsonl").read_text().splitlines()) == 6
