"""`make bmtrain`: build BMTrain 1.0.1 for the CUDA and the GPUs of this machine, and install it.

The wheel on PyPI is for Python 3.11 and CUDA 11; its source names GPUs that newer compilers no longer know. Here the
lists of GPUs in its build file are replaced, nothing else; it is compiled with the nvcc and NCCL that are found.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from importlib.util import find_spec
from pathlib import Path

from ultrachat_cli.errors import MissingExtra, UltraError

VERSION = "1.0.1"
_SHA256 = "45ac59e2e9fb10ca7aab2647fbe19d99ed22d1a7ecd27fdc35c31ab4fa562bfb"
_TOOLS = ["setuptools", "wheel", "pybind11", "cmake>3.27", "ninja"]
_TRIAL = """
import torch, bmtrain
from bmtrain.loss._function import has_inf_nan
if torch.cuda.is_available():
    found = torch.zeros(1, dtype=torch.uint8, device="cuda")[0]
    has_inf_nan(torch.full((8,), float("inf"), dtype=torch.half, device="cuda"), found)
    assert found.item() == 1, "its kernels do not run on this GPU"
"""
_COMMON = ["70", "75", "80", "86", "89", "90", "100", "120"]  # V100 to Blackwell: built for where no GPU is in sight


def source(folder: Path) -> Path:
    """BMTrain's source, downloaded from PyPI into `folder` and checked against its known digest; the unpacked folder.

    Raises `UltraError`.
    """
    _run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
         "--no-build-isolation", "--dest", str(folder), f"bmtrain=={VERSION}"],
        "BMTrain's source could not be downloaded", "the package index must be reachable",
    )  # fmt: skip
    archive = folder / f"bmtrain-{VERSION}.tar.gz"
    if hashlib.sha256(archive.read_bytes()).hexdigest() != _SHA256:
        raise UltraError(f"{archive}: not the file that was published as BMTrain {VERSION}")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / f"bmtrain-{VERSION}"


def for_gpus(build_file: str, gpus: list[str]) -> str:
    """A CMakeLists.txt of BMTrain with these compute capabilities ("90") in place of its own."""
    listed = re.sub(r'(CUDA_ARCHITECTURES) "[\d;]+"', rf'\1 "{";".join(gpus)}"', build_file)
    return re.sub(r" -gencode=arch=compute_\d+,code=sm_\d+", "", listed)  # CMake makes these from the list


def gpus_to_build_for(nvcc: Path) -> list[str]:
    """Of the GPUs here, else all common ones this compiler knows. `UltraError`: it does not know the one here."""
    text = _run([str(nvcc), "--list-gpu-arch"], f"{nvcc} does not work", "install the CUDA toolkit")
    known = re.findall(r"compute_(\d+)\b", text)
    import torch

    here = {"{}{}".format(*torch.cuda.get_device_capability(n)) for n in range(torch.cuda.device_count())}
    if unknown := here - set(known):
        raise UltraError(
            f"{nvcc} does not know the GPU of this machine (compute capability {', '.join(sorted(unknown))})",
            "install another CUDA toolkit, and name its nvcc: CUDACXX=/usr/local/cuda-12.8/bin/nvcc make bmtrain",
        )
    return sorted(here, key=int) or [gpu for gpu in _COMMON if gpu in known]


def compiler() -> Path:
    """nvcc: that of CUDACXX, of CUDA_HOME, of the path, of /usr/local/cuda. Raises `UltraError`."""
    home = os.environ.get("CUDA_HOME")
    named = os.environ.get("CUDACXX") or (f"{home}/bin/nvcc" if home else shutil.which("nvcc"))
    found = Path(named or "/usr/local/cuda/bin/nvcc")
    if not found.is_file():
        raise UltraError(
            f"no CUDA compiler: {found} is not there",
            "install the CUDA toolkit (developer.nvidia.com/cuda-downloads), or name it: CUDACXX=.../nvcc make bmtrain",
        )
    return found


def nccl() -> tuple[Path, Path]:
    """The folders of nccl.h and libnccl.so.2: under NCCL_ROOT_DIR, with torch, or the system's. Raises `UltraError`."""
    places = [Path(os.environ["NCCL_ROOT_DIR"])] if "NCCL_ROOT_DIR" in os.environ else []
    spec = find_spec("nvidia")
    places += [Path(folder) / "nccl" for folder in (spec.submodule_search_locations or [] if spec else [])]
    for place in [*places, Path("/usr/local"), Path("/usr")]:
        for libraries in (place / "lib", place / "lib64", *place.glob("lib/*-linux-gnu")):
            if (place / "include" / "nccl.h").is_file() and (libraries / "libnccl.so.2").exists():
                return place / "include", libraries
    raise UltraError(
        "no NCCL: nccl.h and libnccl.so.2 came neither with torch nor with the system",
        "install torch for CUDA (pip install torch), or NCCL (pip install nvidia-nccl-cu12), or set NCCL_ROOT_DIR",
    )


