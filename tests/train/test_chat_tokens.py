"""What the model sees and what it learns, token by token."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import chain
from pathlib import Path

import orjson
import pytest
from tokenizers import AddedToken, Tokenizer

from tests.commands.checks import weights_or_skip
from tests.train.vocabularies import CHATML, LLAMA3, byte_level, sentencepiece
from ultrachat_cli.errors import ConfigError, UltraError
from ultrachat_cli.models import folders, gguf_tokenizer, specs, text_tokens, weights
from ultrachat_cli.models.chat_tokens import ChatTokenizer, Encoded, stretches
from ultrachat_cli.models.formats import FORMATS, TOKENIZER
from ultrachat_cli.records.dialogue import Dialogue
from ultrachat_cli.train import examples
from ultrachat_cli.train.examples import Rules

B = "\u2581"
Talk = list[dict[str, str]]
JINJA_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' "
    "+ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
JINJA_LLAMA2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'].strip() + eos_token }}{% else %}{{ raise_exception('only users and assistants') }}"
    "{% endif %}{% endfor %}"
)


def talk(*texts: str, system: str | None = None) -> Talk:
    spoken = [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]
    return spoken if system is None else [{"role": "system", "content": system}, *spoken]


def shown(tokenizer: ChatTokenizer, messages: Talk) -> list[str]:
    """Tokens; learned ones begin with a `+`."""
    encoded = tokenizer.encode([messages])[0]
    names = map(tokenizer.backend.id_to_token, encoded.ids.tolist())
    return [f"+{name}" if learn else name for name, learn in zip(names, encoded.learn.tolist(), strict=True)]


def learned(tokenizer: ChatTokenizer, messages: Talk) -> list[str]:
    """The text of every learned stretch."""
    encoded = tokenizer.encode([messages])[0]
    return [
        tokenizer.backend.decode(encoded.ids[a:b].tolist(), skip_special_tokens=False) for a, b in stretches(encoded)
    ]


def whole(tokenizer: ChatTokenizer, messages: Talk) -> str:
    return str(tokenizer.backend.decode(tokenizer.encode([messages])[0].ids.tolist(), skip_special_tokens=False))


@pytest.fixture(autouse=True, params=["few", "many"])
def texts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenized by the tokenizer, or looked up by words."""
    monkeypatch.setattr(text_tokens, "_MANY", 0 if request.param == "many" else 1 << 20)


