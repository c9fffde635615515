"""A sample app: it shows the version of the code and of the configuration."""

from __future__ import annotations

import json
import os
import pathlib
import time

from flask import Flask, jsonify, request

VERSION = pathlib.Path(__file__).with_name("VERSION").read_text(encoding="utf-8").strip()
CONFIG = json.loads(pathlib.Path(os.environ["APP_CONFIG"]).read_text(encoding="utf-8"))
time.sleep(float(os.environ.get("APP_LOAD_SECONDS", "0")))  # simulates the imports of a large app
print(f"{VERSION} ready in {os.getpid()}", flush=True)

app = application = Flask(__name__)


@app.get("/")
def index() -> object:
    return jsonify(version=VERSION, greeting=CONFIG["greeting"], databases=CONFIG["databases"])


@app.get("/health")
def health() -> str:
    return "ok\n"


@app.get("/slow")
def slow() -> str:
    """Answers after ?ms= milliseconds, at most 10 s."""
    time.sleep(min(int(request.args.get("ms", "1000")), 10_000) / 1000)
    return f"slept in {os.getpid()}\n"
