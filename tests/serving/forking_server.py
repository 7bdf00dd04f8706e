"""A server that behaves as vLLM does at its worst: children, a grandchild in a session of its own.

forking_server.py PORT FOLDER [--deaf] [--late S] [--exit STATUS] [--killed N] [--orphan]
    [--in-order] [--stops]

Every process writes its number into FOLDER. `--deaf` ignores SIGINT and SIGTERM, in every process;
`--late` answers /health with 503 for so long; `--exit` ends at once with this status, after a
message such as vLLM's; `--killed` ends by this signal, without a word; `--orphan` lets the main
process end in order and leave its children; `--in-order` ends with status 0 after a signal, and
`--stops` does so without one, once it has been found healthy.
"""

import argparse
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("port", type=int)
parser.add_argument("folder", type=Path)
parser.add_argument("--deaf", action="store_true")
parser.add_argument("--orphan", action="store_true")
parser.add_argument("--in-order", action="store_true")
parser.add_argument("--stops", action="store_true")
parser.add_argument("--late", type=float, default=0.0)
parser.add_argument("--exit", type=int)
parser.add_argument("--killed", type=int)
options = parser.parse_args()
begun = time.monotonic()

if options.exit is not None:
    sys.stderr.write("(EngineCore pid=7) ValueError: no such thing as a model\n")
    sys.stderr.write("RuntimeError: Engine core initialization failed. See root cause above.\n")
    sys.exit(options.exit)

if options.killed is not None:
    os.kill(os.getpid(), options.killed)


def note(role: str) -> None:
    (options.folder / role).write_text(str(os.getpid()), "ascii")


def sleep_for_ever() -> None:
    while True:
        time.sleep(1)


def deafen() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


if options.deaf:
    deafen()
if os.fork() == 0:
    note("worker")
    if os.fork() == 0:
        os.setsid()
        note("grandchild")
        sleep_for_ever()
    sleep_for_ever()


def stop(number: int, _: object) -> None:
    (options.folder / "signal").write_text(str(number), "ascii")
    if not options.orphan:
        os.kill(int((options.folder / "worker").read_text("ascii")), signal.SIGTERM)
    os._exit(0 if options.in_order else 3)


if not options.deaf:
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
note("main")


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        healthy = time.monotonic() - begun >= options.late
        self.send_response(200 if healthy else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", options.port), Health)
if options.stops:
    server.handle_request()
    sys.exit()
server.serve_forever()
