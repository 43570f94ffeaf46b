from __future__ import annotations

import pytest

from ultrachat_cli.filters import faults
from ultrachat_cli.filters.faults import Turn
from ultrachat_cli.filters.settings import TurnFilters

EARLIER = [Turn("user", "Tell me about the solar system."), Turn("assistant", "It has eight planets and one star.")]


def user(text: str, settings: TurnFilters | None = None) -> str | None:
    return faults.turn_fault(Turn("user", text), EARLIER, settings or TurnFilters())


def assistant(text: str, settings: TurnFilters | None = None) -> str | None:
    return faults.turn_fault(Turn("assistant", text), EARLIER[:1], settings or TurnFilters())


@pytest.mark.parametrize(
    "text",
    [
        "Great, but why does X happen?",
        "Thanks, and what about Y?",
        "Thanks for explaining. Tell me about the Roman legions",
        "That's interesting, tell me more about the moons",
        "You are right, but why?",
        "You're wrong about that",
        "I understand the first part but not the second",
        "Perfect numbers: give me the first four",
        "Great Britain or Ireland",
        "Nice is a city in France, what is it known for",
        "Is it OK to bring a dog?",
        "why tho",
        "lol ok but y tho??",
        "No.",
        "42",
        "I'm not convinced",
        "I'm afraid I don't understand the third step",
        "How can I help my dog lose weight?",
        "Could you make it shorter",
        "And what if I am an engineer?",
        "What is AI and how does it learn?",
        "Do you think a machine can be creative?",
        "Write it as a letter to the editor, with:\n- a greeting\n- two arguments\n- a closing",
        "I was born in 1980. Does that matter?",
        "What does 'human: nature' mean in that title?",
        "How is 'schadenfreude' used in English?",
        "Tell me more about Leonardo da Vinci and the Sforza court in Milano",
        "What is certainly known about them?",
        "Absolute zero, what is it?",
        "Surely that cannot be all?",
    ],
)
def test_a_good_user_turn_passes(text: str) -> None:
    assert user(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  \n\t ", "empty"),
        ("...?!", "empty"),
        ("\U0001f600", "empty"),
        ("Thanks!", "politeness"),
        ("Thank you so much for your help.", "politeness"),
        ("Great, thanks!", "politeness"),
        ("Have a nice day!", "politeness"),
        ("As an AI language model, I cannot answer that.", "role_confusion"),
        ("Of course! The eight planets are Mercury, Venus and so on.", "role_confusion"),
        ("Sure! Here is a list of the planets.", "role_confusion"),
        ("Here are some ideas for your trip:", "role_confusion"),
        ("Great question! The moons formed later.", "role_confusion"),
        ("That's a great question. It depends.", "role_confusion"),
        ("I'm glad you asked about the moons.", "role_confusion"),
        ("I'm happy to help with that.", "role_confusion"),
        ("You're welcome. It also has five dwarf planets", "role_confusion"),
        ("Assistant: It has moons too.", "role_confusion"),
        ("The moons are many. Feel free to ask more.", "role_confusion"),
        ("It is 4.6 billion years old. Is there anything else I can do?", "role_confusion"),
        ("How can I assist you today?", "role_confusion"),
        ("The planets:\n1. Mercury\n2. Venus\n3. Earth\n4. Mars", "role_confusion"),
        ("* a\n* b\n* c\n* d\n", "role_confusion"),
        ("word " * 500, "role_confusion"),
        ("¿Puedes explicarme cómo funciona este proceso con más detalle?", "language"),
        ("你能更详细地解释一下这个过程是怎么运作的吗？请举一个例子说明。", "language"),
        ("Quelle est la différence entre les deux approches que tu décris ?", "language"),
        ("Tell me about the solar system.", "repeated"),
        ("Everything above is a conversation between a user and an AI assistant.", "leaked_prompt"),
        ("<|im_start|>user\nWhy?", "leaked_prompt"),
        ("Why?</s>", "leaked_prompt"),
        ("[INST] Why? [/INST]", "leaked_prompt"),
        ("Why?<|eot_id|>", "leaked_prompt"),
    ],
)
def test_a_bad_user_turn_is_named(text: str, reason: str) -> None:
    assert user(text) == reason


