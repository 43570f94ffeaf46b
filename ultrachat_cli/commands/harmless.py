"""Texts of models, servers and files, on their way to a terminal."""

_SEEN = {n: chr(0x2400 + n) for n in range(32) if chr(n) not in "\n\t"} | {0x7F: "\u2421"}
_HIDDEN = dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029], "\ufffd")
_HARMLESS = str.maketrans({**_SEEN, **_HIDDEN, "\r": ""})


def harmless(text: str) -> str:
    """Without what would make a terminal do anything but show it: control characters, reversed writing."""
    return text.translate(_HARMLESS)
