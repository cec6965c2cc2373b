"""A chat model on this machine that speaks OpenAI's protocol, for tests of translation, and faults that it commits."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ASKED = re.compile(r"into (.+?), instructions.*\[\[QUESTION\]\]\n(.*)\n\[\[ANSWER\]\]\n(.*)\n\[\[END\]\]$", re.DOTALL)


def translated(request: str) -> str:
    """What this model makes of a request: every line behind the name of the language."""
    found = _ASKED.search(request)
    assert found, request
    language, *texts = found.groups()
    prompt, answer = ("\n".join(f"{language}: {line}" for line in text.split("\n")) for text in texts)
    return f"Here you are!\n[[QUESTION]]\n{prompt}\n[[ANSWER]]\n{answer}\n[[END]]"


@dataclass
class Speaker:
    """Answers chats by ``says``; before that, ``faults`` are committed, one a request.

    A fault is a status with its headers, None for a connection that ends, or a text that is said instead.
    """

    url: str = ""
    says: Callable[[str], str] = translated
    faults: list[Any] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    seconds: float = 0.0
    finish: str = "stop"


@contextmanager
def speaking() -> Iterator[Speaker]:
    """A model while it runs."""
    speaker, lock = Speaker(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request = body["messages"][-1]["content"]
            with lock:
                speaker.asked.append(request)
                speaker.keys.add(self.headers["Authorization"])
                fault = speaker.faults.pop(0) if speaker.faults else speaker.says
            time.sleep(speaker.seconds)
            if fault is None:
                self.close_connection = True
                self.connection.close()
            elif isinstance(fault, tuple):
                self.answer(fault[0], {"error": {"message": f"fault {fault[0]}"}}, fault[1])
            else:
                text = fault if isinstance(fault, str) else fault(request)
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "message": message, "finish_reason": speaker.finish}
                reply = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
                self.answer(200, {**reply, "choices": [choice]}, {})

        def answer(self, status: int, content: dict[str, Any], headers: dict[str, str]) -> None:
            body = json.dumps(content).encode()
            with suppress(ConnectionError):  # whoever asked was killed
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    speaker.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield speaker
    finally:
        server.shutdown()
        server.server_close()
