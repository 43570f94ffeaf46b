"""The embedded model: llama.cpp's own HTTP server run inside this process by xllamacpp.

Clients talk to `LlamaServer.url` as to any OpenAI-compatible endpoint. The parameters are `llama-server`'s
(https://github.com/ggml-org/llama.cpp/tree/master/tools/server); why each is set stands beside it.
"""

from __future__ import annotations

import atexit
import http.client
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from ultrachat_cli.errors import UltraError
from ultrachat_cli.machine import available_memory, cores
from ultrachat_cli.models.requantize import Header, read_header

_SLOTS_A_CORE = 8  # tokens/s on 2 cores at 4, 8, 16, 32 slots: 212, 224, 255, 261
_F16 = 2  # bytes of one KV cache element
_PREFILL = 256  # tokens: the longest step `close` may have to wait for (under 1 s on 2 cores)


class LlamaServer:
    """llama.cpp serving `gguf` on 127.0.0.1, `slots` requests at once, each with `context` tokens.

    Raises `UltraError` where xllamacpp is missing or the file cannot be served.
    """

    def __init__(
        self, gguf: Path, *, slots: int, context: int, threads: int | None = None, template: str | None = None
    ) -> None:
        """`template`: a chat template (Jinja) in place of the file's own."""
        read_header(gguf)
        xllamacpp = _xllamacpp()
        params: Any = xllamacpp.CommonParams()
        params.model.path = str(gguf)
        params.n_parallel = slots
        params.n_ctx = context * slots
        params.kv_unified = False  # a slot's context is its own
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads or cores()
        params.n_batch = params.n_ubatch = _PREFILL
        params.cache_prompt = True  # a slot prefills only what follows its longest known prefix
        params.cache_ram_mib = 0  # no copies of slots that were given away
        params.cache_idle_slots = False
        params.fit_params = False  # no probing of memory: `carry` did it
        params.n_gpu_layers = 0
        params.chat_template = template or ""
        params.verbosity = -1
        params.ui = params.endpoint_slots = False
        params.hostnames, params.port = ["127.0.0.1"], 0
        params.n_threads_http = 2 * slots + 4  # a kept-alive connection holds one
        try:
            self._server: Any = xllamacpp.Server(params)
        except RuntimeError as error:
            hint = "Try fewer slots, a smaller context or another model file."
            raise UltraError(f"llama.cpp could not serve {gguf}: {error}", hint) from error
        self.slots = slots
        self._address: str = self._server.listening_address
        self.url = f"{self._address}/v1"
        _answer(self._address.removeprefix("http://"))
        atexit.register(self.close)  # the interpreter crashes if it ends with the server alive

    def close(self) -> None:
        """Stop at once, also with requests in flight: their connections are cut."""
        server, self._server = self._server, None
        if server is None:
            return
        atexit.unregister(self.close)
        # The destructor joins the HTTP threads while it holds the GIL, and each of those waits for its answer
        # until its client is gone: without this a request in flight would block the process for ever.
        _cut_connections(int(self._address.rsplit(":", 1)[1]))
        del server

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _xllamacpp() -> Any:
    # libgomp reads this once, as it loads; its default spins 3 times slower beside other busy processes.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        import xllamacpp  # type: ignore[import-untyped]
    except ImportError as error:
        if "libgomp" in str(error):
            hint = "Install the system's OpenMP runtime (Debian, Ubuntu: apt-get install libgomp1)."
        else:
            hint = "pip install xllamacpp, or give an endpoint with --base-url."
        raise UltraError(f"the embedded model needs xllamacpp: {error}", hint) from error
    return xllamacpp


def _answer(address: str) -> None:
    """Return once the task queue runs: it would miss a `close` before that, and wait for ever."""
    connection = http.client.HTTPConnection(address)
    connection.request("GET", "/lora-adapters")  # answered by the queue itself, unlike /health
    connection.getresponse().read()
    connection.close()


def _cut_connections(port: int) -> None:
    """Shut down this process's listener on 127.0.0.1:`port` and what it accepted."""
    for entry in list(Path("/dev/fd").iterdir()):  # Linux and macOS
        try:
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.getsockname()[:2] == ("127.0.0.1", port):
                    connection.shutdown(socket.SHUT_RDWR)
        except (OSError, TypeError):
            continue  # not a socket, not connected, or closed meanwhile


def carry(gguf: Path, context: int, wanted: int) -> int:
    """How many slots of `context` tokens this machine carries: `wanted`, or fewer by cores or free memory."""
    by_memory = (available_memory() // 2 - gguf.stat().st_size) // (kv_bytes(read_header(gguf)) * context)
    return max(1, min(wanted, _SLOTS_A_CORE * cores(), by_memory))


def kv_bytes(header: Header) -> int:
    """Bytes of KV cache a token takes, in fp16; more than that for models that give head counts by layer."""
    facts = header.metadata
    model = facts.get("general.architecture")
    try:
        layers, width = int(facts[f"{model}.block_count"]), int(facts[f"{model}.embedding_length"])
        heads = int(facts[f"{model}.attention.head_count"])
    except KeyError as error:
        raise UltraError(f"the GGUF file names no {error.args[0]}: not a language model?") from error
    kv_heads = int(facts.get(f"{model}.attention.head_count_kv", heads))
    key = int(facts.get(f"{model}.attention.key_length", width // heads))
    value = int(facts.get(f"{model}.attention.value_length", width // heads))
    return layers * kv_heads * (key + value) * _F16
