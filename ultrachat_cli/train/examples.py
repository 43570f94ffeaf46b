"""Dialogues become examples: token ids no longer than the limit, with what is learned marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ultrachat_cli.models.chat_tokens import ChatTokenizer, Encoded, Messages, stretches
from ultrachat_cli.records.dialogue import Dialogue


@dataclass(frozen=True)
class Rules:
    """How dialogues become examples; see `TrainConfig`."""

    max_length: int
    overlong: Literal["split", "truncate", "drop"] = "split"
    examples: Literal["dialogue", "turn"] = "dialogue"
    system: str = ""


def encode(
    dialogues: Sequence[Dialogue], tokenizer: ChatTokenizer, rules: Rules, counts: Counter[str]
) -> list[list[Encoded]]:
    """The examples of each dialogue. `counts`: what was split, cut, dropped or had nothing to learn, by name.

    `ValueError` for a dialogue the format cannot hold.
    """
    messages = [_messages(dialogue, rules.system) for dialogue in dialogues]
    if rules.examples == "turn":
        found = [list(_turns(one, tokenizer, rules, counts)) for one in messages]
    else:
        found = [
            [whole] if len(whole.ids) <= rules.max_length else list(_shortened(one, whole, tokenizer, rules, counts))
            for one, whole in zip(messages, tokenizer.encode(messages), strict=True)
        ]
    return [[example for example in examples if _teaches(example, counts)] for examples in found]


def _messages(dialogue: Dialogue, system: str) -> list[dict[str, str]]:
    messages = dialogue.messages
    return [{"role": "system", "content": system}, *messages] if system and dialogue.system is None else messages


def _teaches(example: Encoded, counts: Counter[str]) -> bool:
    """Whether anything is learned from it: the first token is never predicted."""
    if example.learn[1:].any():
        return True
    counts["nothing to learn"] += 1
    return False


def _shortened(
    messages: list[dict[str, str]], whole: Encoded, tokenizer: ChatTokenizer, rules: Rules, counts: Counter[str]
) -> Iterator[Encoded]:
    if rules.overlong == "drop":
        counts["dropped: too long"] += 1
        return
    if rules.overlong == "truncate":
        counts["cut at the end"] += 1
        yield _cut(whole, rules.max_length)
        return
    counts["split"] += 1
    head = messages[:1] if messages[0]["role"] == "system" else []
    spoken = messages[len(head) :]
    rounds = [spoken[n : n + 2] for n in range(0, len(spoken), 2)]
    alone = [len(one.ids) for one in tokenizer.encode([[*head, *turns] for turns in rounds])]
    again = (sum(alone) - len(whole.ids)) // max(1, len(rounds) - 1)  # tokens of a round alone, of its place none
    start = 0
    while start < len(rounds):
        end, total = start + 1, alone[start]
        while end < len(rounds) and total + alone[end] - again <= rules.max_length:
            total += alone[end] - again
            end += 1
        chunk = _joined(head, rounds[start:end], tokenizer)
        while len(chunk.ids) > rules.max_length and end > start + 1:  # the estimate was too low
            end -= 1
            chunk = _joined(head, rounds[start:end], tokenizer)
        if len(chunk.ids) > rules.max_length:
            counts["single rounds cut at the end"] += 1
        yield _cut(chunk, rules.max_length)
        start = end


def _joined(head: Messages, rounds: Sequence[Messages], tokenizer: ChatTokenizer) -> Encoded:
    return tokenizer.encode([[*head, *(message for turns in rounds for message in turns)]])[0]


def _cut(example: Encoded, length: int) -> Encoded:
    return Encoded(example.ids[:length], example.learn[:length])


def _turns(
    messages: list[dict[str, str]], tokenizer: ChatTokenizer, rules: Rules, counts: Counter[str]
) -> Iterator[Encoded]:
    """One example for each assistant turn: half of the room for what came before (its end), half for the answer."""
    room = rules.max_length // 2
    ends = [n + 1 for n, message in enumerate(messages) if message["role"] == "assistant"]
    for end, example in zip(ends, tokenizer.encode([messages[:end] for end in ends]), strict=True):
        learned = stretches(example)
        said = messages[end - 1]["content"].strip()
        if not learned or (not said and learned[-1][0] < len(tokenizer.prompt(messages[: end - 1]))):
            counts["nothing to learn"] += 1  # an empty answer in a format without an end token
            continue
        start, over = learned[-1]
        first, stop = max(0, start - room), min(len(example.ids), start + room)
        counts["beginnings cut"] += first > 0
        counts["answers cut"] += stop < over
        learn = np.zeros(stop - first, np.bool_)
        learn[start - first : over - first] = True
        yield Encoded(example.ids[first:stop], learn)
