"""The Spark engine: what it writes is what the local engine writes, on one machine and on a cluster."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pytest

from tests.conftest import Ultrachat
from tests.unit.test_dedupe import dedupe, invented, write
from tests.unit.test_dedupe_kernel import WORDS
from ultrachat_cli.dedupe import settings, spark, stars
from ultrachat_cli.errors import ConfigError, MissingExtra, UltraError
from ultrachat_cli.records import blocks

pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas")
JAVA = "-XX:TieredStopAtLevel=1"  # what runs for seconds is better not optimised
QUICK = {
    "spark.driver.extraJavaOptions": JAVA,
    "spark.executor.extraJavaOptions": JAVA,
    "spark.sql.shuffle.partitions": "3",
}
Session = Any


def need_spark() -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed (pip install --group spark)")
    if not shutil.which("java"):
        pytest.skip("no Java on this machine")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One session on two cores of this machine for all tests that do not need their own."""
    need_spark()
    log = tmp_path_factory.mktemp("spark") / "spark.log"
    with spark.session(settings.Spark(master="local[2]", conf=QUICK), log) as shared:
        yield shared


@pytest.fixture
def both(session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """`both(inputs, scope="turn", ...)`: both engines write the same and count the same."""

    @contextmanager
    def shared(*_: object) -> Iterator[Session]:
        yield session

    monkeypatch.setattr(spark, "session", shared)

    def run(inputs: Sequence[Path], name: str = "out.jsonl", **given: Any) -> None:
        counts = []
        for engine in ("local", "spark"):
            report = dedupe(inputs, tmp_path / engine / name, engine=engine, **given)
            counts.append({key: value for key, value in vars(report).items() if key not in ("seconds", "files")})
        assert counts[0] == counts[1]
        assert counts[0]["removed"]["exact"] + counts[0]["removed"]["near"] > 0
        written = [
            {path.name: path.read_bytes() for path in (tmp_path / engine).iterdir() if "manifest" not in path.name}
            for engine in ("local", "spark")
        ]
        assert written[0] == written[1]

    return run


def small_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    cut = blocks.cut
    monkeypatch.setattr(blocks, "cut", lambda sources: cut(sources, size))


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.parametrize(
    "given",
    [
        {"threshold": 0.8},
        {"threshold": 0.5, "scope": "turn", "keep": "longest", "method": ["near"]},
        {"threshold": 0.4, "scope": "opening", "keep": "best"},
    ],
    ids=lambda given: given.get("scope", "dialogue"),
)
def test_the_engines_agree(
    both: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    records = invented(200, seed=len(given))
    for n, record in enumerate(records):
        record["meta"] = {"score": n * 7 % 10}
    inputs = [write(tmp_path / f"in-{n}.jsonl", records[n::2]) for n in range(2)]
    with inputs[0].open("r+b") as file:  # bad lines, first, in the middle and last
        lines = file.readlines()
        file.seek(0)
        file.writelines([b"{torn\n", *lines[:50], b'{"data": []}\n', b"\n", *lines[50:], b"\xff\xfe"])
    small_blocks(monkeypatch, 40_000)
    both(inputs, **given)


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.parametrize("action", ["drop", "flag"])
def test_the_engines_agree_on_benchmarks_and_packed_files(
    both: Callable[..., None], tmp_path: Path, action: str
) -> None:
    records = invented(120, seed=5)
    items = [{"instruction": record["data"][0]} for record in records[::9]]
    benchmark = tmp_path / "eval.json"
    benchmark.write_bytes(orjson.dumps(items))
    array = tmp_path / "in.json"
    array.write_bytes(orjson.dumps(records))
    both([array], "out.jsonl.gz", against__files=[benchmark], against__action=action)


@pytest.mark.slow
@pytest.mark.spark
def test_a_crowd_costs_its_size_and_not_its_square(
    both: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(1)
    text = draw.choices(WORDS, k=200)
    crowd = [{"id": f"c{n:03}", "data": [" ".join([*text, *draw.choices(WORDS, k=4)]), "yes"]} for n in range(300)]
    compared = 0
    similarities = spark.Cluster._similarities

    def counted(self: spark.Cluster, found: Any) -> Any:
        nonlocal compared
        compared += found.count()
        return similarities(self, found)

    monkeypatch.setattr(spark.Cluster, "_similarities", counted)
    both([write(tmp_path / "in.jsonl", crowd)])
    assert compared < 300 * 12  # all pairs would be 44,850


@pytest.mark.slow
@pytest.mark.spark
def test_components_are_those_of_union_find(session: Session) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    draw = random.Random(3)
    names = draw.sample(range(1 << 40), 900)
    chain = [(n, n + 1) for n in range(40)]
    star = [(100, n) for n in range(101, 140)]
    scattered = [(draw.randrange(200, 800), draw.randrange(200, 800)) for _ in range(350)]
    edges = [(names[a], names[b]) for a, b in [*chain, *star, *scattered] if a != b]
    root = {name: name for name in names}

    def find(name: int) -> int:
        while root[name] != name:
            name = root[name]
        return name

    for a, b in edges:
        low, high = sorted((find(a), find(b)))
        root[high] = low
    columns = {"node": [max(edge) for edge in edges], "root": [min(edge) for edge in edges]}
    found = stars.components(session.createDataFrame(pyarrow.table(columns))).toArrow().to_pylist()
    assert sorted((row["node"], row["root"]) for row in found) == sorted(
        (name, find(name)) for name in names if find(name) != name
    )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(URL, log) of a real master with two workers, all on the loopback interface."""
    need_spark()
    import pyspark

    home = Path(pyspark.__file__).parent
    environ = {**os.environ, "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_JAVA_OPTS": JAVA}

    def launch(stack: ExitStack, name: str, *arguments: str) -> Path:
        log = tmp_path / f"{name}.log"
        command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", "--host", "127.0.0.1",
                   "--webui-port", "0", *arguments]  # fmt: skip
        with log.open("ab") as out:
            process = subprocess.Popen(command, env=environ, cwd=tmp_path, stdout=out, stderr=out)
        stack.callback(process.wait)
        stack.callback(process.kill)
        return log

    with ExitStack() as stack:
        master = launch(stack, "master.Master", "--port", "0")
        [url] = wait_for(master, r"Starting Spark master at (\S+)")
        for n in range(2):
            folder = str(tmp_path / f"worker-{n}")
            launch(stack, "worker.Worker", "--cores", "1", "--memory", "1g", "--work-dir", folder, url)
        wait_for(master, "Registering worker", times=2)
        yield url, master


def wait_for(log: Path, pattern: str, times: int = 1, patience: float = 60) -> list[str]:
    end = time.monotonic() + patience
    while len(found := re.findall(pattern, log.read_text())) < times:
        assert time.monotonic() < end, f"{pattern} is not in\n{log.read_text()}"
        time.sleep(0.1)
    return found


@pytest.mark.slow
@pytest.mark.spark
def test_a_cluster_of_two_workers_and_an_interruption(
    cluster: tuple[str, Path], ultrachat: Ultrachat, tmp_path: Path
) -> None:
    url, log = cluster
    inputs = [write(tmp_path / f"in-{n}.jsonl", invented(60, seed=n)) for n in range(2)]
    conf = QUICK | {"spark.executor.memory": "512m", "spark.driver.host": "127.0.0.1"}
    settings_file = {"engine": "spark", "spark": {"master": url, "conf": conf}}
    (tmp_path / "dedupe.yaml").write_bytes(orjson.dumps(settings_file))  # JSON is YAML
    arguments = ("dedupe", *inputs, "--output", "out.jsonl", "--config", "dedupe.yaml", "--quiet", "--json")

    begun = ultrachat.start(*arguments)
    wait_for(log, "Registered app")
    result, seconds = begun.send(signal.SIGINT)
    assert (result.code, result.stdout, seconds < 10) == (130, "", True)
    assert len(result.stderr.splitlines()) == 1
    wait_for(log, "Removing app|Received unregister request")
    assert not (tmp_path / "out.jsonl").exists()

    result = ultrachat(*arguments)
    assert (result.code, result.stderr) == (0, "")
    assert result.json["read"] == 120
    assert all(list(tmp_path.glob(f"worker-{n}/app-*/*")) for n in range(2))
    dedupe(inputs, tmp_path / "local.jsonl")
    for name in ("{}.jsonl", "{}.report.jsonl"):
        assert (tmp_path / name.format("out")).read_bytes() == (tmp_path / name.format("local")).read_bytes()


def test_semantic_is_for_one_machine(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", invented(5, seed=1))
    with pytest.raises(ConfigError, match="semantic runs on one machine only"):
        dedupe([source], tmp_path / "out.jsonl", engine="spark", method=["exact", "semantic"])


@pytest.mark.parametrize("missing", ["pyspark", "pandas"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in ("pyspark", "pandas"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name) if name != missing else None)
    with pytest.raises(MissingExtra, match=f"engine spark needs {missing}") as caught:
        dedupe([write(tmp_path / "in.jsonl", [])], tmp_path / "out.jsonl", engine="spark")
    assert "ultrachat-cli[spark]" in caught.value.hint


@pytest.mark.parametrize("home", [None, "/nowhere"])
def test_missing_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    for name in ("pyspark", "pandas"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    if home:
        monkeypatch.setenv("JAVA_HOME", home)
    with pytest.raises(UltraError, match="needs Java"):
        dedupe([write(tmp_path / "in.jsonl", [])], tmp_path / "out.jsonl", engine="spark")
