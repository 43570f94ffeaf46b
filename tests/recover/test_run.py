"""Whole runs: what is written, what is carried along, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from tests.recover.folders import ROWS, State, bits, contents, folder, moved, same, state, weights
from tests.train import tiny
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.models import folders as model_folders
from ultrachat_cli.models import specs
from ultrachat_cli.progress import Silent
from ultrachat_cli.recover import arithmetic, run
from ultrachat_cli.recover.report import Report
from ultrachat_cli.recover.settings import DeltaConfig, RecoverConfig

KINDS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def recover(at: Path, **more: Any) -> Report:
    """base/ + delta/ -> out/, or as given."""
    given = {"base": str(at / "base"), "delta": str(at / "delta"), "output": at / "out", **more}
    return run.recover(RecoverConfig(**given), Silent())


def make_delta(at: Path, **more: Any) -> Report:
    """tuned/ - base/ -> delta/, or as given."""
    given = {"base": str(at / "base"), "tuned": str(at / "tuned"), "output": at / "delta", **more}
    return run.make_delta(DeltaConfig(**given), Silent())


def difference(tuned: State, base: State) -> State:
    """As weight_diff.py makes it: fp32, new rows against the mean of the old."""
    found: State = {}
    for name, theirs in tuned.items():
        ours = base[name].float()
        if len(ours) < len(theirs):
            mean = ours.double().mean(0, keepdim=True).float()
            ours = torch.cat([ours, mean.expand(len(theirs) - len(ours), -1)])
        found[name] = theirs.float() - ours
    return found


def refused(*says: str, kind: type[UltraError] = UltraError) -> Any:
    class Caught:
        def __enter__(self) -> Caught:
            self.caught = pytest.raises(kind)
            self.info = self.caught.__enter__()
            return self

        def __exit__(self, *what: Any) -> bool:
            done = bool(self.caught.__exit__(*what))
            for words in says:
                assert words in f"{self.info.value.message} | {self.info.value.hint}"
            return done

    return Caught()


@pytest.mark.parametrize("kind", ["one", "shards", "bin", "bins"])
@pytest.mark.parametrize("dtype", KINDS)
def test_there_and_back(tmp_path: Path, kind: str, dtype: str) -> None:
    base = state(dtype=KINDS[dtype])
    tuned = moved(base)
    folder(tmp_path / "base", base, kind=kind)
    folder(tmp_path / "tuned", tuned, kind=kind)
    down = make_delta(tmp_path)
    up = recover(tmp_path, shard_size=2000)
    assert (up.verified, up.tensors, up.dtype) == (len(tuned), len(tuned), dtype)
    assert up.shards > 1
    if dtype == "float32":
        assert down.listed == 0
        assert all((weights(tmp_path / "out")[n] - tuned[n]).abs().max() < 1e-6 for n in tuned)
    else:
        assert down.differing == 0
        assert same(weights(tmp_path / "out"), tuned)
    assert up.sum == pytest.approx(sum(float(t.double().sum()) for t in tuned.values()), abs=1e-2)


def test_a_delta_as_published(tmp_path: Path) -> None:
    """fp32 .bin shards, rotary buffers, one token more than the base, which is fp16: all as UltraLM-13b."""
    base = state()
    tuned = moved(state(rows=41, dtype=torch.float32), dtype=torch.float32)
    for name in tuned:
        tuned[name][: len(base[name])] = base[name].float() + 0.01
    delta = difference(tuned, base)
    buffers = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.zeros(4) for n in range(3)}
    folder(tmp_path / "base", base)
    folder(tmp_path / "delta", delta | buffers, kind="bins", config={"vocab_size": 41, "torch_dtype": "float32"},
           beside={"generation_config.json": '{"a": 1}', "chat_template.jinja": "{{ x }}", "r.py": "bad"})  # fmt: skip
    report = recover(tmp_path, format="ultralm")
    assert same(weights(tmp_path / "out"), {name: t.half() for name, t in tuned.items()})
    assert (report.new_tokens, sorted(report.left_out), report.verified) == (1, sorted(buffers), None)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["vocab_size"], config["dtype"], "torch_dtype" in config) == (41, "float16", False)
    assert set(contents(tmp_path / "out")) == {
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "ultrachat.json",
    }  # fmt: skip
    assert specs.resolve(str(tmp_path / "out")).format == "ultralm"


def test_buffers_of_the_base_are_left_out_too(tmp_path: Path) -> None:
    base = state()
    folder(tmp_path / "base", base | {"model.layers.0.rotary_emb.inv_freq": torch.ones(4)})
    folder(tmp_path / "delta", difference(moved(base), base))
    assert recover(tmp_path).left_out == ["model.layers.0.rotary_emb.inv_freq"]
    assert weights(tmp_path / "out").keys() == base.keys()


@pytest.mark.parametrize("dtype", KINDS)
def test_the_type_asked_for(tmp_path: Path, dtype: str) -> None:
    base = state()
    delta = difference(moved(base, dtype=torch.float32), base)
    folder(tmp_path / "base", base)
    folder(tmp_path / "delta", delta)
    recover(tmp_path, dtype=dtype)
    assert same(weights(tmp_path / "out"), {n: (base[n].float() + delta[n]).to(KINDS[dtype]) for n in base})
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == dtype


def test_another_type_than_the_tuned_one_is_not_compared(tmp_path: Path) -> None:
    folder(tmp_path / "base", state())
    folder(tmp_path / "tuned", moved(state(), dtype=torch.bfloat16))
    make_delta(tmp_path)
    assert recover(tmp_path).verified == 6, "in the tuned one by default"
    other = recover(tmp_path, dtype="fp16", output=tmp_path / "again")
    assert other.verified == 0
    assert dict(other.rows())["verified"] == "0 of 6 tensors by SHA-256, the others are written in another type"


def test_mixed_types_and_integers_come_back(tmp_path: Path) -> None:
    base = state() | {"model.norm.weight": torch.randn(16), "model.count": torch.arange(5)}
    tuned = moved(base) | {"model.count": torch.arange(5) * 3}
    tuned["model.norm.weight"] = base["model.norm.weight"] * 1.5
    folder(tmp_path / "base", base)
    folder(tmp_path / "tuned", tuned)
    make_delta(tmp_path)
    recover(tmp_path)
    assert same(weights(tmp_path / "out"), tuned)


def test_transformers_loads_it(tmp_path: Path) -> None:
    """Tied, in shards with an index, a token more; the sizes in the config are what was written."""
    tiny.llama(tmp_path / "base", tied=True)
    base = LlamaForCausalLM.from_pretrained(tmp_path / "base").bfloat16()
    base.save_pretrained(tmp_path / "base")
    base.resize_token_embeddings(260, mean_resizing=False)
    with torch.no_grad():
        for weight in base.parameters():
            weight += 0.01 * torch.randn_like(weight)
    shutil.copytree(tmp_path / "base", tmp_path / "tuned")
    base.save_pretrained(tmp_path / "tuned")
    assert make_delta(tmp_path).new_tokens == 1
    assert recover(tmp_path, shard_size="60KB").shards > 2
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert same(dict(made.state_dict()), dict(base.state_dict()))


def test_a_head_that_only_the_tuned_model_has(tmp_path: Path) -> None:
    base = state()
    del base[ROWS[1]]
    tuned = moved(state())
    tuned[ROWS[1]] = moved({"head": base[ROWS[0]]})["head"]
    folder(tmp_path / "base", base, config={"tie_word_embeddings": True})
    folder(tmp_path / "tuned", tuned)
    with refused("model.layers.0", kind=UltraError):  # other matrices are not of this base at all
        make_delta(tmp_path, base=str(folder(tmp_path / "other", {ROWS[0]: base[ROWS[0]]})))
    make_delta(tmp_path, unchecked=True)
    recover(tmp_path)
    assert same(weights(tmp_path / "out"), tuned)


def test_the_registry_entry_goes_with_it(tmp_path: Path) -> None:
    folder(tmp_path / "base", state())
    folder(tmp_path / "tuned", moved(state()),
           beside={"ultrachat.json": '{"format": "ultralm", "context": 2048, "licence": "x"}'})  # fmt: skip
    make_delta(tmp_path)
    entry = specs.resolve(str(tmp_path / "delta"))
    assert (entry.weights, entry.format, entry.context, entry.licence) == ("delta", "ultralm", 2048, "x")
    recover(tmp_path)
    entry = specs.resolve(str(tmp_path / "out"))
    assert (entry.weights, entry.format, entry.context, entry.licence) == ("full", "ultralm", 2048, "x")


def test_a_name_of_the_registry_gives_facts_and_both_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    base = state()
    folder(model_folders.weights.cache() / "hub/huggyllama/llama-13b", base)
    folder(model_folders.weights.cache() / "hub/openbmb/UltraLM-13b", difference(moved(base), base), kind="bin")
    report = run.recover(RecoverConfig(model="ultralm-13b"), Silent())
    assert report.folder == Path("ultralm-13b")
    assert same(weights(report.folder), moved(base))
    entry = specs.resolve("./ultralm-13b")
    assert (entry.format, entry.context, entry.weights, entry.base) == ("ultralm", 2048, "full", "")
    by_folder = RecoverConfig(model="ultralm-13b", delta=str(tmp_path / "cache/hub/openbmb/UltraLM-13b"), output="b")
    run.recover(by_folder, Silent())
    assert contents(Path("b")) == contents(Path("ultralm-13b"))


@pytest.mark.parametrize("name", ["ultralm-65b", "ultralm-13b-v2.0", "hf:openbmb/UltraLM-65b", "smollm2-135m"])
def test_full_weights_need_no_recovering(tmp_path: Path, name: str) -> None:
    with refused("is full weights", "nothing is to be recovered", "--model", kind=ConfigError):
        run.recover(RecoverConfig(model=name, base=str(tmp_path)), Silent())


def test_the_name_of_a_folder_tells_nothing(tmp_path: Path) -> None:
    base = state()
    folder(tmp_path / "llama-13b", base)
    folder(tmp_path / "ultralm-65b", difference(moved(base), base))
    recover(tmp_path, base=str(tmp_path / "llama-13b"), delta=str(tmp_path / "ultralm-65b"))
    assert same(weights(tmp_path / "out"), moved(base))
    with refused("ultralm-65b is full weights (registry: ", kind=ConfigError):
        recover(tmp_path, model="ultralm-65b", delta=str(tmp_path / "ultralm-65b"))


def test_a_folder_that_says_it_is_whole(tmp_path: Path) -> None:
    folder(tmp_path / "base", state())
    folder(tmp_path / "delta", moved(state()), beside={"ultrachat.json": '{"name": "", "format": "chatml"}'})
    with refused(f"{tmp_path / 'delta'} is full weights: nothing is to be recovered", kind=ConfigError):
        recover(tmp_path)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """base/, tuned/ and a delta/ of ours."""
    folder(tmp_path / "base", state())
    folder(tmp_path / "tuned", moved(state()))
    make_delta(tmp_path)
    return tmp_path


def foreign(at: Path) -> Path:
    """The same delta without checksums."""
    (at / "delta/checksums.json").unlink()
    return at


def nothing(at: Path) -> None:
    assert not (at / "out").exists()
    assert not (at / "out.partial").exists()


def test_swapped(pair: Path) -> None:
    foreign(pair)
    (pair / "delta/ultrachat.json").unlink()
    with refused("times as large as", "swapped"):
        recover(pair, base=str(pair / "delta"), delta=str(pair / "base"))
    nothing(pair)


def test_a_base_that_says_it_is_a_delta(pair: Path) -> None:
    with refused("is itself a delta", "swapped", kind=ConfigError):
        recover(pair, base=str(pair / "delta"), delta=str(pair / "base"))
    with refused("is itself a delta", kind=ConfigError):
        make_delta(pair, tuned=str(pair / "delta"), output=pair / "x")


def test_a_delta_that_is_full_weights(pair: Path) -> None:
    with refused("is no delta", "like those of --base"):
        recover(pair, delta=str(pair / "tuned"))
    other = folder(pair / "other", state(seed=5))
    with refused("times as large as", "full weights"):
        recover(pair, delta=str(other))
    nothing(pair)


def test_a_wrong_base(pair: Path) -> None:
    folder(pair / "wrong", state(seed=5))
    with refused("is not the model that the delta was made from", "--unchecked"):
        recover(pair, base=str(pair / "wrong"))
    with refused("was not made from"):
        make_delta(pair, base=str(pair / "wrong"), output=pair / "x")
    nothing(pair)


def test_the_same_base_in_another_layout_is_the_same(pair: Path) -> None:
    folder(pair / "again", state(), kind="bins")
    assert recover(pair, base=str(pair / "again")).verified == 6


def test_two_that_are_equal_are_told(pair: Path) -> None:
    report = make_delta(pair, tuned=str(pair / "base"), output=pair / "nothing")
    assert "equal wherever they were looked at" in report.notes[0]
    (pair / "nothing/checksums.json").unlink()
    assert "zero wherever it was looked at" in recover(pair, delta=str(pair / "nothing")).notes[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_small_delta_comes_back_within_rounding_and_says_so(pair: Path, dtype: str) -> None:
    report = make_delta(pair, dtype=dtype, output=pair / "small")
    assert report.differing
    rows = dict(report.rows())
    assert rows["gives back"] == f"{report.differing:,} numbers within rounding, all others bit for bit"
    again = recover(pair, delta=str(pair / "small"))
    assert again.verified == 6
    out, right = weights(pair / "out"), weights(pair / "tuned")
    unlike = sum(int((bits(out[n]).view(-1, 2) != bits(right[n]).view(-1, 2)).any(1).sum()) for n in right)
    assert unlike == report.differing
    assert max(float((out[n].float() - right[n].float()).abs().max()) for n in right) < 4e-3


def test_what_no_sum_gives_is_kept_over_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """-0.0 in the tuned weights: listed in the checksums, of a run that was cut in two as of one that was not."""
    base = state()
    tuned = moved(base)
    for n, tensor in enumerate(tuned.values()):
        tensor.view(-1)[n] = -0.0
    folder(tmp_path / "base", base)
    folder(tmp_path / "tuned", tuned)
    right = make_delta(tmp_path, output=tmp_path / "whole", shard_size="4KB")
    assert (right.listed, right.differing) == (6, 0)

    def failing(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run.write, "index", failing)
        with pytest.raises(KeyboardInterrupt):
            make_delta(tmp_path, shard_size="4KB")
    again = make_delta(tmp_path, shard_size="4KB")
    assert again.resumed == again.shards > 1
    assert contents(tmp_path / "delta") == contents(tmp_path / "whole")
    (tmp_path / "out").mkdir()
    recover(tmp_path)
    assert same(weights(tmp_path / "out"), tuned)


def test_configs_that_differ_are_told(pair: Path) -> None:
    shutil.copytree(foreign(pair) / "base", pair / "newer")
    for name, eps in (("newer", 1e-5), ("delta", 1e-6)):
        path = pair / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": eps}))
    report = recover(pair, base=str(pair / "newer"))
    assert report.notes == ["rms_norm_eps is 1e-05 in the base's config and 1e-06 here"]


def test_a_weight_changed_where_nobody_looked(pair: Path) -> None:
    """One bit in the middle of the base: found by the sums, and nothing is left."""
    tensors = load_file(pair / "base/model.safetensors")
    long = torch.randn(70, 16).half()
    folder(pair / "b2", tensors | {"model.long": long})
    folder(pair / "t2", moved(tensors | {"model.long": long}))
    make_delta(pair, base=str(pair / "b2"), tuned=str(pair / "t2"), output=pair / "d2")
    long[35, 3] += 0.25
    save_file(tensors | {"model.long": long}, pair / "b2/model.safetensors", {"format": "pt"})
    with refused("model.long: base + delta is not what", "damaged"):
        recover(pair, base=str(pair / "b2"), delta=str(pair / "d2"), shard_size="2KB")
    nothing(pair)
    report = recover(pair, base=str(pair / "b2"), delta=str(pair / "d2"), unchecked=True)
    assert report.verified is None


def test_names_and_shapes_that_do_not_fit(tmp_path: Path) -> None:
    folder(tmp_path / "base", state())
    delta = moved({name: torch.zeros_like(t) for name, t in state().items()})
    lacking = {name: t for name, t in delta.items() if "layers.1" not in name}
    for tensors, says in (
        (lacking, "lacks model.layers.1.mlp.up_proj.weight, which the base has"),
        (delta | {"model.more.weight": torch.ones(3)}, "lacks model.more.weight, which the delta has"),
        (delta | {ROWS[0]: torch.ones(40, 8)}, f"{ROWS[0]} has shape [40, 16] in the base and [40, 8] in the delta"),
        (delta | {ROWS[0]: torch.ones(39, 16)}, "[40, 16] in the base and [39, 16]"),
        (delta | {"model.layers.0.mlp.up_proj.weight": torch.ones(49, 16)}, "[49, 16] in the delta"),
        (delta | {ROWS[0]: torch.ones(40, 16).to(torch.float8_e4m3fn)}, "quantized weights have no sum"),
        (delta | {ROWS[0]: torch.ones(40, 16).int()}, "F16 in the base and I32 in the delta"),
    ):
        shutil.rmtree(tmp_path / "delta", ignore_errors=True)
        folder(tmp_path / "delta", tensors)
        with refused(says):
            recover(tmp_path)
        nothing(tmp_path)


def test_tokenizers_that_are_missing(tmp_path: Path) -> None:
    base = state()
    folder(tmp_path / "base", base)
    folder(tmp_path / "delta", difference(moved(base), base), words=False)
    assert "the base's is used" in recover(tmp_path).notes[0]
    assert (tmp_path / "out/tokenizer.json").is_file()
    folder(tmp_path / "silent", base, words=False)
    report = recover(tmp_path, base=str(tmp_path / "silent"), output=tmp_path / "out2")
    assert "no tokenizer in" in report.notes[0]
    with refused("--check: there is no tokenizer", kind=ConfigError):
        recover(tmp_path, base=str(tmp_path / "silent"), output=tmp_path / "out3", check=True)
    grown = state(rows=42)
    folder(tmp_path / "grown", difference(grown, base), words=False)
    with refused("2 tokens more than the base, and no tokenizer"):
        recover(tmp_path, delta=str(tmp_path / "grown"), output=tmp_path / "out4", unchecked=True)


def test_a_tokenizer_with_more_tokens_than_rows(pair: Path) -> None:
    path = pair / "delta/tokenizer.json"
    told = json.loads(path.read_text())
    told["model"]["vocab"]["zz"] = 40
    path.write_text(json.dumps(told))
    assert "has the id 40, and the embedding 40 rows" in recover(pair).notes[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"dtype": "X9"}, {"sha256": 3}, {"exact": [[1]]}, {"exact": [[1, 70000]]}, {"exact": [[-1, 0]]}, {"more": 1},
        {"dtype": "F32", "exact": [[1, 2]]},
    ],
)  # fmt: skip
def test_checksums_that_cannot_be(pair: Path, changed: dict[str, Any]) -> None:
    path = pair / "delta/checksums.json"
    told = json.loads(path.read_text())
    told["tensors"]["model.norm.weight"] |= changed
    path.write_text(json.dumps(told))
    with refused("checksums.json: not checksums of make-delta"):
        recover(pair)
    path.write_text("[")
    with refused("checksums.json: not checksums of make-delta"):
        recover(pair)
    nothing(pair)


def test_no_room(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5_000_000))
    with refused("GB are needed and 0.0 GB are free", "free some space"):
        recover(pair)
    nothing(pair)


def test_a_dry_run_writes_nothing(pair: Path) -> None:
    report = recover(pair, dry_run=True, shard_size="2KB")
    assert (report.written, report.tensors, report.shards) == (False, 6, 5)
    nothing(pair)


def test_the_bytes_do_not_depend_on_the_workers(pair: Path) -> None:
    for workers in (1, 4):
        report = recover(pair, workers=workers, shard_size="1KB", output=pair / f"out{workers}")
        assert report.shards == 6
    assert contents(pair / "out1") == contents(pair / "out4")


def test_damage_is_told(tmp_path: Path) -> None:
    base = state()
    delta = difference(moved(base), base)
    delta["model.norm.weight"][3] = float("nan")
    folder(tmp_path / "base", base)
    folder(tmp_path / "delta", delta)
    report = recover(tmp_path)
    assert report.not_finite == 1
    assert "NaN or infinite" in report.notes[-1]


def test_a_file_that_shrinks_meanwhile(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was finished stays, and the next run goes on from it."""
    kept = arithmetic.Files.read

    def shrinking(self: Any, tensor: Any, start: int, into: memoryview) -> None:
        if tensor.name == "lm_head.weight":
            into = into[: len(into) // 2]
            tensor = tensor._replace(offset=tensor.file.stat().st_size)
        kept(self, tensor, start, into)

    with monkeypatch.context() as patched:
        patched.setattr(arithmetic.Files, "read", shrinking)
        with refused("ends within lm_head"):
            recover(pair, workers=1, shard_size="2KB")
    assert not (pair / "out").exists()
    report = recover(pair, shard_size="2KB")
    assert 0 < report.resumed < report.shards
    assert same(weights(pair / "out"), weights(pair / "tuned"))
    assert not (pair / "out.partial").exists()


@pytest.mark.parametrize("what", ["delta", "settings", "boot"])
def test_what_was_finished_of_another_run_is_not_used(pair: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, refused("No space left on device", "the same command goes on"):
        patched.setattr(run.write, "index", failing)
        recover(pair, shard_size="2KB")
    assert len(list((pair / "out.partial").glob("*.safetensors"))) == 5
    if what == "delta":
        shutil.rmtree(pair / "delta")
        folder(pair / "tuned2", moved(state(), by=0.02))
        make_delta(pair, tuned=str(pair / "tuned2"))
    if what == "boot":
        path = pair / "out.partial/plan.json"
        told = json.loads(path.read_text())
        assert told["boot"]
        path.write_text(json.dumps(told | {"boot": "an earlier one"}))
    report = recover(pair, shard_size="2KB", **({"dtype": "bfloat16"} if what == "settings" else {}))
    assert report.resumed == 0
    right = weights(pair / ("tuned2" if what == "delta" else "tuned"))
    if what != "settings":
        assert same(weights(pair / "out"), right)


def test_bits_are_compared_not_values() -> None:
    zero = torch.tensor([0.0])
    assert not torch.equal(bits(zero), bits(-zero))