def check_torch() -> None:
    """`UltraError` where torch has no CUDA: BMTrain could be built, but not used."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("BMTrain", "torch", "train") from error
    if torch.version.cuda is None:
        raise UltraError("the torch of this environment is for the CPU only", "pip install --force-reinstall torch")


def build(folder: Path) -> Path:
    """A wheel in `folder`. Raises `UltraError`; nothing of this environment is changed."""
    nvcc, (headers, libraries) = compiler(), nccl()
    gpus = gpus_to_build_for(nvcc)
    print(
        f"BMTrain {VERSION} for compute capability {', '.join(gpus)}, with {nvcc} and NCCL in {libraries}", flush=True
    )
    unpacked = source(folder)
    listed = unpacked / "CMakeLists.txt"
    listed.write_text(for_gpus(listed.read_text(encoding="utf-8"), gpus), encoding="utf-8")
    tools = folder / "tools"
    venv.create(tools, with_pip=True)
    python = str(tools / "bin" / "python")
    _run([python, "-m", "pip", "install", "--quiet", *_TOOLS], "the build tools could not be installed", "see above")
    _run(
        [python, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder), str(unpacked)],
        "BMTrain did not compile", "the compiler's words are above",
        PATH=f"{tools / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}", CUDACXX=str(nvcc),
        NCCL_INCLUDE_DIR=str(headers), NCCL_LIB_DIR=str(libraries),
    )  # fmt: skip
    return next(folder.glob("bmtrain-*.whl"))


def install(wheel: Path) -> None:
    """Into this environment, without the NCCL for CUDA 11 it asks for. Raises `UltraError` if it does not work."""
    _run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", str(wheel)],
        "the wheel could not be installed", "",
    )  # fmt: skip
    _run(
        [sys.executable, "-c", _TRIAL],
        "BMTrain is installed, but does not work",
        "nvcc, driver and torch may be of different CUDA versions",
    )


def _run(command: list[str], fault: str, hint: str, **environment: str) -> str:
    outer = {key: value for key, value in os.environ.items() if key != "NCCL_ROOT_DIR"}  # would win over the two others
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env={**outer, **environment},
    )  # fmt: skip
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-25:])
        raise UltraError(f"{fault}:\n{tail}", hint)
    return done.stdout


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, metavar="FOLDER", help="leave the wheel there instead of installing it")
    wanted = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="bmtrain-") as folder:
            if not wanted.wheel:
                check_torch()
            wheel = build(Path(folder))
            if wanted.wheel:
                wanted.wheel.mkdir(parents=True, exist_ok=True)
                print(shutil.copy(wheel, wanted.wheel))
            else:
                install(wheel)
                print(f"BMTrain {VERSION} is installed: ultrachat train --engine bmtrain")
    except UltraError as error:
        print(f"{error.message}\n{error.hint}".strip(), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
