"""Which models the fsdp engine takes, and how weights come in."""

from pathlib import Path

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM, LlamaForCausalLM

from tests.train import tiny
from ultrachat_cli.errors import UltraError
from ultrachat_cli.train import model


def test_a_model_whose_logits_are_scaled_is_refused(tmp_path: Path) -> None:
    folder = tiny.llama(tmp_path / "granite")
    config = GraniteConfig(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                           num_attention_heads=2, num_key_value_heads=2, logits_scaling=8.0)  # fmt: skip
    GraniteForCausalLM(config).save_pretrained(folder)
    with pytest.raises(UltraError, match="not its head times") as caught:
        model.empty(folder, 0)
    assert "--engine accelerate" in caught.value.hint


def test_gptj_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UltraError, match="gptj"):
        model.empty(tiny.gptj(tmp_path / "gptj"), 0)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UltraError, match="not a model"):
        model.empty(tmp_path, 0)


@pytest.mark.parametrize("kind", ["one", "shards", "bin"])
def test_rows_come_from_whatever_holds_them(tmp_path: Path, kind: str) -> None:
    """Safetensors whole or in shards, and .bin; a new row is the mean of the old ones; a missing name is an error."""
    folder = tiny.llama(tmp_path / "model")
    made = LlamaForCausalLM.from_pretrained(folder)
    if kind == "shards":
        (folder / "model.safetensors").unlink()
        made.save_pretrained(folder, max_shard_size="50KB")
        assert (folder / "model.safetensors.index.json").is_file()
    elif kind == "bin":
        (folder / "model.safetensors").unlink()
        torch.save(made.state_dict(), folder / "pytorch_model.bin")
    stored = model.Stored(folder)
    right = made.get_input_embeddings().weight.detach()
    name, rows = "model.embed_tokens.weight", right.shape[0]
    torch.testing.assert_close(model.rows_for(stored, name, right.shape, 3, 9), right[3:9])
    grown = model.rows_for(stored, name, torch.Size([rows + 2, right.shape[1]]), rows - 1, rows + 2)
    torch.testing.assert_close(grown, torch.cat([right[-1:], right.mean(0, keepdim=True).expand(2, -1)]))
    with pytest.raises(UltraError, match=r"lm_tail.weight is missing"):
        model.rows_for(stored, "lm_tail.weight", right.shape, 0, 1)