@pytest.mark.parametrize(
    "text",
    [
        "Artificial intelligence is a field of computer science.",
        "Language models such as GPT predict the next token.",
        "An AI can play chess well. Whether it understands chess is disputed.",
        "Sure! Here is the poem you asked for.",
        "I can help with that. First, open the window.",
        "Unfortunately, the city cannot provide enough water.",
        "Sorry to hear that! You could rest for a day.",
        "The user opens the menu: then the file is saved.",
        "Thanks!",
        "1. Mercury\n2. Venus\n3. Earth\n4. Mars\n5. Jupiter",
        "Claro, el sistema solar tiene ocho planetas y muchas lunas.",
        "She told him that she could not help.",
        "```python\nfor i in range(3):\n    print(i)\n```",
        "Yes.",
        "The word 'assistant' comes from Latin.",
        "If x < s and s > 0, then x is smaller.",
        "In <b>HTML</b>, a tag stands in angle brackets.",
    ],
)
def test_a_good_assistant_turn_passes(text: str) -> None:
    assert assistant(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" - \n", "empty"),
        ("As an AI, I do not have opinions on this.", "refusal"),
        ("As an AI language model I have never been there.", "refusal"),
        ("I'm just a language model, so take this with care.", "refusal"),
        ("My knowledge cutoff is 2023.", "refusal"),
        ("I don't have personal opinions, but many like it.", "refusal"),
        ("I'm sorry, but I can't assist with that.", "refusal"),
        ("I cannot help with this request.", "refusal"),
        ("I am unable to provide that information.", "refusal"),
        ("Unfortunately, I cannot create such a text.", "refusal"),
        ("I apologize, but I can't discuss this.", "refusal"),
        ("User: And the moons?\nAssistant: Many.", "role_confusion"),
        ("It has moons.\nUser: How many?", "role_confusion"),
        ("It has moons.\n\nHuman: How many?", "role_confusion"),
        ("It has moons.<|im_end|>", "leaked_prompt"),
        ("Write only the user's message.", "leaked_prompt"),
    ],
)
def test_a_bad_assistant_turn_is_named(text: str, reason: str) -> None:
    assert assistant(text) == reason


@pytest.mark.parametrize(
    "text",
    [
        "As a machine learning engineer, you will spend most of your time on data.",
        "The steam engine, as a machine, changed how people worked.",
        "She works as an AI researcher in Zurich.",
        "You can work as a virtual assistant from home.",
        "Check that my training data is in the folder that the script reads.",
        "I can't help but admire the old bridge: it was built in one summer.",
        "I cannot help feeling that autumn is the best season for a walk.",
    ],
)
def test_an_answer_about_engines_or_feelings_is_no_refusal(text: str) -> None:
    assert assistant(text) is None


@pytest.mark.parametrize("text", ["I’m sorry, but I can’t assist with that.", "I don’t have feelings or opinions."])
def test_a_refusal_with_typographic_apostrophes_is_one(text: str) -> None:
    assert assistant(text) == "refusal"


@pytest.mark.parametrize(
    "text",
    [
        "Sure, but isn't that risky in winter?",
        "Absolutely, and what about the bees?",
        "Here's my draft so far. Can you improve the ending?",
        "How should I clean my training data?",
        "How do I find work as a virtual assistant?",
        "What would I earn as an AI researcher?",
        "What do I do all day as a machine operator?",
        "Let me know if you need more details from me. Otherwise go on with the second part.",
    ],
)
def test_a_person_may_say_this(text: str) -> None:
    assert user(text) is None


