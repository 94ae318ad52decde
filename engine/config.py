"""Every limit and time-out of the engine in one frozen record, with unit and reason.

A limit without a reason is a guess; each line says where the number comes from, so that it can be
argued with. `Config()` is made once by `init()` and travels to every process of the cluster.
"""

from __future__ import annotations

import msgspec

__all__ = ["Config"]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and time-outs. Sizes in bytes, times in seconds unless the name says otherwise."""

    # Values up to this size travel inside frames and live with their owner; above it a copy into
    # shared memory is cheaper than two copies through a socket (the paper's systems use 100 KB).
    inline_bytes_max: int = 100 * 1024
    # A frame is refused before its body is read when it claims more than this.
    frame_bytes_max: int = 64 << 20
    # Frames are gathered up to this size before a write, unless somebody waits for them.
    flush_bytes: int = 64 << 10
    # Messages gathered on a busy connection before a write. 32 keeps the receiver fed while the
    # per-write cost (about 1 us) is already divided by more than the cost of a call.
    flush_messages: int = 32
    # Calls a process may have in flight before `.remote()` blocks: enough to fill any pipeline,
    # few enough that a million submissions stay in bounded memory (about 1 KiB each).
    in_flight_calls_max: int = 20_000
    in_flight_bytes_max: int = 512 << 20
    # What `.remote()` does at that limit: "block", or "raise" SubmissionLimitExceeded.
    on_full: str = "block"
    # Unit of shared memory a process leases from its node, so that a put needs no round trip.
    segment_bytes: int = 64 << 20
    # Bytes of objects on disk at most, and as a share of what is free there at the start: the rest
    # belongs to others. 0 switches spilling off.
    spilled_bytes_max: int = 1 << 40
    spilled_disk_share: float = 0.5
    # More is spilled at a time than is missing: one round of asking serves many values. 64 MiB
    # take a disk about as long as it takes to notice.
    spill_batch_bytes: int = 64 << 20
    # Tries to write a value to disk, and how long none is made after the last has failed.
    spill_attempts_max: int = 3
    spill_retry_seconds: float = 1.0
    # How long memory may fail to become free before new values go to disk instead: the calls
    # under way at the moment usually end within that.
    store_patience_seconds: float = 0.2
    # How long a value that can go nowhere else waits for memory.
    store_wait_seconds: float = 10.0
    # What an owner keeps to make large results again that are lost: about 1.5 KiB a task, and the
    # arguments that could not be made again. Beyond it the oldest results are not rebuilt. 256 MiB:
    # a hundred thousand results in blocks, or as much of arguments as may lie in memory unseen. 0
    # switches it off.
    lineage_bytes_max: int = 256 << 20
    # Memory beyond the limit of the store, as a share of it, that only the results of tasks run
    # again may take: what others wait for must not wait for memory that they hold. One large value
    # of a common store; what does not fit waits, ahead of all others.
    recovery_store_share: float = 0.05
    # How long a waiting thread polls before it sleeps. Waking an idle core costs 50-80 us, so a
    # reply that comes within this window is worth the polling.
    spin_seconds: float = 100e-6
    # The service thread looks after the sockets when the user's thread was away this long.
    service_tick_seconds: float = 0.005
    # Leases are given back when unused for this long; shorter would cost a round trip a task.
    lease_idle_seconds: float = 0.2
    # A busy lease may be called back by the node after this long if others wait for it.
    lease_quantum_seconds: float = 0.05
    # Idle workers beyond one a CPU end after this long: bursts reuse them, memory is not kept.
    worker_idle_seconds: float = 5.0
    # Idle workers in all; above it the oldest end at once. A burst of short tasks is served without
    # forking again, at a few hundred pages of private memory each.
    idle_workers_max: int = 128
    # Workers of a runtime environment that may die one after the other before they are ready; then
    # what waits for them fails. More than one, because anything may kill a process.
    worker_starts_max: int = 3
    # Work that has waited for resources for so long is worth a warning: by then it is rarely short.
    waiting_warning_seconds: float = 10.0
    # Tasks sent ahead to one worker: enough work to cover a round trip, never more than this.
    pipeline_depth_max: int = 256
    pipeline_target_us: int = 4_000
    # Concurrent workers that zero-CPU tasks of one owner may open.
    leases_per_shape_max: int = 64
    # How long the node and the first worker may take to answer at start-up.
    start_timeout_seconds: float = 30.0
    # How long `shutdown()` waits for a graceful end before it kills.
    stop_timeout_seconds: float = 2.0
    # Above this size a pickled function is refused: it nearly always captured data by accident.
    function_bytes_max: int = 100 << 20
    # How long an actor restored from a checkpoint waits for those that may know of calls applied
    # since, and for each such call: a process stopped for longer counts as dead.
    replay_patience_seconds: float = 30.0
    # So many deaths of one task or actor within the window, and it is not tried again, whatever its
    # budget. 5: the default max_retries=3 must come to its own end (4 deaths); a worker costs some
    # 20 ms, so a poison task is stopped within a fraction of a second. 30 s: also what dies only
    # after seconds of loading is caught, and what lives longer costs the machine little.
    restart_deaths_max: int = 5
    restart_window_seconds: float = 30.0
    # Memory is looked at this often at least when it may run out before the next look, and up to a
    # second apart while there is plenty. 0.1: a core touches fresh memory at about 2 GiB/s, so the
    # overshoot stays below what 5 % of a common machine leaves.
    memory_watch_seconds: float = 0.1
    # Share of the machine's (or its cgroup's) memory above which a worker is stopped, as in Ray:
    # above it the kernel is about to choose somebody itself.
    memory_used_share_max: float = 0.95
    # A task or actor stopped for its memory waits before it is tried again, twice as long each
    # time: memory needs a moment to become free, and others may need it first.
    memory_backoff_seconds: float = 0.5
    memory_backoff_seconds_max: float = 10.0
    # An idle worker that holds more memory of its own is replaced. It starts with less than 5 MiB,
    # and its allocator keeps 64 MiB on purpose; beyond four times that it has leaked or hoarded
    # more than the 20 ms of a new worker are worth.
    worker_recycle_bytes: int = 256 << 20
    # Small values and calls that a scope's keeper remembers in memory, and its node as well: what
    # is large lies in the object store and counts there.
    scope_bytes_max: int = 256 << 20
    # The journal of a standing node is written this much behind: many events share one write, and
    # so much may be missing after the death of the node itself.
    journal_seconds: float = 0.02
    # Events after which the journal is written anew without those that no longer say anything.
    journal_events_max: int = 50_000
    # A longer line of a worker's output is cut visibly; nobody reads more in one line.
    log_line_bytes_max: int = 16 << 10
    # Output on its way to the driver's terminal. When so much waits there, workers that print wait
    # too: 1 MiB is more than a terminal shows in the time of a round trip.
    log_window_bytes: int = 1 << 20
    # Output is read once in this time from one worker: lines gather, so that a loop that prints
    # does not wake two processes for each line. Too short for an eye to notice.
    log_pace_seconds: float = 0.005
    # The last lines of a live worker kept for `engine.state.get_log`, and those of all dead ones.
    log_kept_bytes: int = 64 << 10
    log_kept_bytes_dead: int = 4 << 20
    # The same line of several workers is counted for this long before it is shown again, as in
    # Ray. 0 shows every line.
    log_dedup_seconds: float = 5.0
    # The last lines on stderr that the error of a crashed worker ends with: a traceback's end.
    log_error_lines: int = 12
    # Records of finished calls that each process keeps for `engine.state` and `engine.timeline`:
    # about 300 bytes each. As many as stay in a core's own cache: with 10,000 each record evicts
    # something that the call needs, which costs a call of an actor a tenth of its time.
    task_events_kept: int = 2_000
    # Speculative tasks (`speculative=True`). A task is late beyond this many medians of its
    # siblings: run times of like work seldom spread by more than a factor of two, and a copy too
    # many costs a free worker one task.
    speculation_factor: float = 3.0
    # Below this a copy saves less than the noise of a shared machine.
    speculation_seconds_min: float = 0.2
    # Siblings that must have ended: a median of fewer is luck.
    speculation_siblings_min: int = 5
    # How often running tasks are looked at: a late one is seen this much later at most.
    speculation_look_seconds: float = 0.05
    # From the interrupt of the copy that came second to the end of its process.
    speculation_grace_seconds: float = 1.0
    # Between nodes. A heartbeat four times a second: with a third of them lost, none counts as dead
    # in years. Suspected (given nothing new) after six, dead after 4.5 s: more is long for a user.
    heartbeat_seconds: float = 0.25
    node_suspected_seconds: float = 1.5
    node_dead_seconds: float = 4.5
    # A node that the head has not answered for so long lets nothing out any more: before the head
    # takes it for dead, with a second and a half for what two clocks may differ in.
    node_lease_seconds: float = 3.0
    # A node that has not found its head for so long ends its workers: nobody will miss them.
    node_orphan_seconds: float = 60.0
    # Bytes on their way to another node and queued for it: 4 MiB fill 10 Gbit/s at 3 ms.
    session_window_bytes: int = 4 << 20
    # What is not acknowledged is sent again after this long, then twice as long each time.
    session_resend_seconds: float = 0.2
    session_resend_seconds_max: float = 2.0
    # A value from another node comes in pieces of this size, so that small messages get through.
    pull_bytes: int = 256 << 10
    # Work that waits here for so long may be sent to a node that has room.
    spillback_seconds: float = 0.01