@pytest.fixture(params=[*FORMATS, "jinja", "jinja-llama2"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> ChatTokenizer:
    """One for each format."""
    return made(request.param, tmp_path)


def made(name: str, folder: Path) -> ChatTokenizer:
    if name == "jinja":
        return ChatTokenizer(byte_level(folder, template=JINJA_CHATML), TOKENIZER)
    if name == "jinja-llama2":
        return ChatTokenizer(sentencepiece(folder, template=JINJA_LLAMA2), TOKENIZER)
    if name in ("chatml", "gptj-legacy"):
        return ChatTokenizer(byte_level(folder), name)
    if name == "llama-3":
        return ChatTokenizer(byte_level(folder, LLAMA3, bos=LLAMA3[0]), name)
    return ChatTokenizer(sentencepiece(folder), name)


def test_ultralm_is_tokenized_piece_by_piece_as_its_authors_did(tmp_path: Path) -> None:
    """Each piece has SentencePiece's own space before it; a header's last space is a token; line breaks are bytes."""
    tokenizer = ChatTokenizer(sentencepiece(tmp_path), "ultralm")
    assert shown(tokenizer, talk("Hi", "Hi", "the", "Hi")) == [
        "<s>", f"{B}User", ":", f"{B}Hi", "</s>",
        B, "<0x0A>", "Assistant", ":", B, f"+{B}Hi", "+</s>",
        B, "<0x0A>", "U", "s", "e", "r", ":", f"{B}the", "</s>",
        B, "<0x0A>", "Assistant", ":", B, f"+{B}Hi", "+</s>",
    ]  # fmt: skip
    assert shown(tokenizer, talk("Hi", "Hi", system="Hi"))[:10] == [
        "<s>", f"{B}User", ":", f"{B}Hi", "</s>", B, "<0x0A>", "U", "s", "e",
    ]  # fmt: skip
    newer = ChatTokenizer(sentencepiece(tmp_path / "newer", metaspace=True), "ultralm")
    assert shown(newer, talk("Hi", "Hi", "the", "Hi")) == shown(tokenizer, talk("Hi", "Hi", "the", "Hi"))


def test_ultralm_equals_its_pieces_tokenized_alone(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(sentencepiece(tmp_path), "ultralm")
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    pieces = ["<s>User: What the é?</s>", "\nAssistant: ", " Hi\nthe </s>", "\nUser: </s>", "\nAssistant: ", "x</s>"]
    ids = [plain.encode(piece, add_special_tokens=False).ids for piece in pieces]
    encoded = tokenizer.encode([talk("What the é?", " Hi\nthe ", "", "x")])[0]
    assert encoded.ids.tolist() == list(chain.from_iterable(ids))
    assert encoded.learn.tolist() == [n in (2, 5) for n, piece in enumerate(ids) for _ in piece]


def test_ultralm_65b_ends_answers_only(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(sentencepiece(tmp_path), "ultralm-65b")
    tokens = shown(tokenizer, talk("Hi", "Hi", "the", "Hi"))
    assert tokens[:4] == ["<s>", f"{B}User", ":", f"{B}Hi"]
    assert [n for n, token in enumerate(tokens) if "</s>" in token] == [n for n, t in enumerate(tokens) if t == "+</s>"]


def test_chatml(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(byte_level(tmp_path), "chatml")
    assert shown(tokenizer, talk("the river", " river", system="stop")) == [
        "<|im_start|>", "system", "Ċ", "stop", "<|im_end|>", "Ċ",
        "<|im_start|>", "user", "Ċ", "the", "Ġriver", "<|im_end|>", "Ċ",
        "<|im_start|>", "assistant", "Ċ", "+Ġriver", "+<|im_end|>", "Ċ",
    ]  # fmt: skip


def test_llama_3_begins_with_bos(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(byte_level(tmp_path, LLAMA3, bos=LLAMA3[0]), "llama-3")
    assert shown(tokenizer, talk("the", "the")) == [
        "<|begin_of_text|>", "<|start_header_id|>", "user", "<|end_header_id|>", "Ċ", "Ċ", "the", "<|eot_id|>",
        "<|start_header_id|>", "assistant", "<|end_header_id|>", "Ċ", "Ċ", "+the", "+<|eot_id|>",
    ]  # fmt: skip


def test_llama_2_opens_and_closes_each_round(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(sentencepiece(tmp_path), "llama-2")
    inst = [B, "[", "I", "N", "S", "T", "]"]
    end = [B, "[", "/", "I", "N", "S", "T", "]"]
    assert shown(tokenizer, talk("Hi", "Hi", "the", "Hi")) == [
        "<s>", *inst, f"{B}Hi", *end, f"+{B}Hi", f"+{B}", "+</s>",
        "<s>", *inst, f"{B}the", *end, f"+{B}Hi", f"+{B}", "+</s>",
    ]  # fmt: skip
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "<s>[INST] <<SYS>>\nthe\n<</SYS>>\n\nHi [/INST] Hi </s><s>[INST] x [/INST] y </s>"
    ids = plain.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode([talk("Hi", "Hi", "x", "y", system="the")])[0].ids.tolist() == ids


def test_gptj_legacy_learns_the_last_answer_only(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(byte_level(tmp_path), "gptj-legacy")
    assert learned(tokenizer, talk("the", "river", "the", "stop")) == [" stop<|endoftext|>"]


@pytest.mark.parametrize("metaspace", [False, True])
def test_no_space_comes_in_where_learning_begins(tmp_path: Path, metaspace: bool) -> None:
    """A SentencePiece tokenizer puts a space before a text: at its beginning, not where it was cut for us."""
    tokenizer = ChatTokenizer(sentencepiece(tmp_path, special=CHATML, metaspace=metaspace), "chatml")
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    messages = talk("Hi", "Hi", " the", " x")
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    assert tokenizer.encode([messages])[0].ids.tolist() == plain.encode(text, add_special_tokens=False).ids
    assert shown(tokenizer, messages).count("+Hi") == 1


def test_learned_is_what_the_assistant_says_and_its_end(tokenizer: ChatTokenizer) -> None:
    found = learned(tokenizer, talk("the river", "stop", "and", "Assist"))
    assert tokenizer.end is not None
    end = tokenizer.backend.id_to_token(tokenizer.end)
    said = ["Assist"] if tokenizer.format == "gptj-legacy" else ["stop", "Assist"]
    assert [text.replace(end, "").strip() for text in found] == said
    assert all(text.endswith(end) and text.count(end) == 1 for text in found)


HARD = [
    "", " ", "  two spaces  ", "\n\nbreaks\n", "é ß 漢字 🙂 \u200b", "</s>", "a </s> b <s>",
    "<|im_end|>\n<|im_start|>user", "<|eot_id|>", "[INST] x [/INST]", "user", "assistant\n", "{{ x }} {% y %}",
    "\ttab\r\nline",
]  # fmt: skip


@pytest.mark.parametrize("text", HARD)
def test_a_prompt_is_how_the_training_text_begins(tokenizer: ChatTokenizer, text: str) -> None:
    for system in (None, "stop"):
        if system and tokenizer.format == TOKENIZER and "<|im_end|>" not in tokenizer.settings["chat_template"]:
            continue  # that template has no place for one
        messages = talk(text, text, text, "river", system=system)
        encoded = tokenizer.encode([messages])[0]
        assert tokenizer.prompt(messages[:-1]) == encoded.ids[: stretches(encoded)[-1][0]].tolist()
        assert len(encoded.ids) == len(encoded.learn)
        if tokenizer.format != "gptj-legacy":
            n = 1 + (system is not None)
            assert tokenizer.prompt(messages[:n]) == encoded.ids[: stretches(encoded)[0][0]].tolist()
            assert len(stretches(encoded)) == 2


@pytest.mark.parametrize("text", HARD)
def test_words_that_spell_special_tokens_stay_words(tokenizer: ChatTokenizer, text: str) -> None:
    """There are as many special tokens as without the text, and the text is all there."""
    special = {n for n, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special}

    def count(messages: Talk) -> int:
        return sum(n in special for n in tokenizer.encode([messages])[0].ids.tolist())

    assert count(talk(text, text, text, text)) == count(talk("a", "a", "a", "a"))
    assert learned(tokenizer, talk("a", f"x{text}y"))[0].count(f"x{text}y") == 1
    assert f"x{text}y" in whole(tokenizer, talk(f"x{text}y", "a"))


def test_the_mask_is_right_around_words_that_spell_special_tokens(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(sentencepiece(tmp_path), "ultralm")
    assert shown(tokenizer, talk("the</s>", "Hi</s>")) == [
        "<s>", f"{B}User", ":", f"{B}the", "<", "/", "s", ">", "</s>",
        B, "<0x0A>", "Assistant", ":", B, f"+{B}Hi", "+<", "+/", "+s", "+>", "+</s>",
    ]  # fmt: skip


def test_end_tokens_that_are_not_called_special_are_so_here(tmp_path: Path) -> None:
    added = [AddedToken("<|im_start|>", special=False), AddedToken("<|im_end|>", special=False)]
    byte_level(tmp_path, ["<|endoftext|>"], eos="<|im_end|>")
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain.add_tokens(added)
    plain.save(str(tmp_path / "tokenizer.json"))
    tokens = shown(ChatTokenizer(tmp_path, "chatml"), talk("a<|im_end|>", "<|im_end|>"))
    assert tokens.count("<|im_end|>") == tokens.count("+<|im_end|>") == 1


def test_tokens_that_take_in_the_white_space_after_them(tmp_path: Path) -> None:
    """As Phi's do: <|assistant|> and the line break are one token."""
    special = [AddedToken(f"<|{name}|>", rstrip=True) for name in ("user", "assistant", "end")]
    template = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    tokenizer = ChatTokenizer(byte_level(tmp_path, special, eos="<|end|>", template=template), TOKENIZER)
    assert shown(tokenizer, talk("the", "the")) == ["<|user|>", "the", "<|end|>", "<|assistant|>", "+the", "+<|end|>"]


def test_a_template_shipped_with_the_weights_is_rendered_by_transformers(tmp_path: Path) -> None:
    by_template = ChatTokenizer(byte_level(tmp_path, template=JINJA_CHATML), TOKENIZER)
    by_format = ChatTokenizer(tmp_path, "chatml")
    messages = talk("user", "im_end", "", "\nriver ", system="system")
    assert shown(by_template, messages) == shown(by_format, messages)
    assert by_template.end == by_format.end
    assert by_template.prompt(messages[:2]) == by_format.prompt(messages[:2])


def test_the_end_of_an_answer_is_the_templates_not_the_tokenizers(tmp_path: Path) -> None:
    """As Gemma has it: turns end with another token than texts."""
    byte_level(tmp_path, template=JINJA_CHATML, eos="<|endoftext|>")
    tokenizer = ChatTokenizer(tmp_path, TOKENIZER)
    assert learned(tokenizer, talk("the", "river")) == ["river<|im_end|>"]
    assert tokenizer.backend.id_to_token(tokenizer.end) == "<|im_end|>"


def test_a_template_without_an_end_learns_the_text(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = ChatTokenizer(byte_level(tmp_path, template=template), TOKENIZER)
    assert learned(tokenizer, talk("the", "river", "a", "")) == ["river"]
    counts: Counter[str] = Counter()
    rules = Rules(64, examples="turn")
    found = examples.encode([Dialogue("", ["the", "river", "a", ""])], tokenizer, rules, counts)[0]
    assert len(found) == 1
    assert counts["nothing to learn"] == 1


def test_a_template_may_trim_what_is_said(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer(sentencepiece(tmp_path, template=JINJA_LLAMA2), TOKENIZER)
    assert shown(tokenizer, talk(" Hi\n", "  the ")) == [
        "<s>", B, "[", "I", "N", "S", "T", "]", f"{B}Hi", B, "[", "/", "I", "N", "S", "T", "]", f"+{B}the", "+</s>",
    ]  # fmt: skip


ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
REWRITES = {
    "hides thoughts of earlier turns": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if loop.last or m['role'] == 'user' %}"
        "{{ m['content'] }}{% else %}{{ m['content'].split('</think>')[-1] }}{% endif %}{{ '<|im_end|>\n' }}"
        "{% endfor %}" + ASKS,
        talk("a", "<think>hm</think>b", "c", "d"),
        "alters what is said",
    ),
    "drops old rounds": (
        "{% for m in messages[-2:] %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
        "{% endfor %}" + ASKS,
        talk("a", "b", "c", "d"),
        "does not say once what each message says",
    ),
    "numbers the rounds from the end": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + (messages|length - loop.index)|string + '\n' "
        "+ m['content'] + '<|im_end|>\n' }}{% endfor %}" + ASKS.replace("assistant", "assistant0"),
        talk("a", "b", "c", "d"),
        "rewrites earlier turns",
    ),
    "refuses": (JINJA_LLAMA2, talk("a", "b", system="c"), "refuses it: only users and assistants"),
    "breaks": (
        "{% if messages|length == 4 and 1 / 0 %}{% endif %}" + JINJA_CHATML,
        talk("a", "b", "c", "d"),
        "refuses it: division by zero",
    ),
}


@pytest.mark.parametrize("name", REWRITES)
def test_what_a_template_makes_of_a_conversation_must_be_learnable(tmp_path: Path, name: str) -> None:
    template, messages, reason = REWRITES[name]
    if name == "numbers the rounds from the end":  # already one round shows it
        with pytest.raises(ConfigError, match=reason):
            ChatTokenizer(byte_level(tmp_path, template=template), TOKENIZER)
        return
    tokenizer = ChatTokenizer(byte_level(tmp_path, template=template), TOKENIZER)
    with pytest.raises(ValueError, match=reason):
        tokenizer.encode([messages])
    assert tokenizer.encode([talk("a", "b")])


def test_templates_in_the_tokenizers_settings_are_found(tmp_path: Path) -> None:
    byte_level(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    several = [{"name": "rag", "template": "x"}, {"name": "default", "template": JINJA_CHATML}]
    for template in (JINJA_CHATML, several):
        path.write_bytes(orjson.dumps({"eos_token": "<|im_end|>", "chat_template": template}))
        assert learned(ChatTokenizer(tmp_path, TOKENIZER), talk("the", "river")) == ["river<|im_end|>"]


def test_wrong_folders_are_told(tmp_path: Path) -> None:
    byte_level(tmp_path)
    with pytest.raises(ConfigError, match="no chat template"):
        ChatTokenizer(tmp_path, TOKENIZER)
    with pytest.raises(ConfigError, match="unknown chat format 'vicuna'"):
        ChatTokenizer(tmp_path, "vicuna")
    with pytest.raises(ConfigError, match="ends an answer with </s>, which is not one token"):
        ChatTokenizer(tmp_path, "ultralm")
    byte_level(tmp_path / "3", LLAMA3)
    with pytest.raises(ConfigError, match="names none"):
        ChatTokenizer(tmp_path / "3", "llama-3")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UltraError, match="not a tokenizer"):
        ChatTokenizer(tmp_path, "chatml")


def test_it_travels_to_other_processes_without_its_tables(tokenizer: ChatTokenizer) -> None:
    messages = talk("the", "river")
    sent = pickle.dumps(tokenizer)
    assert len(sent) < 1000
    assert shown(pickle.loads(sent), messages) == shown(tokenizer, messages)


def test_many_at_once_are_as_one_by_one(tokenizer: ChatTokenizer) -> None:
    talks = [talk(text, text) for text in HARD if text.strip()]
    together = tokenizer.encode(talks)
    for one, encoded in zip(talks, together, strict=True):
        alone = tokenizer.encode([one])[0]
        assert alone.ids.tolist() == encoded.ids.tolist()
        assert alone.learn.tolist() == encoded.learn.tolist()
    assert tokenizer.encode([]) == []


def test_stretches() -> None:
    import numpy as np

    learn = np.array([1, 0, 1, 1, 0], np.bool_)
    assert stretches(Encoded(np.zeros(5, np.int32), learn)) == [(0, 1), (2, 4)]
    assert stretches(Encoded(np.zeros(0, np.int32), learn[:0])) == []


VARIED = [
    "Rivers shape valleys.", "  leading", "trailing  ", "\n\n\nbreaks\n", "12345 + 678 = 13023?", "don't can't I'll",
    "é ß ñ 漢字かな 한국어 🙂🏽 \u200b\u00a0", "def f(x):\n\treturn x**2  # ok\n", "<|not special|> <|im", "a" * 300,
    "...!!!???", "МОСКВА и Київ", "x\r\ny", "https://example.org/?q=1&r=2",
]  # fmt: skip


@pytest.mark.embedded
def test_smollm2_has_the_tokens_of_its_gguf_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The folder made from the GGUF file, quietly, tokenizes as the file itself says."""
    weights_or_skip()
    from transformers.utils import logging

    monkeypatch.setenv("ULTRACHAT_CACHE", str(tmp_path))
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    spec = specs.resolve("smollm2-135m")
    said: list[str] = []
    folder = folders.tokenizer(spec, said.append)
    assert folders.tokenizer(spec, said.append) == folder
    assert len(said) == 1
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    tokenizer = ChatTokenizer(folder, spec.format)
    plain = gguf_tokenizer.load(weights.obtain(spec, print))
    names = {name: plain.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>")}
    for user, assistant in zip(VARIED, VARIED[1:] + VARIED[:1], strict=True):
        wanted: list[int] = []
        for role, text in (("user", user), ("assistant", assistant)):
            head = plain.encode(f"{role}\n" + (text if role == "user" else "")).ids
            said_ids = plain.encode(text).ids if role == "assistant" else []
            wanted += [names["<|im_start|>"], *head, *said_ids, names["<|im_end|>"], *plain.encode("\n").ids]
        assert tokenizer.encode([talk(user, assistant)])[0].ids.tolist() == wanted
