from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ultrachat_cli.backends.chat_model import ChatModel
from ultrachat_cli.backends.limits import Budget, Limiter, LimitSettings, Usage
from ultrachat_cli.backends.scripted import Answer, ScriptedBackend
from ultrachat_cli.generate import near_duplicates
from ultrachat_cli.models.specs import ModelSpec
from ultrachat_cli.records.journal import Journal

OpenJournal = Callable[[], Journal]
MakeModel = Callable[[Answer], ChatModel]


@pytest.fixture
def open_journal(tmp_path: Path) -> Iterator[OpenJournal]:
    """Opens the same journal again and again; the one before is closed first."""
    opened: list[Journal] = []

    def open_it() -> Journal:
        if opened:
            opened.pop().close()
        opened.append(Journal(tmp_path / "journal.sqlite", near_duplicates.SCHEMA))
        return opened[0]

    yield open_it
    for journal in opened:
        journal.close()


@pytest.fixture
def journal(open_journal: OpenJournal) -> Journal:
    return open_journal()


@pytest.fixture
def make_model(journal: Journal) -> MakeModel:
    """A chat model whose answers are computed by a function; `limiter.usage.requests` counts what was asked."""

    def make(answer: Answer) -> ChatModel:
        limiter = Limiter(LimitSettings(), Usage(), Budget(None))
        spec = ModelSpec(name="scripted", source="scripted:function")
        return ChatModel(spec, ScriptedBackend(answer), limiter, journal, None, 0, "")

    return make
