"""Stands for ``sidecar serve`` in tests of the launcher: endpoints.json, /healthz, /status, SIGTERM."""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

STATUS = {
    "state": "finished", "step": 20, "total_steps": 20, "steps_total": 20, "loss": 2.5, "tokens": 20480,
    "tokens_per_second": 1234.5, "training_seconds": 10.0, "elapsed_seconds": 12.0,
    "project": "fake", "stage": "pretrain",
    "mfu": {"percent": 31.25, "value": 0.3125, "convention": "full attention", "causal_percent": 30.0,
            "source": "measured", "denominator": {"peak_flops_per_device": 1e12}},
    "goodput": {"ratio": 0.9, "seconds": {"step": 9.0, "evaluation": 1.0}},
    "sinks": {"wandb": {"state": "offline", "reason": "no key", "lag_events": 0}},
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = STATUS | {"run_id": os.environ.get("FAKE_RUN_ID") or self.path.partition("run=")[2]}
        status["sidecar"] = {"pid": os.getpid()}
        body = json.dumps(status if self.path.startswith("/status") else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> int:
    directory = Path(os.environ["SIDECAR_DIR"])
    mode = os.environ.get("FAKE_MODE", "")
    (directory / "seen.json").write_text(json.dumps({k: v for k, v in os.environ.items() if k.startswith("SIDECAR_")}))
    if mode == "dies":
        print("error: the port is made of cheese\nfix: choose another", file=sys.stderr)
        return 71
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: None if mode == "stubborn" else stopping.set())
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    ready = {"http": url, "events": os.environ["SIDECAR_ENDPOINT"], "pid": os.getpid()}
    (directory / "endpoints.json.new").write_text(json.dumps(ready))
    (directory / "endpoints.json.new").replace(directory / "endpoints.json")
    stopping.wait()
    (directory / "stopped").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
