"""A real local HTTP server for the OpenAI chat protocol: what the tests and benchmarks talk to.

It answers with varied English derived from the hash of each request body (the same body always gets the
same answer), can be slow, can fail in every way a provider fails, and counts what it was asked, so that a
test can prove that nothing already paid for is asked twice.

    python tests/openai_server.py --port 8000 --delay 0.2 --p429 0.05       # or --help

Tests start it as a subprocess with `running(Options(...))`, or in their own loop with `await serve(...)`.
Counters cover POSTs to the two completion endpoints only; GET /stats, GET /seen and POST /reset need no key.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import Any

import httptools
import orjson

FAULTS = ("429", "500", "malformed", "empty", "null", "drop", "torn")
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
           429: "Too Many Requests", 500: "Internal Server Error"}  # fmt: skip

# Nouns are uncountable and verbs take a plain "s", so that every template stays grammatical.
WORDS = {
    key: text.split()
    for key, text in {
        "a": """early modern rural urban cheap costly careful sudden gradual public private formal informal
            local regional seasonal chronic mild severe hidden visible digital manual collective
            individual strict loose ancient medieval colonial industrial organic synthetic voluntary
            compulsory uneven steady rapid slow temporary permanent excessive moderate scarce abundant
            reliable unreliable shared centralised nocturnal tropical alpine coastal inland domestic
            foreign commercial amateur professional experimental traditional unconventional creative
            routine remote direct indirect partial complete open secret safe risky quiet noisy fragile
            resilient flexible rigid intensive selective competitive cooperative oral written visual
            musical technical practical theoretical political legal financial cultural religious ethical
            medical clinical genetic marine aerial underground renewable nuclear electric thermal chemical
            acoustic optical magnetic dense sparse wet dry cold warm bright faint portable wireless
            automated predictive adaptive""",
        "n": """irrigation migration literacy taxation weathering erosion biodiversity photosynthesis
            inflation trade fishing forestry mining weaving pottery carpentry baking brewing fermentation
            nutrition hygiene vaccination surgery nursing therapy meditation sleep exercise cycling
            swimming climbing running sailing navigation cartography astronomy geology meteorology
            hydrology chemistry genetics ecology pollination farming grazing composting recycling
            packaging transport logistics housing zoning sanitation drainage electricity lighting heating
            cooling ventilation insulation storage refrigeration encryption software robotics automation
            computing networking journalism censorship advertising publishing translation poetry drama
            cinema photography painting sculpture architecture music dance singing storytelling folklore
            mythology philosophy logic algebra geometry statistics probability accounting banking lending
            insurance investment saving budgeting philanthropy volunteering leadership management
            recruitment training mentoring schooling homework parenting childcare adoption marriage
            friendship loneliness ageing grief optimism curiosity creativity memory attention motivation
            discipline patience honesty privacy trust justice policing diplomacy warfare espionage
            immigration citizenship voting bureaucracy federalism corruption activism tourism cooking
            gardening beekeeping knitting archery chess gambling gaming calligraphy archaeology
            linguistics anthropology psychology economics metallurgy welding plumbing shipbuilding
            aviation spaceflight telescopy microscopy radiation magnetism friction combustion evaporation
            condensation corrosion sedimentation glaciation flooding drought wildfire deforestation""",
        "v": """affect shape limit strengthen weaken support disturb replace delay transform encourage
            restrict improve undermine influence predict explain complicate simplify sustain threaten
            accelerate slow protect redefine balance challenge inspire reward expose alter outlast
            resemble""",
        "p": """Peru Norway Kenya Vietnam Portugal Scotland Japan Morocco Chile Iceland Bolivia Ghana Poland
            Turkey Nepal Mongolia Canada Mexico Cuba Brazil Egypt Ethiopia Senegal Nigeria Angola Zambia
            Botswana Madagascar Oman Jordan Lebanon Georgia Armenia Kazakhstan India Bangladesh Thailand
            Laos Cambodia Malaysia Indonesia Taiwan Korea China Siberia Finland Sweden Denmark Estonia
            Latvia Lithuania Ukraine Romania Bulgaria Greece Albania Croatia Slovenia Hungary Austria
            Switzerland Bavaria Belgium Holland France Brittany Spain Catalonia Andalusia Sicily Sardinia
            Malta Cyprus Ireland Wales Cornwall Quebec Ontario Alaska Oregon California Texas Louisiana
            Florida Jamaica Haiti Panama Colombia Ecuador Paraguay Uruguay Argentina Patagonia Tasmania
            Queensland Fiji Samoa Hawaii Tibet Kashmir Punjab Kerala Bengal Hokkaido Okinawa""",
        "w": """farmers nurses teachers engineers students sailors bakers lawyers parents children musicians
            painters miners drivers pilots journalists economists historians biologists architects
            gardeners carpenters voters soldiers merchants monks refugees athletes librarians programmers
            surgeons fishers""",
    }.items()
}

Template = list[str | list[str]]


def _templates(text: str) -> list[Template]:
    """One template a line; `{a}` and the like become the word list to draw from."""
    cut = (re.split(r"\{(\w)\}", line.strip()) for line in text.strip().splitlines())
    return [[WORDS[part] if place % 2 else part for place, part in enumerate(line)] for line in cut]


QUESTIONS = _templates("""
    How does {a} {n} {v} {a} {n} in {p}?
    Why do {w} in {p} prefer {a} {n} to {a} {n}?
    What can {a} {n} in {p} teach {w} about {a} {n}?
    Could {a} {n} ever {v} {a} {n} among {w} from {p}?
    When did {a} {n} begin to {v} {n} for {a} {w} across {p}?
    Which kinds of {a} {n} {v} {a} {n} most, according to {w} of {p}?
    Is {a} {n} or {a} {n} the better choice for {w} near {p}?
    Should {a} {w} in {p} rely on {n} despite {a} {n}?
    Explain to {a} {w} how {n} and {a} {n} differ between {p} and {p}.
    Under what conditions would {a} {n} {v} {n}, as {w} once claimed in {p}?
    Who gains if {p} lets {a} {n} {v} the {a} {n} of its {w}?
    Can you compare the {a} {n} of {p} with {a} {n} in {p}?""")
CLAUSES = _templates("""
    {a} {n} often {v}s the {a} {n} of {p}
    {w} in {p} treat {a} {n} as a form of {n}
    nobody doubts that {a} {n} {v}s {n}
    {a} {w} learn {n} long before {a} {n}
    records from {p} show how {n} {v}s {a} {n}
    good {n} depends on {a} {n} and on {a} {w}
    it helps to compare {n} with {a} {n}
    there is little {n} without {a} {n} in {p}""")
JOINTS = (", and ", ", but ", "; ", ", because ", ", while ", ", so ", ", although ")


class Voice:
    """Deterministic English from one number: a cheap generator, as benchmarks ask for thousands a second."""

    def __init__(self, key: int) -> None:
        self.state = key

    def pick(self, choices: Sequence[Any]) -> Any:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        return choices[(self.state >> 33) % len(choices)]

    def fill(self, templates: list[Template]) -> str:
        return "".join([part if isinstance(part, str) else self.pick(part) for part in self.pick(templates)])

    def questions(self, count: int) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < count:
            text = self.fill(QUESTIONS)
            found[text[0].upper() + text[1:]] = None
        return list(found)

    def sentences(self, words: int) -> str:
        """About `words` words in one to three sentences (more where those would pass 60 words each)."""
        text, count, done = self.fill(CLAUSES), max(self.pick((1, 2, 3)), words // 60), 1
        text = text[0].upper() + text[1:]
        while (so_far := text.count(" ") + 1) < words - 4:
            full, clause = done < count and so_far >= words * done / count, self.fill(CLAUSES)
            text += ". " + clause[0].upper() + clause[1:] if full else self.pick(JOINTS) + clause
            done += full
        return text + "."


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class Options:
    """Everything the server can be told; each field is also a command line option (--fail-after, say)."""

    port: int = _option(0, "port on 127.0.0.1; 0: any free one")
    delay: float = _option(0.0, "seconds before each answer")
    jitter: float = _option(0.0, "up to this many seconds more, uniformly")
    words: int = _option(40, "words of a plain answer, about")
    models: str = _option("test-model", "comma-separated models served; any other is a 404")
    key: str = _option("", "the API key wanted as a bearer token")
    script: str = _option("", 'JSONL file of {"match", "reply", "finish_reason"}; first match answers')
    no_schema: bool = _option(False, "refuse response_format with a 400")
    context: int = _option(0, "refuse prompts estimated above this many tokens (0: no limit)")
    p429: float = _option(0.0, "share of requests answered 429, at once")
    retry_after: float = _option(0.0, "Retry-After seconds sent with 429 (0: no header)")
    p500: float = _option(0.0, "share of requests answered 500, at once")
    pmalformed: float = _option(0.0, "share answered 200 with a JSON body cut short")
    pempty: float = _option(0.0, "share answered 200 with an empty message")
    pnull: float = _option(0.0, "share answered 200 with no body at all")
    pdrop: float = _option(0.0, "share whose connection is closed without an answer")
    ptorn: float = _option(0.0, "share whose connection is closed half-way through the body")
    seed: int = _option(0, "seed of the fault and jitter draws (not of the answers)")
    fail_after: int = _option(0, "after this many answers, every request is a 500 (0: never)")
    die_after: int = _option(0, "after this many answers, the process exits at once (0: never)")

    def arguments(self) -> list[str]:
        """The command line that gives these options to a subprocess."""
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        flags = {"--" + name.replace("_", "-"): value for name, value in changed.items()}
        return [flag if value is True else f"{flag}={value}" for flag, value in flags.items()]


class Refusal(Exception):
    """An error answer: status, and the fields of an OpenAI error body."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        kind = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error"}.get(status)
        error = {"message": message, "type": kind or "invalid_request_error", "param": param, "code": code}
        self.status, self.body = status, orjson.dumps({"error": error})