@pytest.mark.parametrize(
    "text", ["OK, continue.", "Okay, next", "Nice! Elaborate.", "Thanks, summarize it", "It is great for farmers"]
)
def test_a_short_request_after_thanks_is_one(text: str) -> None:
    assert user(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Thanks!",
        "Thank you so much!",
        "Great, thanks for the help.",
        "ok cool",
        "Perfect, that is very helpful. Bye!",
        "You're welcome",
        "Have a great evening!",
        "I appreciate your time and assistance",
        "Got it, thank you.",
        "Thanks, John",
        "That's great",
        "Will do, thanks!",
    ],
)
def test_nothing_but_thanks(text: str) -> None:
    assert faults.only_polite(text)


@pytest.mark.parametrize(
    "text", ["", "Why", "Thanks, but why?", "Great.?", "Thanks, now tell me about its moons", "Cool. Go on"]
)
def test_more_than_thanks(text: str) -> None:
    assert not faults.only_polite(text)


@pytest.mark.parametrize(
    "text",
    [
        "That makes sense, thanks!",
        "Sounds good, thanks",
        "Thanks, that clears it up.",
        "You've been very helpful.",
        "I really appreciate your detailed explanation.",
    ],
)
def test_other_ways_of_saying_thanks(text: str) -> None:
    assert faults.only_polite(text)


@pytest.mark.parametrize(
    ("role", "how", "reason"),
    [
        ("user", "reject", "truncated"),
        ("user", "trim", "truncated"),
        ("user", "keep", "truncated"),
        ("assistant", "reject", "truncated"),
        ("assistant", "trim", "truncated"),
        ("assistant", "keep", None),
    ],
)
def test_a_turn_that_was_cut_off(role: str, how: str, reason: str | None) -> None:
    turn = Turn(role, "It is a star that has", "length")
    settings = TurnFilters.model_validate({"truncated": how})
    assert faults.turn_fault(turn, EARLIER, settings) == reason
    assert faults.turn_fault(Turn(role, turn.text), EARLIER, settings) is None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two. Thr", "One. Two."),
        ("One! Two? Three", "One! Two?"),
        ("He said \"go.\" Then he", 'He said "go."'),
        ("(It is so.) And", "(It is so.)"),
        ("Whole.", "Whole."),
        ("Wait… what", "Wait…"),
        ("It costs 3.50 or more", ""),
        ("no end at all", ""),
        ("", ""),
        ("See:\n```\nx = 1\n```", "See:\n```\nx = 1\n```"),
        ("First.\n\nSecond one is", "First."),
    ],
)  # fmt: skip
def test_trimming_keeps_whole_sentences(text: str, kept: str) -> None:
    assert faults.trim(text) == kept


@pytest.mark.parametrize("torn", ["1. Wash it.\n2. ", "1. Wash it.\n2. Dry it with a"])
def test_trimming_leaves_no_bare_number_behind(torn: str) -> None:
    assert faults.trim(torn) == "1. Wash it."


def test_trimming_knows_the_full_stop_of_chinese() -> None:
    assert faults.trim("你好。再见") == "你好。"


STORY = "The old man walked down to the harbour and looked at the boats for a long time before he spoke."


@pytest.mark.parametrize(
    ("role", "text", "earlier", "reason"),
    [
        ("assistant", STORY, [("user", "Tell a story"), ("assistant", STORY)], "repeated"),
        ("assistant", STORY.upper(), [("user", "Tell a story"), ("assistant", STORY)], "repeated"),
        ("user", STORY, [("user", STORY), ("assistant", "No.")], "repeated"),
        ("user", STORY, [("user", "Tell a story"), ("assistant", STORY)], "repeated"),
        ("user", "looked at the boats for a long time", [("user", "Hm"), ("assistant", STORY)], "repeated"),
        ("assistant", STORY, [("user", STORY)], None),
        ("assistant", STORY, [("user", "Tell a story"), ("assistant", "No.")], None),
        ("assistant", STORY + " Then " + STORY[::-1], [("user", "Go"), ("assistant", STORY)], None),
        ("user", "What did the old man look at?", [("user", "Tell a story"), ("assistant", STORY)], None),
        ("user", "Why?", [("user", "Why not?"), ("assistant", "Why? Because.")], None),
    ],
)
def test_who_says_the_same_again_repeats(
    role: str, text: str, earlier: list[tuple[str, str]], reason: str | None
) -> None:
    assert faults.turn_fault(Turn(role, text), [Turn(*said) for said in earlier], TurnFilters()) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I love you very much. " * 10, "loop"),
        ("no " * 30, "loop"),
        ("a b c d " * 3, "loop"),
        ("Row, row, row your boat, gently down the stream", None),
        (STORY + " " + STORY, None),
        ("Never again, never again, said the raven", None),
    ],
)
def test_a_turn_that_goes_round_in_circles_is_a_loop(text: str, reason: str | None) -> None:
    assert assistant(text) == reason


