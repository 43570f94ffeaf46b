"""UltraRM as a model: a LLaMA whose last hidden states become rewards. Needs torch; imported where it is used."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel

HEAD = "regression_head.weight"
"""The name of the head's weights, by which such a folder is known."""


class UltraRM(LlamaPreTrainedModel):  # type: ignore[no-untyped-call]
    """Weights `model.*` and `regression_head.weight` [1, hidden], as published (openbmb/UltraRM-13b, its card)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.regression_head = nn.Linear(config.hidden_size, 1, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, row: torch.Tensor, at: torch.Tensor
    ) -> Any:
        """Rewards float32[n] after token `at[i]` of `input_ids[row[i]]`; ids and mask int64[B, T], the others int64[n].

        The head works in fp32: bf16 rewards of 2 to 4 would be multiples of 1/64.
        """
        hidden = self.model(input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return (hidden[row, at].float() @ self.regression_head.weight.float().T).squeeze(-1)
