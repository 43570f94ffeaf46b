"""Creation and writing: instructions of 20 material types, most of them expanded with detail."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from ultrachat_cli.generate import shipped
from ultrachat_cli.generate.lists import ListMaker
from ultrachat_cli.generate.plan import Lane, Opening, around
from ultrachat_cli.generate.settings import Writing
from ultrachat_cli.generate.shipped import MaterialType


def picks(settings: Writing, lists: ListMaker, seed: int) -> Iterator[Lane]:
    """One lane for each type, in seeded order."""
    types = list(enumerate(shipped.material_types()))
    random.Random(f"{seed}/types").shuffle(types)
    return around([Lane(_lane(settings, lists, seed, n, kind)) for n, kind in types])


async def _lane(
    settings: Writing, lists: ListMaker, seed: int, number: int, kind: MaterialType
) -> AsyncIterator[Opening]:
    """Instructions of one type: many small requests, each led by other subjects, an audience and a tone."""
    words = shipped.angles()
    made = batch = 0
    while settings.instructions is None or made < settings.instructions:
        key = f"writing/{number}/{batch}"
        draw = random.Random(f"{seed}/{key}")
        subjects = draw.sample(words["subjects"], 3)
        audience, tone = draw.choice(words["audiences"]), draw.choice(words["tones"])
        angle = f"{', '.join(subjects)}; for {audience}; in a tone of {tone}"
        names = {"type": kind.name, "noun": kind.noun, "angle": angle, "subject": subjects[0]}
        left = lists.per_request if settings.instructions is None else settings.instructions - made
        count = min(lists.per_request, left)
        n = 0
        async for text in lists.items(key, "writing/instructions", count, **names):
            path = (str(number), str(batch), str(n))
            expanded = draw.random() < settings.expand
            meta = {"type": kind.name, "angle": angle, "expanded": expanded}
            if expanded:
                meta["instruction"] = text
            yield Opening("writing", path, text, meta, expand=_expansion(lists, kind, text) if expanded else None)
            n += 1
        if n == 0:
            return
        made += n
        batch += 1


def _expansion(lists: ListMaker, kind: MaterialType, instruction: str) -> Callable[[str], Awaitable[str]]:
    async def expand(identity: str) -> str:
        longer = await lists.text(f"{identity}/expand", "writing/expand", type=kind.name, instruction=instruction)
        return longer or instruction

    return expand
