"""The card of a set (README.md with a YAML header), written from the manifests of what made it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import orjson

from ultrachat_cli import __version__, yaml_lines
from ultrachat_cli.errors import ConfigError, DataError
from ultrachat_cli.models import specs
from ultrachat_cli.records import files, manifest

CARD = "README.md"
_SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
)  # fmt: skip
_PROJECT = "https://github.com/thunlp/UltraChat"


@dataclass(frozen=True)
class Made:
    """A file of dialogues with what is known of its making."""

    data: Path
    dedupe: dict[str, Any] | None
    runs: list[dict[str, Any]]
    """Manifests of the generate runs it comes from."""


def find(path: Path) -> Made:
    """A run folder, or the output of dedupe, with its manifests; `ConfigError` where there is none."""
    data = path / files.RUN_FILE if path.is_dir() else path
    if not data.is_file():
        raise ConfigError(f"PATH: {path}: no run folder, and no file of dialogues")
    cleaned = _read(files.beside(data, "manifest.json"))
    inputs = [Path(name) for name in cleaned.get("inputs", [])] if cleaned else [data]
    runs = [found for source in inputs if (found := manifest.read(source.parent)) and found.get("kind") == "generate"]
    if cleaned is None and not runs:
        raise ConfigError(
            f"PATH: {path}: no manifest lies beside it, so nothing is known to write a card from",
            "push a run folder or an output of 'ultrachat dedupe'",
        )
    return Made(data, cleaned, runs)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        raise DataError(path, 0, f"not a manifest: {error}") from error
    return found


def name_of(data: Path) -> str:
    """What the data file is called on the hub: `dialogues` with its own suffixes."""
    return "dialogues" + data.name.removeprefix(files.stem(data))


def write(made: Made, title: str, licence: str) -> str:
    """The card. Of the settings only what a reader needs: manifests hold local paths and stay here."""
    count, rounds = _counted(made.data)
    total = count.total()
    size = next((name for limit, name in _SIZES if total < limit), ">100M")
    header = {
        "license": licence, "pretty_name": title, "task_categories": ["text-generation"], "size_categories": [size],
        "tags": ["synthetic", "dialogue", "multi-turn", "ultrachat"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": name_of(made.data)}]}],
    }  # fmt: skip
    lines = ["---", *(f"{key}: {yaml_lines.dump(value)}" for key, value in header.items()), "---", "", f"# {title}", ""]
    lines += [
        f"{total:,} dialogues of {rounds / max(1, total):.1f} rounds on average, in which one language model plays"
    ]
    lines += [f"the user and another the assistant, after the method of UltraChat ({_PROJECT}).", ""]
    if len(count) > 1:
        lines += [
            "| sector | dialogues |",
            "|---|---|",
            *(f"| {name} | {n:,} |" for name, n in sorted(count.items())),
            "",
        ]
    for number, run in enumerate(made.runs, start=1):
        lines += _run(run, f" {number}" if len(made.runs) > 1 else "")
    if made.dedupe is not None:
        lines += _dedupe(made.dedupe)
    lines += ["## Format", "", _FORMAT, "", f"Made with ultrachat {__version__}.", ""]
    return "\n".join(lines)


_FORMAT = (
    'One JSON object a line: `{"id": ..., "data": [user, assistant, user, ...], "meta": {...}}`; `meta` tells sector, '
    "topic, persona and models of a dialogue. The texts are machine-made and not checked by people: they hold errors."
)


def _counted(data: Path) -> tuple[Counter[str], int]:
    """Dialogues by sector, and all their rounds."""
    count: Counter[str] = Counter()
    rounds = 0
    for _, dialogue in files.dialogues(data, _refuse):
        count[str(dialogue.meta.get("sector") or "(none)")] += 1
        rounds += dialogue.rounds
    return count, rounds


def _refuse(error: DataError) -> NoReturn:
    raise error


def _run(run: dict[str, Any], number: str) -> list[str]:
    config, counts = run["config"], run["counts"]
    yield_ = f"{counts['written']:,} dialogues kept, {_listed(counts['rejected'])} rejected"
    lines = [f"## Generation{number}", "", "| | |", "|---|---|"]
    lines += [f"| sector | {config['sector']} |", f"| seed | {config['seed']} |"]
    lines += [f"| rounds | {config['rounds'] or 'as published: world 3-7, writing and materials 2-4'} |"]
    for role in ("assistant", "user", "opening"):
        model = run["models"][role]
        entry = specs.known().get(model["name"])
        licence = f", licence {entry.licence}" if entry and entry.licence else ""
        checksum = f", sha256 {model['sha256']}" if model.get("sha256") else ""
        lines += [f"| {role} | {model['name']} ({_source(model['source'])}{licence}{checksum}) |"]
    lines += [f"| outcome | {yield_}, {counts['near_duplicate_openings']:,} near-duplicate openings dropped |"]
    lines += [f"| requests | {counts['requests']:,}, {counts['prompt_tokens']:,} tokens in, "
              f"{counts['completion_tokens']:,} out |", ""]  # fmt: skip
    prompts = run.get("identity", {}).get("prompts") or {}
    if prompts:
        lines += ["Prompts (content hashes): " + ", ".join(f"{n} {h}" for n, h in sorted(prompts.items())) + ".", ""]
    return lines


def _source(source: str) -> str:
    """Where a model comes from, without the folders of this machine."""
    scheme, _, place = source.partition(":")
    return f"{scheme}:{Path(place).name}" if scheme in ("gguf", "scripted") else source


def _listed(reasons: dict[str, int]) -> str:
    total = f"{sum(reasons.values()):,}"
    return f"{total} ({', '.join(f'{n:,} {reason}' for reason, n in reasons.items())})" if reasons else total


def _dedupe(cleaned: dict[str, Any]) -> list[str]:
    config, found = cleaned["config"], cleaned["report"]
    rules = {
        "exact": "equal but for case and punctuation",
        "near": f"Jaccard similarity of word {config['ngram']}-grams of at least {config['threshold']}",
        "semantic": f"cosine of {config['semantic']['model']} embeddings of at least {config['semantic']['threshold']}",
    }
    lines = [
        "## Duplicates",
        "",
        f"Of {found['read']:,} dialogues {found['written']:,} are left; compared: {config['scope']}.",
    ]
    lines += ["", "| stage | rule | removed |", "|---|---|---|"]
    lines += [f"| {stage} | {rules[stage]} | {found['removed'][stage]:,} |" for stage in config["method"]]
    against = config["against"]
    lines += ["", "## Benchmark overlap", ""]
    if not against["files"]:
        return [*lines, "Not checked.", ""]
    names = ", ".join(Path(name).name for name in against["files"])
    size = against["ngram"] or (8 if against["rule"] == "coverage" else 13)
    rule = f"one shared {size}-gram"
    if against["rule"] == "coverage":
        rule = f"{against['coverage']:.0%} of an item's words in shared {size}-grams"
    outcome = f"{found['removed']['contamination']:,} dialogues were dropped, {found['flagged']:,} only marked"
    return [
        *lines, f"Checked against {found['items']:,} items of {names} ({rule}, or a turn with a similarity of "
        f"{against['similar']}): {found['items_found']:,} items were found in the dialogues; {outcome}.", "",
    ]  # fmt: skip
