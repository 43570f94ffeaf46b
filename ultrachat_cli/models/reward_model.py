"""Reward models: how good the last answer of a conversation is, as a number; more is better.

UltraRM (UltraFeedback paper, section 3; openbmb/UltraRM-13b) and any sequence classifier of the hub with one label.
Only rewards of one model compare, and of one model those for the same conversation compare best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.models import folders, reward_weights
from ultrachat_cli.models.reward_text import Encoded, Messages, RewardText
from ultrachat_cli.models.reward_weights import Place
from ultrachat_cli.models.specs import ModelSpec

Say = Callable[[str], None]
BATCH_TOKENS = {"cuda": 16384, "cpu": 4096}
"""Tokens of a batch, padding included, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Row:
    """A text of a batch, and the rewards read from it: (which conversation, after which of its tokens)."""

    ids: list[int]
    reads: list[tuple[int, int]]


class RewardModel:
    """One model in memory. Not for several threads at once."""

    def __init__(
        self, name: str, model: Any, text: RewardText, where: Place, *, ultrarm: bool, pad: int | None,
        batch_tokens: int | None = None,
    ) -> None:  # fmt: skip
        """`pad`: id that fills short rows; None: rows of a classifier that knows no such token are never joined."""
        self.name, self.device, self.dtype = name, where.device, where.dtype
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(where.device.type, 4096)
        self.padding: Literal["left", "right"] = "right"
        self._model, self._text, self._ultrarm, self._pad = model, text, ultrarm, pad

    @classmethod
    def open(
        cls, spec: ModelSpec, *, device: str = "auto", dtype: str = "auto", separator: int = 2,
        batch_tokens: int | None = None, say: Say = lambda _: None,
    ) -> RewardModel:  # fmt: skip
        """Fetch if need be, check and load. `separator`: newlines in UltraRM's text, see `reward_text.ultrarm`.

        Raises `ConfigError`, `UltraError` (no reward model, damaged weights, too little memory), `MissingExtra`.
        """
        if separator not in (1, 2):
            raise ConfigError(f"--separator: {separator}: one newline or two")
        where = reward_weights.place(device, dtype)
        if folders.locate(spec) is None and spec.scheme == "hf":  # before 26 GB are fetched in vain
            reward_weights.check_memory(spec.name, folders.tokenizer(spec, say), where)
        folder = folders.obtain(spec, say)
        model, ultrarm = reward_weights.load(spec.name, folder, where)
        config = model.config
        limits = [
            limit for limit in (spec.context, getattr(config, "max_position_embeddings", 0)) if limit and limit > 0
        ]
        bos = getattr(config, "bos_token_id", None)
        text = RewardText(
            folder, None if ultrarm else spec.format, min(limits, default=0), separator=separator, bos=bos
        )
        pad = 0 if ultrarm else config.get_text_config().pad_token_id
        return cls(spec.name, model, text, where, ultrarm=ultrarm, pad=pad, batch_tokens=batch_tokens)

    @property
    def context(self) -> int:
        """Tokens of the longest text, 0 where there is no limit."""
        return self._text.context

    def encode(self, messages: Messages) -> Encoded:
        """Ids of a conversation that ends with an answer; `ValueError` for one that cannot be scored."""
        return self._text.encode(messages)

    def rewards(self, conversations: Sequence[Messages]) -> list[float]:
        """The reward of the last answer of each, in the order given. Raises `ValueError` as `encode`, `UltraError`."""
        encoded = [self.encode(messages) for messages in conversations]
        found = [math.nan] * len(encoded)
        for batch in self.batches(encoded):
            for n, reward in self.run(batch):
                found[n] = reward
        return found

    def batches(self, encoded: Sequence[Encoded]) -> list[list[Row]]:
        """The work cut into batches of texts about as long, the longest first. Equal input gives equal batches.

        A conversation that is the beginning of another, as earlier answers of a dialogue are, is read in passing: what
        comes later does not change a causal model's states. So scoring all answers of a dialogue costs one reading.
        """
        batches: list[list[Row]] = []
        for row in sorted(self._rows(encoded), key=lambda row: (-len(row.ids), row.reads[0][0])):
            joined = bool(batches) and self._pad is not None
            if joined and (len(batches[-1]) + 1) * len(batches[-1][0].ids) <= self.batch_tokens:
                batches[-1].append(row)
            else:
                batches.append([row])
        return batches

    def _rows(self, encoded: Sequence[Encoded]) -> list[Row]:
        rows: list[Row] = []
        # In this order a text comes right before those that begin with it: from behind, they are met first.
        for n in sorted(range(len(encoded)), key=lambda n: (encoded[n].ids, n), reverse=True):
            ids = encoded[n].ids
            read = (n, len(ids) - 1)
            if self._ultrarm and rows and rows[-1].ids[: len(ids)] == ids:
                rows[-1].reads.append(read)
            else:
                rows.append(Row(ids, [read]))
        return rows

    def run(self, batch: list[Row]) -> list[tuple[int, float]]:
        """(which conversation, its reward) of a batch; halves it where the GPU's memory does not suffice."""
        import torch

        try:
            with torch.inference_mode():
                values = self._values(batch).tolist()
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                tokens = len(batch[0].ids)
                raise UltraError(
                    f"{self.name}: {self.device} has too little memory for a text of {tokens:,} tokens",
                    "use a larger GPU, or --dtype bfloat16",
                ) from None
            torch.cuda.empty_cache()
            half = len(batch) // 2
            return self.run(batch[:half]) + self.run(batch[half:])
        if not all(map(math.isfinite, values)):
            raise UltraError(
                f"{self.name}: a reward is not a number in {str(self.dtype).removeprefix('torch.')}",
                "use --dtype bfloat16 or float32; if that is no help, the weights are damaged",
            )
        return list(zip((n for row in batch for n, _ in row.reads), values, strict=True))

    def _values(self, batch: list[Row]) -> Any:
        """float32[n] for all reads of the batch, in order."""
        import torch

        longest = max(len(row.ids) for row in batch)
        ids = torch.full((len(batch), longest), self._pad or 0)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        starts = []
        for n, row in enumerate(batch):
            starts.append(longest - len(row.ids) if self.padding == "left" else 0)
            ids[n, starts[n] : starts[n] + len(row.ids)] = torch.tensor(row.ids)
            mask[n, starts[n] : starts[n] + len(row.ids)] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        if not self._ultrarm:
            return self._model(input_ids=ids, attention_mask=mask).logits[:, 0].float()
        places = [(n, starts[n] + at) for n, row in enumerate(batch) for _, at in row.reads]
        which, at = torch.tensor(places, device=self.device).T
        return self._model(ids, mask, which, at)
