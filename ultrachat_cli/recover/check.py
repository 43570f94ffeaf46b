"""Does it speak? The result loaded by transformers as anybody would, and one prompt answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ultrachat_cli.errors import MissingExtra, UltraError
from ultrachat_cli.machine import available_memory
from ultrachat_cli.models import folders

if TYPE_CHECKING:
    from ultrachat_cli.models.chat_tokens import ChatTokenizer

PROMPT = "Which city is the capital of France, and what is it known for?"
_LONGEST = 64  # tokens


def check_memory(size: int) -> None:
    """`UltraError` when weights of `size` bytes do not fit into this machine's free memory."""
    free = available_memory()
    if size * 1.1 > free:
        raise UltraError(
            f"--check would load {size / 1e9:.1f} GB of weights, and {free / 1e9:.1f} GB of memory are free",
            "leave --check out; the sums are verified without it",
        )


def prompt_of(folder: Path, format: str, system: str) -> tuple[ChatTokenizer, list[int]]:
    """The tokenizer and the ids of the prompt in the model's own chat format; raises as `ChatTokenizer`."""
    from ultrachat_cli.models.chat_tokens import ChatTokenizer  # needed with --check only

    tokenizer = ChatTokenizer(folder, format)
    messages = [{"role": "system", "content": system}] if system else []
    return tokenizer, tokenizer.prompt([*messages, {"role": "user", "content": PROMPT}])


def answer(folder: Path) -> str:
    """The model's greedy answer on the CPU. `UltraError` when it cannot be loaded, or speaks without numbers."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise MissingExtra("--check", "transformers", "train") from error
    spec = folders.of_folder(folder)
    tokenizer, ids = prompt_of(folder, spec.format, spec.system)
    try:
        with folders.hushed():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
        prompt = torch.tensor([ids])
        with torch.inference_mode():
            if not torch.isfinite(model(prompt).logits).all():
                raise UltraError(f"{folder}: its logits are not finite numbers", "recover it in another --dtype")
            said = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=_LONGEST, do_sample=False,
                temperature=None, top_p=None, top_k=None, eos_token_id=tokenizer.end, pad_token_id=tokenizer.end,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UltraError(f"{folder}: transformers cannot load it: {str(error).splitlines()[0]}") from error
    return str(tokenizer.backend.decode(said[0, len(ids) :].tolist(), skip_special_tokens=True)).strip()
