"""The rows of RELIABILITY.md: what is promised, and what of it cannot hold here, and why."""

from __future__ import annotations

import dataclasses

__all__ = ["PROMISES", "Promise"]


@dataclasses.dataclass(frozen=True)
class Promise:
    """A row. `outside`: the part that is not promised, and why; `whole`: that is all of it."""

    name: str
    fault: str
    promise: str
    outside: str = ""
    whole: bool = False


_HOSTS = (
    "an engine has one host: there is no network to lose. The machines for several hosts are put "
    "to it in the simulator (R4)"
)

PROMISES = [
    Promise(
        "R1", "all faults, simulated",
        "100,000 fresh seeds of the simulator, none fails",
    ),
    Promise("R2", "speed of the simulator", "10 simulated seconds a second, on one core"),
    Promise(
        "R3", "replay of a seed", "the same seed is the same trace, in any process, 1,000 seeds",
    ),
    Promise(
        "R4", "strength of simulated faults",
        "deaths at any time and at named points, stops, stalls, slow and cut lines, disk faults, "
        "little memory. A quarter of the seeds have a head and 2 to 5 nodes: of their datagrams 1, "
        "10 or 30 % are lost, 2 or 50 % come twice, a fifth is late by up to 30 ms and overtaken, "
        "those of slow hosts take 30 times as long; links are cut one way or both, hosts from all "
        "others, for up to twice the time after which a node is declared dead; nodes and the head "
        "stop, crash and come back, with journal writes lost, torn or garbled. Each kind is hit",
        "loss on lines between processes of one host: they lose nothing but with their ends",
    ),
    Promise(
        "R5", "worker `kill -9`, busy with tasks",
        "1,000 kills: nothing lost or visible twice; a new worker within 0.3 s (p50), 1 s (p99)",
    ),
    Promise(
        "R6", "actor with checkpoints, `kill -9`",
        "1,000 kills: each call applied once, in its order; back within 2 s (p99) with 10 MB of "
        "state; a checkpoint every 1,000 calls costs less than 5 % of the calls' rate, the order "
        "of calls less than 10 %",
    ),
    Promise("R7", "whole node silent", "suspected in 2 s, dead in 5 s", _HOSTS, whole=True),
    Promise(
        "R8", "lost objects", "1 GiB is made again by running what made it; the values are right",
        "what a lost host had: " + _HOSTS,
    ),
    Promise(
        "R9", "head `kill -9`",
        "whoever waits is told at once, and a new engine serves within 5 s (p99)",
        "no acknowledged submission lost: the head lives in the node, and all work of an engine "
        "ends with its node; what outlives it are checkpoints of topologies, and in the directory "
        "of a node that stands its scopes and detached actors",
    ),
    Promise(
        "R10", "streams: death while mapping, saving, restoring, committing, closing",
        "the output is that of an undisturbed run: nothing lost, nothing twice",
        "parallelism 20: two cores; runs have 1, 2 and 3 copies of each stage",
    ),
    Promise(
        "R11", "streams from files to files, members and drivers killed",
        "the files hold each row once, 16 combinations of faults",
    ),
    Promise(
        "R12", "time to recover of a stream",
        "first output 3 s (p99) after a kill, with 100 MB of state",
        "a time by which what was missed is caught up",
    ),
    Promise(
        "R13", "rescaling and a kill at once", "as R10",
        "a job goes on with as many copies as it had: another number is refused, with a reason",
        whole=True,
    ),
    Promise(
        "R14", "graphs: a kill in each superstep",
        "bit-identical results (PageRank within 1e-9)",
    ),
    Promise(
        "R15", "partitions", "no double effect, done 30 s after they heal", _HOSTS, whole=True
    ),
    Promise("R16", "loss, delay, little bandwidth", "correct, no false death", _HOSTS, whole=True),
    Promise(
        "R17", "damage to checkpoints and spilled values",
        "10,000 flips, cuts, swaps and stale files of each kind: all noticed; a topology falls "
        "back to the epoch before",
    ),
    Promise(
        "R18", "power lost at every operation of a commit, unsynced data gone",
        "the old epoch or the new one, never a mix; none older than the last that had returned",
    ),
    Promise(
        "R19", "the N-th write, sync or rename fails, for every N",
        "processes live; values stay in memory or the error says where there is no room and what "
        "to do; work goes on when there is space",
    ),
    Promise(
        "R20", "memory hog",
        "stopped within 1 s of its limit, 100 times of 100; the error names sizes and holders; "
        "everybody else works on",
    ),
    Promise("R21", "poison task or actor", "given up after some deaths, with its story"),
    Promise(
        "R22", "ways to die x moments x task, nested task, method",
        "every case has its error, within 2 s",
    ),
    Promise(
        "R23", "stragglers: a stopped process",
        "a stream waits, nothing is lost, nothing piles up; tasks that allow it are overtaken",
    ),
    Promise(
        "R24", "the wall clock jumps by a minute, at every reading",
        "decisions do not change, event-time output is identical; only monotonic clocks decide",
        "the machine's own clock is not set: readings of Python code are what jumps",
    ),
    Promise(
        "R25", "overload, and too few descriptors",
        "queues have bounds: ten minutes of overload add 5 % of memory at most; without "
        "descriptors the error says what to do, and the engine lives on",
    ),
    Promise(
        "R26", "leaks", "nothing is left after a trial: processes, threads, descriptors, memory, "
        "files; after `kill -9` of a driver or node all is gone within 2 s",
        "a soak of eight hours",
    ),
    Promise("R27", "error handlers", "every body of an `except` is run by some test"),
    Promise("R28", "flaky tests", "200 reruns of all tests, none fails"),
    Promise(
        "R29", "unauthenticated peer", "there is none: no socket of the internet family is opened",
        "peers on other hosts: " + _HOSTS,
    ),
    Promise(
        "R30", "malformed input",
        "a million mutated frames, manifests, states and values: no crash, no large allocation",
    ),
]  # fmt: skip
