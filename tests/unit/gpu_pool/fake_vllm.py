"""An executable that passes for the interpreter of a vLLM environment: a small HTTP server on a Unix socket.

`make_fake_vllm` writes it as one file. Started as `FILE -m vllm... --uds PATH [--fake-...]` it serves; asked as
`FILE -I -c CODE` for its prefixes it answers as this interpreter.
"""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


def make_fake_vllm(folder: Path) -> Path:
    """The executable in `folder`."""
    path = folder / "fake-vllm"
    path.write_text(f"#!{sys.executable}\n{Path(__file__).read_text(encoding='utf-8')}", encoding="utf-8")
    path.chmod(0o755)
    return path


def option(name: str, default: str = "") -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hanging = threading.Event()

    def address_string(self) -> str:
        return "unix"

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, message: dict[str, Any]) -> None:
        """The message as server-sent events."""
        (block,), usage = message["content"], message["usage"]
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": block["text"]}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
            {"type": "message_stop"},
        ]
        data = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.hanging.is_set():
            time.sleep(3600)
        self.answer(200, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        what, _, value = self.path.strip("/").partition("/")
        if what == "crash":
            os._exit(7)
        if what == "hang":
            self.hanging.set()
        if what == "slow":
            time.sleep(float(value))
        if what == "child":  # leaves its session and its process group, as a daemon would
            sleeper = [sys.executable, "-c", "import time; time.sleep(3600)", value]
            subprocess.Popen(sleeper, start_new_session=True)
        if what == "v1" and self.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.answer(401, {"error": "Unauthorized"})
            return
        text = {"type": "text", "text": f"{option('--served-model-name')} says hello"}
        usage = {"input_tokens": 3, "output_tokens": 4}
        message: dict[str, Any] = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "fake",
            "stop_sequence": None,
        }
        message |= {"content": [text], "stop_reason": "end_turn", "usage": usage}
        if body.get("stream"):
            self.stream(message)
        else:
            self.answer(200, {**message, "env": dict(os.environ)})


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def main() -> None:
    if sys.argv[1] == "-I":
        exec(sys.argv[3])
        return
    sys.stderr.write(f"fake vllm: {' '.join(sys.argv[1:])}\n")
    if "--fake-die" in sys.argv:
        sys.exit("no such model architecture")
    time.sleep(float(option("--fake-start", "0")))
    Server(option("--uds"), Handler).serve_forever()


if __name__ == "__main__":
    main()