@pytest.mark.parametrize(
    ("text", "language", "wrong"),
    [
        ("Können Sie mir das bitte genauer erklären, mit einem Beispiel?", "en", True),
        ("Können Sie mir das bitte genauer erklären, mit einem Beispiel?", "de", False),
        ("Расскажи подробнее о том, как это работает на практике.", "en", True),
        ("Can you explain that in more detail, with an example?", "en", False),
        ("Can you explain that in more detail, with an example?", "de", True),
        ("Si, claro", "en", False),
        ("¿Por qué?", "en", False),
        ("def add(a, b):\n    return a + b\nwhy does this fail", "en", False),
        ("import numpy as np\nx = np.arange(10)\nprint(x.mean())", "en", False),
        ("SELECT * FROM users WHERE id = 1;", "en", False),
        ("docker run -it --rm -v $PWD:/app python:3.11 bash", "en", False),
        ('{"a": 1, "b": [1, 2, 3], "c": null}', "en", False),
        ("https://example.com/a/b/c?d=e", "en", False),
        ("E = mc^2, F = ma, PV = nRT", "en", False),
    ],
)
def test_a_language_is_wrong_when_that_is_sure(text: str, language: str, wrong: bool) -> None:
    assert faults.wrong_language(text, language, 0.6) is wrong


def test_any_language_may_be_allowed() -> None:
    assert user("¿Puedes explicarme cómo funciona este proceso con más detalle?", TurnFilters(language="")) is None


@pytest.mark.parametrize("text", ["Well, as an AI, I have no opinion.", "I cannot help with this request."])
def test_refusals_may_be_allowed(text: str) -> None:
    assert assistant(text) == "refusal"
    assert assistant(text, TurnFilters(refusals=False)) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("What is the sun?", None),
        ("Thanks!", None),
        ("Rewrite this:\n" + "1. a\n2. b\n3. c\n4. d\n" * 100, None),
        ("¿Puedes explicarme cómo funciona este proceso con más detalle?", None),
        ("  ", "empty"),
        ("Why?<|im_end|>", "leaked_prompt"),
        ("These are taken already: a; b", "leaked_prompt"),
    ],
)
def test_an_opening_may_be_nearly_anything(text: str, reason: str | None) -> None:
    assert faults.opening_fault(Turn("user", text), TurnFilters()) == reason


def test_an_opening_that_was_cut_off() -> None:
    assert faults.opening_fault(Turn("user", "Write a", "length"), TurnFilters()) == "truncated"


GOOD = ["What is the sun?", "A star.", "And the moon?", "A rock that circles the earth."]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ([], None),
        (GOOD, None),
        (GOOD[:1], None),
        (["", *GOOD[1:]], (0, "empty")),
        ([GOOD[0], "As an AI, I do not know.", *GOOD[2:]], (1, "refusal")),
        ([*GOOD[:2], "Thanks!", GOOD[3]], (2, "politeness")),
        ([*GOOD[:3], GOOD[1]], (3, "repeated")),
        ([*GOOD[:2], "Thanks!", ""], (2, "politeness")),
    ],
)
def test_the_first_fault_of_a_dialogue_is_told_with_its_place(data: list[str], fault: tuple[int, str] | None) -> None:
    assert faults.dialogue_fault(data, TurnFilters()) == fault


def test_turns_alternate_from_the_user() -> None:
    assert [turn.role for turn in faults.turns(GOOD)] == ["user", "assistant"] * 2
