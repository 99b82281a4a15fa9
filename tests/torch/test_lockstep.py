"""Passes that wait for each other end, all of them, when they are interrupted: whenever that is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from secateur.torch.compensation.lockstep import Lockstep

_STRUCK = """
import os, random, signal, threading, time
from secateur.torch.compensation.lockstep import Lockstep

ended = []

def one(number, steps, points):
    try:
        for point in points:
            sum(range(200))
            steps.meet(number, point, number)
    finally:
        ended.append(number)

def once(delay):
    points = [str(n) for n in range(40)]
    steps = Lockstep(points, lambda point, here: sum(range(300)))
    passes = [lambda number: one(number, steps, points) for _ in range(4)]
    killer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    try:
        killer.start()
        steps.run(passes)
        killer.join()
        time.sleep(1)
    except KeyboardInterrupt:
        killer.join()
        return True
    return False

def strike_at(name, count):
    # Ctrl-C as the main thread comes to a method of the condition for this time
    points, left = ["0", "1"], iter(range(count))
    steps = Lockstep(points, lambda point, here: 0)
    method = getattr(steps._turn, name)

    def struck(*given):
        if threading.current_thread() is threading.main_thread() and next(left, None) is None:
            setattr(steps._turn, name, method)
            signal.raise_signal(signal.SIGINT)
        return method(*given)

    setattr(steps._turn, name, struck)
    try:
        steps.run([lambda number: one(number, steps, points) for _ in range(3)])
    except KeyboardInterrupt:
        return True
    return False

def none_is_left():
    alive = [t for t in threading.enumerate() if t is not threading.main_thread()]
    assert not alive, alive

signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite started in the background ignores it
drawn, struck = random.Random(0), 0
for name in ("notify_all", "wait"):
    for count in range(12):
        struck += strike_at(name, count)
        none_is_left()
for _ in range(40):
    struck += once(drawn.uniform(0, 0.02))
    none_is_left()
print(struck, len(ended))
"""


def test_no_pass_is_left_waiting_when_ctrl_c_strikes() -> None:
    done = subprocess.run([sys.executable, "-c", _STRUCK], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    struck, _ = map(int, done.stdout.split())
    assert struck > 25


def test_a_fault_in_what_is_decided_ends_all_passes() -> None:
    ended: list[int] = []

    def body(number: int) -> None:
        try:
            steps.meet(number, "a", None)
        finally:
            ended.append(number)

    def decide(point: str, here: dict[int, None]) -> None:
        raise ValueError("nothing to decide")

    steps = Lockstep[None, None](["a"], decide)
    with pytest.raises(ValueError, match="nothing"):
        steps.run([body, body])
    assert ended == [0, 1]
