"""Run ``unc-score`` in forks of a process that has imported everything, and send them signals.

``python score_forks.py`` reads one request a line on stdin, JSON: ``argv``, ``cwd``, and where it is to be interrupted
``signal`` (a name), ``when`` (a file, relative to ``cwd``, whose appearance is waited for) or ``said`` (a text that is
waited for on stderr), and ``after`` (seconds from then on). It answers with one line each: ``code`` (minus the signal
where one killed it), ``out`` and ``err``.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from uncertainty.cli.score import main

# What every fork would else import for itself.
IMPORTED = ("uncertainty.scoring", "uncertainty.summary", "transformers.models.llama.modeling_llama")


def child(request: dict[str, Any], out: int, err: int) -> None:
    """Become the command: its folder, its streams, its signals."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdin.close()
    code = 1
    try:
        code = main(request["argv"])
    except BaseException:  # noqa: BLE001  the fork must never return into the loop of its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def interrupt(process: int, request: dict[str, Any], err: int) -> None:
    """Send the signal at the moment that was asked for; nothing where the process ends before."""

    def is_time() -> bool:
        if "said" in request:
            return request["said"].encode() in os.pread(err, 1 << 20, 0)
        return (Path(request["cwd"]) / request["when"]).exists()

    while not is_time():
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)
    time.sleep(request.get("after", 0.0))
    os.kill(process, getattr(signal, request["signal"]))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait for the end, and tell it."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = os.fork()
        if process == 0:
            child(request, out.fileno(), err.fileno())
        if "signal" in request:
            interrupt(process, request, err.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        for stream in (out, err):
            stream.seek(0)
        return {"code": code, "out": out.read().decode(), "err": err.read().decode()}


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
