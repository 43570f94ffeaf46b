"""Questions about the world: meta topics and entities, fanned out by the opening model (facts: README of UltraChat)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator

from ultrachat_cli.generate import shipped
from ultrachat_cli.generate.lists import ListMaker
from ultrachat_cli.generate.plan import Lane, Opening, around, weighted
from ultrachat_cli.generate.settings import World


def picks(settings: World, lists: ListMaker, seed: int) -> Iterator[Lane]:
    """Lanes in the order they are asked: four kinds of openings, each going round its topics or entities."""
    topics = list(enumerate(shipped.topics(settings.topics)))
    entities = list(enumerate(shipped.entities(settings.entities)))
    random.Random(f"{seed}/topics").shuffle(topics)
    random.Random(f"{seed}/entities").shuffle(entities)
    breadth = min(settings.breadth, len(entities))
    sector = _World(settings, lists, seed)

    def entity_lanes(kind: str, start: int) -> Iterator[Lane]:
        """All kinds go through the same lanes of entities, but begin at different ones: a small run meets more."""
        order = [(n + start * breadth // 3) % breadth for n in range(breadth)]
        return around([Lane(sector.entity_lane(kind, entities[n::breadth])) for n in order])

    topic_lanes = around([Lane(sector.topic_lane(n, topic)) for n, topic in topics])
    mix = settings.mix
    return weighted(
        [
            (mix.topic, topic_lanes),
            (mix.meta, entity_lanes("meta", 0)),
            (mix.specific, entity_lanes("specific", 1)),
            (mix.general, entity_lanes("general", 2)),
        ]
    )


class _World:
    def __init__(self, settings: World, lists: ListMaker, seed: int) -> None:
        self._settings, self._lists, self._seed = settings, lists, seed

    async def topic_lane(self, number: int, topic: str) -> AsyncIterator[Opening]:
        """One question of each subtopic, then the next of each, ...; then the related questions of all of them."""
        settings, key = self._settings, f"world/topic/{number}"
        count = random.Random(f"{self._seed}/{key}").randint(settings.subtopics.low, settings.subtopics.high)
        sources: list[AsyncIterator[Opening]] = []
        asked: list[Opening] = []
        n = 0
        async for subtopic in self._subtopics(key, topic, count):
            source = self._questions(number, n, topic, subtopic)
            sources.append(source)
            n += 1
            async for opening in source:
                asked.append(opening)
                yield opening
                break
        while sources:
            for source in list(sources):
                async for opening in source:
                    asked.append(opening)
                    yield opening
                    break
                else:
                    sources.remove(source)
        for question in asked:
            path = "/".join(question.path[1:])
            related = self._lists.items(
                f"world/related/{path}", "world/related", settings.related, question=question.text
            )
            n = 0
            async for text in related:
                meta = {**question.meta, "kind": "related", "question": question.text}
                yield Opening("world", (*question.path, str(n)), text, meta)
                n += 1

    async def _subtopics(self, key: str, topic: str, count: int) -> AsyncIterator[str]:
        given = shipped.subtopics().get(topic) if self._lists.small else None
        for subtopic in given or ():
            yield subtopic
        if given is None:
            async for subtopic in self._lists.items(key, "world/subtopics", count, topic=topic):
                yield subtopic

    async def _questions(self, topic_number: int, number: int, topic: str, subtopic: str) -> AsyncIterator[Opening]:
        n = 0
        async for text in self._lists.items(
            f"world/topic/{topic_number}/{number}",
            "world/questions",
            self._settings.questions,
            topic=topic,
            subtopic=subtopic,
        ):
            meta = {"kind": "topic", "topic": topic, "subtopic": subtopic}
            yield Opening("world", ("topic", str(topic_number), str(number), str(n)), text, meta)
            n += 1

    async def entity_lane(self, kind: str, entities: list[tuple[int, str]]) -> AsyncIterator[Opening]:
        """The openings of one kind from these entities, one after the other."""
        settings = self._settings
        for number, entity in entities:
            m = 0
            key = f"world/entity/{number}"
            async for question in self._lists.items(key, "world/entity_meta", settings.meta_questions, entity=entity):
                path = ("entity", str(number), str(m))
                if kind == "meta":
                    yield Opening("world", path, question, {"kind": kind, "entity": entity})
                else:
                    count = settings.specific if kind == "specific" else settings.general
                    n = 0
                    async for text in self._lists.items(
                        f"{key}/{m}/{kind}", f"world/entity_{kind}", count, entity=entity, question=question
                    ):
                        meta = {"kind": kind, "entity": entity, "question": question}
                        yield Opening("world", (*path, kind, str(n)), text, meta)
                        n += 1
                m += 1
