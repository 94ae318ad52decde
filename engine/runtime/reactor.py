"""Who reads the sockets, and when: the event loop that a waiting thread runs itself.

Under the GIL a hand-off between threads costs 50-100 us, more than a whole call. So there is no I/O
thread on the path of a call: whoever waits (`get`, a worker between calls) takes the *baton* and
runs turns of the loop until what it waits for is there. A service thread takes the baton only when
every other thread has stayed away for a tick, and hands it back at once when asked.

A turn polls without blocking for a while before it sleeps: waking an idle core costs more than the
reply takes. How long adapts to how often polling paid (`_Spin`), and each poll yields the core, so
an oversubscribed machine does not burn it.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from engine.wire.connection import Connection, ConnectionClosed, ProtocolError

__all__ = ["Reactor"]

_IN = select.EPOLLIN
_OUT = select.EPOLLOUT
_LOAD_SAMPLE_SECONDS = 0.05
_STOP_SECONDS = 2.0


class _Spin:
    """How long to poll before sleeping: the window while polling pays, else nothing.

    Every wait tells how long it took, polled or slept, so the estimate follows in both directions.
    """

    __slots__ = ("_cpus", "_crowded", "_hits", "_sampled", "window")

    def __init__(self, window: float) -> None:
        self.window = window
        self._hits = 0.5
        self._sampled = 0.0
        self._crowded = False
        self._cpus = len(os.sched_getaffinity(0))

    def budget(self, now: float) -> float:
        if self._hits < 0.2 or self.window == 0.0:
            return 0.0
        if now - self._sampled > _LOAD_SAMPLE_SECONDS:
            self._sampled = now
            try:
                with open("/proc/loadavg") as file:
                    running = int(file.read().split()[3].partition("/")[0])
            except OSError:  # no descriptor is left for it: rather sleep than poll
                running = 1 << 16
            self._crowded = running > 2 * self._cpus
        return self.window / 4 if self._crowded else self.window

    def learn(self, waited: float) -> None:
        self._hits += 0.1 * ((1.0 if waited < self.window else 0.0) - self._hits)


class Reactor:
    """Connections of one process, the lock around its state, and the baton.

    `on_messages(connection, messages)` and `on_closed(connection)` run under `lock`;
    `on_tick(now)` too, and returns when to be called next (seconds of `perf_counter`, or None).
    """

    def __init__(
        self,
        on_messages: Callable[[Connection, list[Any]], None],
        on_closed: Callable[[Connection], None],
        on_tick: Callable[[float], float | None],
        *,
        spin_seconds: float,
        tick_seconds: float,
    ) -> None:
        self.lock = threading.RLock()
        self._baton = threading.Lock()
        self._holder = 0  # the thread that has it
        self._on_messages = on_messages
        self._on_closed = on_closed
        self._on_tick = on_tick
        self._epoll = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._dirty: set[Connection] = set()
        self._stuck: set[Connection] = set()
        self._spin = _Spin(spin_seconds)
        self._tick_seconds = tick_seconds
        self._kick_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watched: dict[int, Callable[[], None]] = {}
        self.watch(self._kick_fd, self._kicked)
        self._waiters: deque[threading.Lock] = deque()
        self.after_turn: deque[Callable[[], None]] = deque()
        self.sleeping = False
        self.touched = 0
        self._next_tick = 0.0
        self._park = threading.Semaphore(0)
        self._parked = False
        self._stopped = False
        self.on_service_tick: Callable[[], None] | None = None
        self._alone = False  # the service thread has the baton
        self._service: threading.Thread | None = None

    # ------------------------------------------------------------------ connections

    def add(self, connection: Connection) -> None:
        """Serve a connection from now on."""
        self._by_fd[connection.fd] = connection
        self._epoll.register(connection.fd, _IN)

    def remove(self, connection: Connection) -> None:
        """Stop serving a connection and close it."""
        if self._by_fd.pop(connection.fd, None) is not None:
            self._epoll.unregister(connection.fd)
        self._dirty.discard(connection)
        self._stuck.discard(connection)
        connection.close()

    def watch(self, fd: int, on_readable: Callable[[], None], *, edge: bool = False) -> None:
        """Call `on_readable` (under the lock) whenever a descriptor is readable.

        `edge`: only when it has become so, for one that is read somewhere else.
        """
        self._watched[fd] = on_readable
        self._epoll.register(fd, _IN | select.EPOLLET if edge else _IN)

    def unwatch(self, fd: int) -> None:
        """Forget a watched descriptor; the caller closes it."""
        del self._watched[fd]
        self._epoll.unregister(fd)

    def send(self, connection: Connection, message: Any, now: bool) -> None:
        """Queue a message; `now`: write it at once. The caller holds the lock."""
        connection.out.append(message)
        if now or self.sleeping:
            self.flush_one(connection)
        else:
            self._dirty.add(connection)

    def mark(self, connection: Connection) -> None:
        """Something was queued on the connection itself; the next flush writes it."""
        self._dirty.add(connection)

    def drain_and_remove(self, connection: Connection) -> None:
        """Handle what a dead process still had sent, then forget its connection."""
        self.hear_out(connection)
        if not connection.closed:
            self.remove(connection)

    @property
    def all_written(self) -> bool:
        """Whether the kernel has everything that was queued."""
        return not self._dirty and not self._stuck

    def hear_out(self, connection: Connection) -> None:
        """Handle what a process has sent so far. The caller holds the lock."""
        if connection.fd in self._by_fd and not connection.closed:
            self._receive(connection)

    def flush(self) -> None:
        """Write what is queued on every connection. The caller holds the lock."""
        while self._dirty:
            self.flush_one(self._dirty.pop())

    def flush_one(self, connection: Connection) -> None:
        """Write what is queued on one connection now. The caller holds the lock."""
        if connection.closed:
            return
        try:
            done = connection.flush()
        except ConnectionClosed:
            self._dirty.discard(connection)
            return  # its end is reported when it is read
        stuck = connection in self._stuck
        if not done and not stuck:
            self._stuck.add(connection)
            self._epoll.modify(connection.fd, _IN | _OUT)
        elif done and stuck:
            self._stuck.discard(connection)
            self._epoll.modify(connection.fd, _IN)

    # ------------------------------------------------------------------ waiting

    def wait_until(self, ready: Callable[[], bool], deadline: float | None = None) -> bool:
        """Serve the sockets until `ready()`; False when `deadline` (perf_counter) came first."""
        if self._holder == threading.get_ident():  # a callback of a turn that waits itself
            return self._serve_until(ready, deadline)
        while not ready():
            if self._stopped:
                return ready()
            if self._take_baton():
                try:
                    return self._serve_until(ready, deadline)
                finally:
                    self._pass_on()
            elif not self.wait_for_holder(ready, deadline):
                return ready()
        return True

    def _serve_until(self, ready: Callable[[], bool], deadline: float | None) -> bool:
        """Turns until `ready()`; the caller has the baton."""
        while not ready():
            if self._stopped:
                return False
            timeout = None if deadline is None else deadline - perf_counter()
            if timeout is not None and timeout <= 0:
                self._turn(0.0)  # one last look: what has arrived counts, also for timeout=0
                return ready()
            self._turn(timeout)
        return True

    def _take_baton(self) -> bool:
        if not self._baton.acquire(blocking=False):
            return False
        self._holder = threading.get_ident()
        return True

    def wait_for_holder(self, ready: Callable[[], bool], deadline: float | None) -> bool:
        """Wait until another thread has served the sockets. Changes nothing that an exception
        raised in it could leave half-way.
        """
        ticket = threading.Lock()
        ticket.acquire()
        self._waiters.append(ticket)
        if self._alone:
            self.kick()
        if self._stopped:
            return False
        if not self._baton.locked() or ready():
            return True  # the holder left before it could see the ticket
        timeout = -1.0 if deadline is None else deadline - perf_counter()
        if deadline is not None and timeout <= 0:
            return False
        # The cap guards against a holder that is stuck in a callback of the user.
        ticket.acquire(timeout=min(timeout, 1.0) if timeout > 0 else 1.0)
        return True

    def poll(self) -> None:
        """One turn that does not wait; nothing when another thread serves already."""
        if self._take_baton():
            try:
                self._turn(0.0)
            finally:
                self._pass_on()

    def _pass_on(self) -> None:
        self._holder = 0
        self._baton.release()
        if self._waiters:
            self._wake_waiters()
        if self._parked:
            self._parked = False
            self._park.release()

    def _wake_waiters(self) -> None:
        while self._waiters:
            with contextlib.suppress(IndexError, RuntimeError):  # taken or timed out meanwhile
                self._waiters.popleft().release()

    def kick(self) -> None:
        """Wake whoever sleeps in a turn, from any thread."""
        os.eventfd_write(self._kick_fd, 1)

    def _kicked(self) -> None:
        with contextlib.suppress(BlockingIOError):  # two kicks, one event
            os.eventfd_read(self._kick_fd)

    # ------------------------------------------------------------------ one turn

    def _turn(self, timeout: float | None) -> None:
        """Wait at most `timeout` for events and handle them. The caller has the baton."""
        self.touched += 1
        if self._stopped:
            return
        if self._dirty:
            with self.lock:
                self.flush()
        poll = self._epoll.poll
        events = poll(0)
        if not events and timeout != 0.0:
            events = self._wait(timeout)
        if self._stopped:
            return
        if events:
            self._handle(events)
        elif timeout == 0.0 and not self._next_tick:
            return
        now = perf_counter()
        if self._next_tick and now >= self._next_tick:
            self.tick(now)

    def _wait(self, timeout: float | None) -> list[tuple[int, int]]:
        poll = self._epoll.poll
        start = now = perf_counter()
        budget = self._spin.budget(now)
        if budget:
            end = start + (budget if timeout is None or budget < timeout else timeout)
            yield_core = os.sched_yield
            while now < end:
                events = poll(0)
                if events:
                    self._spin.learn(now - start)
                    return events
                yield_core()
                now = perf_counter()
        if timeout is not None:
            timeout = max(0.0, timeout - (now - start))
        if self._next_tick:
            until = max(0.0, self._next_tick - now)
            timeout = until if timeout is None else min(timeout, until)
        self.sleeping = True
        if self._dirty:  # queued by another thread after the flush above
            with self.lock:
                self.flush()
        try:
            events = poll(timeout)
        finally:
            self.sleeping = False
        self._spin.learn(perf_counter() - start)
        return events

    def _handle(self, events: list[tuple[int, int]]) -> None:
        with self.lock:
            for fd, mask in events:
                connection = self._by_fd.get(fd)
                if connection is None:
                    if fd in self._watched:
                        self._watched[fd]()
                    continue
                if mask & _OUT:
                    self.flush_one(connection)
                if mask & ~_OUT:
                    self._receive(connection)
        while self.after_turn:
            self.after_turn.popleft()()
        if self._waiters and not self._alone:  # the service thread leaves instead
            self._wake_waiters()

    def _receive(self, connection: Connection) -> None:
        try:
            messages = connection.receive()
        except (ConnectionClosed, ProtocolError) as error:
            connection.trouble = str(error) if isinstance(error, ProtocolError) else ""
            self.remove(connection)
            self._on_closed(connection)
            return
        if messages:
            self._on_messages(connection, messages)

    def tick(self, now: float) -> None:
        """Let the owner of the reactor look at its clocks."""
        with self.lock:
            following = self._on_tick(now)
            self._next_tick = following or 0.0
            if self._dirty:
                self.flush()

    @property
    def ticking(self) -> bool:
        """Whether a tick is due at some time."""
        return bool(self._next_tick)

    def look_at(self, when: float) -> None:
        """Ask for a tick at `when` at the latest."""
        if not self._next_tick or when < self._next_tick:
            self._next_tick = when

    # ------------------------------------------------------------------ service thread

    def start_service(self) -> None:
        """Start the thread that serves the sockets while all others are elsewhere."""
        self._service = threading.Thread(target=self._serve, name="engine-service", daemon=True)
        self._service.start()

    def _serve(self) -> None:
        seen, idle = -1, 0
        while not self._stopped:
            if self._park.acquire(timeout=self._tick_seconds):
                continue
            if self._dirty and self.lock.acquire(blocking=False):
                try:
                    self.flush()
                finally:
                    self.lock.release()
            if self.on_service_tick is not None:
                self.on_service_tick()
            if self.touched != seen:
                seen, idle = self.touched, 0
                continue
            if self._take_baton():
                self._serve_alone()
                seen, idle = self.touched, 0
            elif self.sleeping:
                idle += 1
                if idle > 2:  # somebody else waits at the sockets: sleep until it leaves
                    self._parked = True
                    if not self._baton.locked():
                        self._parked = False
                    else:
                        self._park.acquire()
                    idle = 0

    def _serve_alone(self) -> None:
        self._alone = True
        try:
            while not (self._stopped or self._waiters):
                # A worker's interrupt may have to be tried again: do not sleep for long then.
                self._turn(None if self.on_service_tick is None else self._tick_seconds * 10)
                if self.on_service_tick is not None:
                    self.on_service_tick()
        finally:
            self._alone = False
            self._pass_on()

    def stop(self) -> None:
        """End the service thread and close every connection."""
        self._stopped = True
        self.kick()
        self._park.release()
        if self._service is not None and self._service is not threading.current_thread():
            self._service.join(timeout=_STOP_SECONDS)
        # Nobody may be inside a turn when the descriptors go: their numbers are used again.
        served = self._baton.acquire(timeout=_STOP_SECONDS)
        with self.lock:
            for connection in list(self._by_fd.values()):
                self.remove(connection)
        self._wake_waiters()
        if served:  # else somebody is stuck in a turn: rather leak two descriptors
            self._epoll.close()
            os.close(self._kick_fd)
            self._baton.release()