def _text(content: Any) -> str:
    """A message's content as text, whether a string, null, or a list of parts."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" if isinstance(part, dict) else str(part) for part in content)
    return content if isinstance(content, str) else ""


class Call:
    """One valid completion request, and how to answer it."""

    def __init__(self, options: Options, script: list[dict[str, str]], raw: bytes, chat: bool) -> None:
        self.options, self.chat = options, chat
        self.key = int.from_bytes(blake2b(raw, digest_size=8).digest(), "little")
        try:
            self.body = body = orjson.loads(raw)
            parts = [m["content"] for m in body["messages"]] if chat else [body["prompt"]]
            texts = [_text(part) for part in parts]
            last = texts[-1]
        except (orjson.JSONDecodeError, LookupError, TypeError):
            raise Refusal(400, "The body is not JSON with messages or a prompt.") from None
        self.tokens, limit = sum(map(len, texts)) // 4 + 4 * len(texts), options.context
        models = options.models.split(",")
        self.model = body.get("model") or models[0]
        if self.model not in models:
            raise Refusal(404, f"The model `{self.model}` does not exist.", "model_not_found", "model")
        if options.no_schema and body.get("response_format"):
            raise Refusal(400, "response_format is not supported by this model.", None, "response_format")
        if 0 < limit < self.tokens:
            text = f"This model's maximum context length is {limit} tokens, but the prompt has {self.tokens}."
            raise Refusal(400, text, "context_length_exceeded", "messages")
        self.scripted = next((line for line in script if line["match"] in last), None)

    def reply(self) -> str:
        """The scripted reply, else questions as JSON where a schema asks for a list, else sentences."""
        if self.scripted:
            return self.scripted["reply"]
        voice, wanted = Voice(self.key), self.body.get("response_format") or {}
        if wanted.get("type") != "json_schema":
            return voice.sentences(self.options.words)
        properties = ((wanted.get("json_schema") or {}).get("schema") or {}).get("properties") or {}
        for name, schema in properties.items():
            if schema.get("type") == "array":
                return orjson.dumps({name: voice.questions(schema.get("maxItems") or 10)}).decode()
        return orjson.dumps({name: voice.sentences(self.options.words) for name in properties}).decode()

    def pieces(self, empty: bool) -> list[bytes]:
        """The answer's body: one JSON document, or the server-sent events of a stream."""
        text, end = "" if empty else self.reply(), (self.scripted or {}).get("finish_reason", "stop")
        asked, spent, stream = self.tokens, (len(text) + 3) // 4, self.body.get("stream")
        usage = {"prompt_tokens": asked, "completion_tokens": spent, "total_tokens": asked + spent}
        kind = ("chat.completion.chunk" if stream else "chat.completion") if self.chat else "text_completion"
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{self.key:016x}"
        head = {"id": name, "object": kind, "created": int(time.time()), "model": self.model}

        def choices(text: str, end: str | None) -> list[dict[str, Any]]:
            part = {"role": "assistant", "content": text}
            said = {"delta" if stream else "message": part} if self.chat else {"text": text}
            return [{"index": 0, **said, "logprobs": None, "finish_reason": end}]

        if not stream:
            return [orjson.dumps({**head, "choices": choices(text, end), "usage": usage})]
        events = [{**head, "choices": choices(word, None)} for word in re.findall(r"\S+\s*|\s+", text)]
        events.append({**head, "choices": choices("", end)})
        if (self.body.get("stream_options") or {}).get("include_usage"):
            events.append({**head, "choices": [], "usage": usage})
        return [b"data: %b\n\n" % orjson.dumps(event) for event in events] + [b"data: [DONE]\n\n"]


