"""`engine.init`: what it offers and takes, and what SIGTERM does to the driver."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

import engine
from engine.machine import accelerator_types, devices_here, resources_here
from tests.engine.support import eventually, gone, run_script

SECONDS = 20


def test_devices_come_from_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, found in {"2,0": ["2", "0"], "": [], "-1": [], "GPU-a": ["GPU-a"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert devices_here() == found
        total, devices = resources_here(None, None, None)
        assert (devices, total.get("GPU", 0)) == (found, len(found))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert resources_here(None, 1, None)[1] == ["2"]
    with pytest.raises(ValueError, match=r"num_gpus=3, but CUDA_VISIBLE_DEVICES='2,0' shows.* 2"):
        resources_here(None, 3, None)


def test_devices_of_a_machine_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("glob.glob", lambda pattern: ["/dev/nvidia0", "/dev/nvidia1"])
    assert devices_here() == ["0", "1"]
    assert resources_here(None, 4, None)[1] == ["0", "1", "2", "3"], "as many as one says"
    assert resources_here(None, 0, None) == ({"CPU": float(cpus()), "GPU": 0.0}, [])


def cpus() -> int:
    return len(os.sched_getaffinity(0))


def test_kinds_of_devices_are_what_the_driver_says(tmp_path: Path) -> None:
    for name, model in {"a": "NVIDIA A100-SXM4-40GB", "b": "Tesla V100-SXM2-16GB"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t 34\n")
    assert accelerator_types(tmp_path) == {"A100", "V100"}
    assert accelerator_types(tmp_path / "none") == set()


def test_what_a_ported_script_passes(no_engine: Any) -> None:
    context = engine.init(
        num_cpus=1,
        namespace="team",
        labels={"zone": "a"},
        include_dashboard=False,
        configure_logging=True,
        logging_level=logging.ERROR,
        logging_format="%(message)s",
        local_mode=False,
        resources={"memory": 1000},
    )
    try:
        assert context["namespace"] == "team"
        assert context["labels"]["zone"] == "a"
        assert engine.get_runtime_context().namespace == "team"
        assert engine.cluster_resources()["memory"] == 1000
        logger = logging.getLogger("engine")
        assert logger.level == logging.ERROR
        assert len(logger.handlers) == 1
        with pytest.raises(RuntimeError, match="ignore_reinit_error=True"):
            engine.init(num_cpus=2)
        again = engine.init(num_cpus=2, ignore_reinit_error=True)
        assert again["node_id"] == context["node_id"]
        engine.shutdown()
        engine.init(num_cpus=1, logging_format="%(message)s", logging_level="WARNING")
        assert len(logger.handlers) == 1
        engine.shutdown()
        engine.init(num_cpus=1, configure_logging=False, logging_level=logging.DEBUG)
        assert logger.level == logging.WARNING, "left alone"
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def test_the_handler_of_sigterm_comes_and_goes(no_engine: Any) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    engine.init(num_cpus=1)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    engine.shutdown()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def own(_number: int, _frame: Any) -> None:
        return None

    signal.signal(signal.SIGTERM, own)
    try:
        engine.init(num_cpus=1)
        assert signal.getsignal(signal.SIGTERM) is own
        engine.shutdown()
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_who_swallows_the_exit_dies_of_the_next_signal(tmp_path: Path) -> None:
    script = """
import signal, time
import engine

engine.init(num_cpus=1)
try:
    print("started", flush=True)
    time.sleep(600)
except SystemExit as error:
    print("swallowed", error, flush=True)
time.sleep(600)
"""
    process = run_script(script, tmp_path)
    try:
        assert process.stdout is not None
        for line in ("started", "swallowed 143"):
            assert process.stdout.readline().strip() == line
            process.terminate()
        assert process.wait(SECONDS) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


TERMINATED = """
import atexit, json, os, time
import multiprocessing
import psutil
import engine

engine.init(num_cpus=1)

@engine.remote
def sleep():
    time.sleep(600)

ref = sleep.remote()
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
child.start()
child.terminate()
child.join()
pids = [one.pid for one in psutil.Process().children(recursive=True)]
atexit.register(lambda: print("exit handlers ran", engine.is_initialized(), flush=True))
print(json.dumps([child.exitcode, pids]), flush=True)
{wait}
"""


@pytest.mark.parametrize("wait", ["engine.get(ref)", "time.sleep(600)", "while True: pass"])
def test_sigterm_ends_the_driver_through_its_exit_handlers(tmp_path: Path, wait: str) -> None:
    process = run_script(TERMINATED.replace("{wait}", wait), tmp_path)
    try:
        assert process.stdout is not None
        exit_code, pids = json.loads(process.stdout.readline())
        assert exit_code == -signal.SIGTERM, "a fork of the driver dies as it always did"
        assert all(map(psutil.pid_exists, pids))
        process.terminate()
        out, _ = process.communicate(timeout=SECONDS)
        assert out == "exit handlers ran True\n"
        assert process.returncode == 128 + signal.SIGTERM
        eventually(lambda: gone(pids), SECONDS)
    finally:
        process.kill()
        process.communicate()
