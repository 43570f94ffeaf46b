"""Assistance on existing materials: a piece of text, instructions about it, and a template that joins the two."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from itertools import islice

from ultrachat_cli.generate import shipped
from ultrachat_cli.generate.lists import ListMaker
from ultrachat_cli.generate.pieces import Piece
from ultrachat_cli.generate.plan import Lane, Opening
from ultrachat_cli.generate.settings import Materials


def picks(settings: Materials, pieces: Iterator[Piece], lists: ListMaker, seed: int) -> Iterator[Lane]:
    """Block after block of pieces: the first instruction of each piece, then the second of each, and so on."""
    ways = shipped.templates(settings.templates)
    while block := list(islice(pieces, settings.breadth)):
        random.Random(f"{seed}/materials/{block[0].number}").shuffle(block)  # files are often sorted by kind
        lanes = [Lane(_lane(settings, piece, lists, seed, ways)) for piece in block]
        for _ in range(settings.instructions):
            yield from lanes


async def _lane(
    settings: Materials, piece: Piece, lists: ListMaker, seed: int, ways: shipped.Templates
) -> AsyncIterator[Opening]:
    n = 0
    noun = piece.kind.noun if piece.kind else "a text from the web"
    instructions = lists.items(
        f"materials/{piece.number}", "materials/instructions", settings.instructions, type=noun, text=piece.text
    )
    async for instruction in instructions:
        draw = random.Random(f"{seed}/materials/{piece.number}/{n}")
        side = [rows for rows in (ways.text_first, ways.text_last) if rows]
        template = draw.choice(draw.choice(side))
        # One pass: the text itself may hold braces.
        text = piece.text.join(part.replace("{instruction}", instruction) for part in template.split("{text}"))
        meta = {
            "type": piece.kind.name if piece.kind else None,
            "instruction": instruction,
            "template": template,
            "source": piece.source,
        }
        # As much of the text as of the instruction: neither alone makes two openings alike.
        middle = len(piece.text) // 3
        likeness = f"{instruction} {piece.text[middle : middle + max(40, len(instruction))]}"
        yield Opening("materials", (str(piece.number), str(n)), text, meta, likeness)
        n += 1