class Connection(asyncio.Protocol):
    """One client connection: parses requests, and answers them one after another in their order."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server, self.parser = server, httptools.HttpRequestParser(self)
        self.waiting: deque[tuple[bytes, bytes, bytes, bytes, bool]] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.keep = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.server.connections.add(self)
        self.server.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        if self.timer:  # the client gave up: it is not answered, and counts no longer
            self.timer.cancel()
            self.server.in_flight -= 1

    def on_message_begin(self) -> None:
        self.url, self.auth, self.chunks = b"", b"", list[bytes]()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 13 and name.lower() == b"authorization":
            self.auth = value
        elif len(name) == 6 and name.lower() == b"expect":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, chunk: bytes) -> None:
        self.chunks.append(chunk)

    def on_message_complete(self) -> None:
        path, keep = self.url.partition(b"?")[0], self.parser.should_keep_alive()
        self.waiting.append((self.parser.get_method(), path, self.auth, b"".join(self.chunks), keep))

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.waiting.clear()
            self.keep = False
            self.send(400, [b'{"error": {"message": "This is not HTTP."}}'])
        self.advance()

    def advance(self) -> None:
        while self.waiting and not self.timer and not self.transport.is_closing():
            *request, self.keep = self.waiting.popleft()
            self.server.handle(self, *request)

    def later(self, delay: float, action: Callable[..., None], *args: Any) -> None:
        """Run the action now, or by a timer (no task), which holds back this connection's next request."""

        def fire() -> None:
            self.timer = None
            action(*args)
            self.advance()

        if delay > 0:
            self.timer = asyncio.get_running_loop().call_later(delay, fire)
        else:
            action(*args)

    def send(self, status: int, pieces: list[bytes], header: str = "", fault: str = "") -> None:
        """Write one response: chunked for a stream (many pieces), else with its length; torn if so asked."""
        close = "" if self.keep else "Connection: close\r\n"
        if len(pieces) > 1:
            size, kind = "Transfer-Encoding: chunked", "text/event-stream"
            body = b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]) + b"0\r\n\r\n"
        else:
            body, kind = pieces[0], "application/json"
            size = f"Content-Length: {len(body)}"
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\n{size}\r\n{header}{close}\r\n"
        self.transport.write(head.encode() + (body[: len(body) // 2] if fault == "torn" else body))
        if fault == "torn" or not self.keep:
            self.transport.close()


class Server:
    """The listening server and its counters; `serve` makes one. `url` ends in /v1."""

    url: str
    listener: asyncio.Server

    def __init__(self, options: Options) -> None:
        self.options, self.connections, self.in_flight, self.script = options, set[Connection](), 0, []
        if options.script:
            with open(options.script, "rb") as lines:
                self.script = [orjson.loads(line) for line in lines if line.strip()]
        self.pages: dict[bytes, Callable[[], Any]] = {
            b"/stats": self.stats,
            b"/reset": self.reset,
            b"/seen": self.listing,
            b"/v1/models": self.names,
        }
        self.reset()

    def reset(self) -> dict[str, Any]:
        """Counters, answered bodies and the draws start afresh; requests in flight stay in flight."""
        self.requests = self.answered = self.repeats = self.accepted = 0
        self.peak = self.in_flight
        self.by_status, self.faults, self.seen = Counter[str](), Counter[str](), Counter[int]()
        self.draws, self.waits = random.Random(self.options.seed), random.Random(self.options.seed)
        return self.stats()

    def stats(self) -> dict[str, Any]:
        return {"requests": self.requests, "answered": self.answered, "in_flight": self.in_flight,
                "peak_in_flight": self.peak, "by_status": dict(self.by_status), "faults": dict(self.faults),
                "repeats": self.repeats, "connections": self.accepted}  # fmt: skip

    def close(self) -> None:
        """Stop listening and close every connection, answered or not."""
        self.listener.close()
        for connection in list(self.connections):
            connection.transport.abort()

    def fault(self) -> str:
        """The fault of this arrival, by exactly one draw, so that a seed gives one sequence of faults."""
        drawn = self.draws.random()
        for name in FAULTS:
            drawn -= getattr(self.options, "p" + name)
            if drawn < 0:
                return name
        return ""

    def handle(self, connection: Connection, method: bytes, path: bytes, auth: bytes, raw: bytes) -> None:
        """Route one request. Completions are counted, checked, and answered now or after the delay."""
        paid = path in (b"/v1/chat/completions", b"/v1/completions")
        fault, options = "", self.options
        if paid:
            self.requests += 1
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
            fault = self.fault()
        try:
            if not paid and path not in self.pages:
                raise Refusal(404, f"There is nothing at {path.decode(errors='replace')}.")
            if method != (b"POST" if paid or path == b"/reset" else b"GET"):
                raise Refusal(405, f"{method.decode()} is not allowed here.")
            if options.key and path.startswith(b"/v1") and auth != b"Bearer " + options.key.encode():
                raise Refusal(401, "Incorrect API key provided.", "invalid_api_key")
            if not paid:
                return connection.send(200, [orjson.dumps(self.pages[path]())])
            call = Call(options, self.script, raw, path == b"/v1/chat/completions")
            if fault == "429":
                raise Refusal(429, "Rate limit reached for requests.", "rate_limit_exceeded")
            self.check_alive(fault)
        except Refusal as refusal:
            return self.refuse(connection, refusal, paid, fault)
        wait = options.delay + (options.jitter and options.jitter * self.waits.random())
        connection.later(wait, self.answer, connection, call, fault)
        return None

    def check_alive(self, fault: str) -> None:
        if fault == "500" or 0 < self.options.fail_after <= self.answered:
            raise Refusal(500, "The server had an error while processing your request.")

    def refuse(self, connection: Connection, refusal: Refusal, paid: bool, fault: str) -> None:
        wait, header = self.options.retry_after, ""
        if paid:
            self.in_flight -= 1
            self.by_status[str(refusal.status)] += 1
            self.faults.update([fault] if fault == str(refusal.status) else [])
        if refusal.status == 429 and wait:
            header = f"Retry-After: {wait:g}\r\n"
        connection.send(refusal.status, [refusal.body], header)

    def answer(self, connection: Connection, call: Call, fault: str) -> None:
        """Send the answer or its fault. Only a whole, good answer counts as answered, and as seen."""
        if 0 < self.options.die_after <= self.answered:
            return None  # about to exit: the client sees its connection break
        try:
            self.check_alive(fault)  # again: the limit may have been reached during the delay
        except Refusal as refusal:
            return self.refuse(connection, refusal, True, fault)
        self.in_flight -= 1
        self.faults.update([fault] if fault else [])
        if fault == "drop":
            return connection.transport.close()
        pieces = call.pieces(fault == "empty") if fault != "null" else [b""]
        if fault == "malformed":
            half = len(pieces) // 2
            pieces[half:] = [pieces[half][: len(pieces[half]) // 2]]
        self.by_status["200"] += 1
        connection.send(200, pieces, fault=fault)
        if not fault:
            self.answered += 1
            self.seen[call.key] += 1
            self.repeats += self.seen[call.key] > 1
        if self.answered == self.options.die_after and not fault:
            asyncio.get_running_loop().call_later(0.01, os._exit, 1)  # once the last answer is written
        return None

    def listing(self) -> list[dict[str, Any]]:
        return [{"hash": f"{key:016x}", "count": count} for key, count in self.seen.items()]

    def names(self) -> dict[str, Any]:
        models = self.options.models.split(",")
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}


async def serve(options: Options) -> Server:
    """Start a server in the running loop (do not use `die_after` so: it ends the whole process)."""
    server, loop = Server(options), asyncio.get_running_loop()
    server.listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", options.port, backlog=4096)
    server.url = f"http://127.0.0.1:{server.listener.sockets[0].getsockname()[1]}/v1"
    return server


@dataclass
class Running:
    """A server in its own process. It may be gone (`die_after`): then the requests below fail."""

    url: str
    process: subprocess.Popen[str]

    def ask(self, method: str, path: str) -> Any:
        """The decoded answer to, say, GET /seen or POST /reset."""
        client = http.client.HTTPConnection(self.url.split("/")[2], timeout=30)
        with closing(client):
            client.request(method, path)
            return json.loads(client.getresponse().read())

    def stats(self) -> Any:
        return self.ask("GET", "/stats")


@contextmanager
def running(options: Options | None = None) -> Iterator[Running]:
    """Run a server as a subprocess for the length of a `with` block."""
    command = [sys.executable, os.path.abspath(__file__), *(options or Options()).arguments()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server did not start: {' '.join(command)}")
            yield Running(json.loads(line)["url"], process)
        finally:
            process.kill()


def main(arguments: list[str] | None = None) -> None:
    """Serve until ended, having printed the URL as one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for option in fields(Options):
        flag, default, text = "--" + option.name.replace("_", "-"), option.default, option.metadata["help"]
        how: dict[str, Any] = {"action": "store_true"} if default is False else {"type": type(default)}
        parser.add_argument(flag, default=default, help=text, **how)
    options = Options(**vars(parser.parse_args(arguments)))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one file for each connection held

    async def forever() -> None:
        server = await serve(options)
        print(json.dumps({"url": server.url}), flush=True)
        await asyncio.Event().wait()

    run: Callable[..., Any] = asyncio.run
    with suppress(ImportError):
        import uvloop

        run = uvloop.run
    with suppress(KeyboardInterrupt):
        run(forever())


if __name__ == "__main__":
    main()
