"""What a line that begins with a slash does: the table of commands, and the one place that runs them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from ultrachat_cli.chat import asking, settings
from ultrachat_cli.chat.session import Session
from ultrachat_cli.errors import UltraError
from ultrachat_cli.models import formats
from ultrachat_cli.registry import did_you_mean

_SHOWN = 72  # characters of a turn in a list


class Leave(Exception):
    """The conversation is to end."""


@dataclass(frozen=True)
class Command:
    """One of the commands."""

    arguments: str
    about: str
    run: Callable[[Session, str], Awaitable[None]]


async def run(session: Session, line: str) -> None:
    """Do what `line` says: a command, or a message, which may begin with a slash when that is doubled.

    Raises `UltraError` for what cannot be done, `Leave` at /exit.
    """
    if not line.startswith("/"):
        await session.say(line)
        return
    if line.startswith("//"):
        await session.say(line[1:])
        return
    name, _, argument = line[1:].partition(" ")
    if "\n" in name:  # `/system` and its text on the next line
        name, _, rest = line[1:].partition("\n")
        argument = rest
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is None:
        near = did_you_mean(name, [*COMMANDS, *ALIASES]).replace("'", "'/", 1)
        hint = "/help lists the commands; a message that begins with a slash: //" + name
        raise UltraError(f"unknown command '/{name}'{near}", hint)
    await command.run(session, argument.strip())


async def _help(session: Session, _: str) -> None:
    rows = [(f"/{name} {command.arguments}".rstrip(), command.about) for name, command in COMMANDS.items()]
    keys = [
        ("Alt-Enter", "a new line; in /multi mode: send"),
        ("Ctrl-X Ctrl-E", "write the message in $EDITOR"),
        ("Ctrl-C", "stop the answer (what came is kept), or clear the line; twice: leave"),
        ("Ctrl-D", "leave"),
    ]
    session.screen.rows([*rows, *keys])


async def _system(session: Session, text: str) -> None:
    if text:
        session.talk.system = "" if text in ("none", '""') else text
        session.keep()
    session.screen.rows([("system", session.talk.system or "(none)")])


async def _set(session: Session, text: str) -> None:
    name, _, value = text.replace("=", " ", 1).partition(" ")
    if name == "best_of":
        _set_best_of(session, value.strip())
    elif name:
        session.sampling = settings.changed(session.sampling, name, value.strip())
        session.keep()
    values = {**settings.effective(session.sampling, session.model.spec), "best_of": session.best_of}
    own = session.sampling.model_dump()
    wanted = settings.ALIASES.get(name, name)
    session.screen.rows(
        [
            (key, f"{'-' if value is None else value}" + _origin(key, value, own))
            for key, value in values.items()
            if not name or key == wanted
        ]
    )


def _origin(key: str, value: object, own: dict[str, object]) -> str:
    if key == "best_of" or own.get(key) is not None:
        return ""
    return " (left to the backend)" if value is None else " (the model's own)"


def _set_best_of(session: Session, value: str) -> None:
    if not value.isdecimal() or not 1 <= int(value) <= 256:
        raise UltraError(f"best_of {value}: a number from 1 to 256 is expected")
    if int(value) > 1 and session.asker.scorer is None:
        raise UltraError(*asking.NO_SCORER)
    session.best_of = int(value)


async def _regen(session: Session, _: str) -> None:
    await session.regenerate()


async def _edit(session: Session, argument: str) -> None:
    number, _, text = argument.partition(" ")
    before = session.talk.round(_number(number, "/edit N [text]"))
    text = text.strip() or await session.screen.write(before.user, editor=False)
    if text.strip():
        await session.edit(int(number), text)
    else:
        session.screen.say("nothing was written; nothing changes")


def _number(text: str, usage: str) -> int:
    if not text.isdecimal():
        raise UltraError(f"'{text}' is not a number" if text else "a number is expected", f"{usage}")
    return int(text)


async def _undo(session: Session, _: str) -> None:
    gone = session.talk.undo()
    session.candidates = []
    session.keep()
    session.screen.say(f"dropped: {_short(gone.user)}")


async def _history(session: Session, _: str) -> None:
    rows: list[tuple[str, str]] = []
    for n, said in enumerate(session.talk.rounds, start=1):
        mark = " (interrupted)" if said.facts.get("finish") == "interrupted" else ""
        rows += [(f"{n} user", _short(said.user)), ("  model", _short(said.answer or "(no answer yet)") + mark)]
    session.screen.rows(rows or [("history", "nothing was said yet")])


def _short(text: str) -> str:
    line = " ".join(text[: 4 * _SHOWN].split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


async def _save(session: Session, name: str) -> None:
    session.screen.say(f"saved in {session.save(name)}")


async def _load(session: Session, name: str) -> None:
    if not name:
        raise UltraError("which one?", "/load FILE, /load FILE#NUMBER, /load FILE#ID or /load last")
    await session.load(name)
    loaded(session)


def loaded(session: Session) -> None:
    """Tell what was taken over."""
    rounds = len(session.talk.rounds)
    session.screen.say(f"{session.talk.id}: {rounds} round{'' if rounds == 1 else 's'}, with {session.endpoint.model}")
    if session.talk.pending:
        session.screen.say("its last question has no answer; /regen asks again")


async def _export(session: Session, name: str) -> None:
    if not name:
        raise UltraError("where to?", "/export FILE.jsonl")
    session.screen.say(f"added to {session.export(name)}")


async def _model(session: Session, name: str) -> None:
    if name:
        name, _, chat_format = name.rpartition(" ") if name.rpartition(" ")[2] in formats.FORMATS else (name, "", "")
        base_url = None if ":" in name and not name.startswith("openai:") else session.config.base_url
        await session.open(replace(session.endpoint, model=name, base_url=base_url, format=chat_format))
    context = f", context of {session.asker.context:,} tokens" if session.asker.context else ""
    session.screen.say(f"{session.endpoint.model} ({session.model.url}{context})")


async def _best(session: Session, argument: str) -> None:
    word, _, number = argument.partition(" ")
    if not argument:
        if not session.candidates:
            raise UltraError("the last answer has no other candidates", "--best-of N --reward-model NAME makes some")
        rows = [(f"{n}  {c.score:.4g}", _short(c.completion.text)) for n, c in enumerate(session.candidates, start=1)]
        session.screen.rows(rows)
    elif word == "pick":
        chosen = session.pick(_number(number.strip(), "/best pick N"))
        session.screen.text(chosen.completion.text)
    else:
        shown = session.candidate(_number(word, "/best, /best N, /best pick N"))
        session.screen.text(shown.completion.text)
        session.screen.say(f"score {shown.score:.4g}; /best pick {word} goes on with it")


async def _stats(session: Session, _: str) -> None:
    usage, asker = session.models.usage, session.asker
    rows = [("rounds", f"{len(session.talk.rounds):,}"), *session.totals.rows()]
    held = f" of {asker.context:,} tokens" if asker.context else ", of unknown size"
    rows.append(("context", f"{await asker.used(session.talk):,}{held}"))
    if asker.dropped:
        rows.append(("left out", f"the oldest {asker.dropped} rounds"))
    if session.model.served:
        price = session.model.price
        rows.append(("cost", f"${usage.cost:.4f}" if price else "unknown: no price is known for this model"))
    session.screen.rows(rows)


async def _multi(session: Session, _: str) -> None:
    session.multi = not session.multi
    ways = "Enter begins a new line, Alt-Enter sends" if session.multi else "Enter sends, Alt-Enter begins a new line"
    session.screen.say(ways)


async def _editor(session: Session, text: str) -> None:
    written = (await session.screen.write(text, editor=True)).strip()
    if written:
        await session.say(written)
    else:
        session.screen.say("nothing was written")


async def _copy(session: Session, argument: str) -> None:
    rounds = session.talk.rounds
    said = session.talk.round(_number(argument, "/copy [N]") if argument else len(rounds))
    if said.answer is None:
        raise UltraError("there is no answer to copy yet")
    session.screen.copy(said.answer)
    session.screen.say(f"copied {len(said.answer):,} characters (OSC 52: not every terminal takes them)")


async def _clear(session: Session, _: str) -> None:
    kept = session.keep()
    session.begin()
    session.screen.clear()
    session.screen.say("a new conversation" + (f"; the one before is in {kept}" if kept else ""))


async def _exit(session: Session, _: str) -> None:
    raise Leave


COMMANDS = {
    "help": Command("", "this list", _help),
    "system": Command("[TEXT]", "show or set the system prompt (none: without)", _system),
    "set": Command("[NAME VALUE]", "show or set temperature, top_p, max_new_tokens, seed, ...", _set),
    "regen": Command("", "ask for the last answer again", _regen),
    "edit": Command("N [TEXT]", "change user turn N, drop what follows, ask again", _edit),
    "undo": Command("", "drop the last round", _undo),
    "history": Command("", "list what was said, by number", _history),
    "best": Command("[N | pick N]", "list the candidates of the last answer, show one, go on with one", _best),
    "save": Command("[FILE]", "keep the conversation in a file, with its settings", _save),
    "load": Command("FILE[#N]", "go on with one from a file (last: the one before)", _load),
    "export": Command("FILE", "add the conversation to a JSONL dataset", _export),
    "model": Command("[NAME [FORMAT]]", "show the model, or go on with another", _model),
    "stats": Command("", "rounds, tokens, speed, context, cost", _stats),
    "multi": Command("", "switch: Enter begins a new line instead of sending", _multi),
    "editor": Command("[TEXT]", "write the message in $EDITOR", _editor),
    "copy": Command("[N]", "copy the last answer, or that of round N", _copy),
    "clear": Command("", "begin a new conversation", _clear),
    "exit": Command("", "leave", _exit),
}
ALIASES = {
    "quit": "exit",
    "q": "exit",
    "bye": "exit",
    "?": "help",
    "regenerate": "regen",
    "retry": "regen",
    "new": "clear",
}
