"""Lines of workers, the pure part: cutting, keeping, counting repetitions, last words."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from engine.core.logs import (
    STDERR,
    STDOUT,
    Line,
    LineCutter,
    Repeats,
    Tail,
    last_words,
    prefix,
    quote,
)

LIMIT = 12


def cut(pieces: list[bytes], limit: int = LIMIT) -> list[str]:
    cutter = LineCutter(limit)
    lines = [line for piece in pieces for line in cutter.feed(piece)]
    return lines + cutter.end()


# ------------------------------------------------------------------------------------- cutting


@given(st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"x", b"\n")), max_size=12))
def test_lines_do_not_depend_on_how_the_bytes_arrive(pieces: list[bytes]) -> None:
    assert cut(pieces) == [_shown(line) for line in _lines(b"".join(pieces))]


@given(st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"0123456789abcdef"]), max_size=30))
def test_returns_overwrite_and_long_lines_are_cut(pieces: list[bytes]) -> None:
    assert cut(pieces) == [_shown(line) for line in _lines(b"".join(pieces))]


def _lines(data: bytes) -> list[bytes]:
    *whole, rest = data.split(b"\n")
    return [*whole, rest] if rest.strip(b"\r") else whole


def _shown(line: bytes) -> str:
    line = line.rstrip(b"\r").rpartition(b"\r")[2]
    text = line[:LIMIT].decode("utf-8", "backslashreplace")
    over = len(line) - LIMIT
    return text if over <= 0 else f"{text} ... [{over} more bytes were cut off]"


def test_a_line_of_any_length_takes_bounded_memory() -> None:
    cutter = LineCutter(LIMIT)
    for _ in range(1000):
        assert cutter.feed(b"x" * 1000) == []
        assert len(cutter._rest) == LIMIT
    assert cutter.feed(b"\n") == ["x" * LIMIT + " ... [999,988 more bytes were cut off]"]


def test_characters_may_be_split_between_pieces() -> None:
    data = "grüße €\n".encode()
    assert cut([data[at : at + 1] for at in range(len(data))]) == ["grüße €"]
    assert cut([b"\xff\xfe\n"]) == ["\\xff\\xfe"], "what is no text is shown escaped"


# ------------------------------------------------------------------------------------- keeping


@given(st.lists(st.lists(st.text("ab", max_size=9), min_size=1, max_size=4), max_size=40))
def test_a_tail_keeps_the_last_lines_within_its_limit(chunks: list[list[str]]) -> None:
    tail = Tail(50)
    for chunk in chunks:
        tail.add(STDOUT, "f", chunk)
        size = sum(len(line) + 1 for line in chunk)
        assert tail.nbytes < 50 + max(size, 40)
    written = [line for chunk in chunks for line in chunk]
    kept = tail.read()
    assert kept == written[len(written) - len(kept) :]
    assert tail.lines == len(written)
    total = sum(len(line) + 1 for line in written)
    assert sum(len(line) + 1 for line in kept) >= min(50, total)


def test_a_tail_is_read_by_stream_and_title() -> None:
    tail = Tail(1000)
    tail.add(STDOUT, "f", ["1"])
    tail.add(STDERR, "g", ["2", "3"])
    assert tail.read() == ["1", "2", "3"]
    assert tail.read(stream=STDERR) == ["2", "3"]
    assert tail.read(title="f") == ["1"]


def test_last_words_of_a_crash_name_the_line_and_not_the_engine() -> None:
    report = [
        "warning, long ago",
        "Fatal Python error: Segmentation fault",
        "",
        "Current thread 0x1 (most recent call first):",
        '  File "mine.py", line 3 in inner',
        '  File "mine.py", line 9 in outer',
        *[f'  File "/x/engine/runtime/worker.py", line {number} in run' for number in range(9)],
        "Extension modules: a, b",
    ]
    assert last_words(report, 4, 300) == [report[1], *report[3:6]]


def test_last_words_of_others_are_the_last_lines() -> None:
    lines = [str(number) for number in range(50)] + ["", "x" * 500]
    assert last_words(lines, 3, 10) == ["48", "49", "x" * 10 + " ..."]
    assert quote([]) == ""
    assert quote(["a", "b"]) == "\n  Its last lines on stderr:\n  a\n  b"


def test_the_prefix_is_that_of_ray() -> None:
    assert prefix("f", 7) == "(f pid=7)"
    assert prefix("", 7) == "(pid=7)"


# ------------------------------------------------------------------------------------- repeating


def feed(repeats: Repeats, pid: int, text: str, now: float) -> list[tuple[int, str]]:
    return [(line.pid, line.text + line.note) for line in repeats.feed(1, "f", pid, [text], now)]


def test_the_first_is_shown_and_the_others_are_counted() -> None:
    repeats = Repeats(5.0)
    assert feed(repeats, 1, "x", 0.0) == [(1, "x")]
    for pid in (2, 3, 4, 2):
        assert feed(repeats, pid, "x", 1.0) == []
    assert repeats.next_due() == 5.0
    assert repeats.tick(4.9) == []
    assert repeats.tick(5.0) == [Line(1, "f", 2, "x", " [repeated 4x across 3 workers]")]


def test_counting_goes_on_while_it_is_repeated_and_ends_then() -> None:
    repeats = Repeats(5.0)
    feed(repeats, 1, "x", 0.0)
    for now in range(1, 5):
        feed(repeats, 2, "x", float(now))
    assert feed(repeats, 2, "other", 5.0)[0] == (2, "x [repeated 4x across 1 worker]")
    assert feed(repeats, 2, "x", 6.0) == [], "even of the same worker"
    assert [line.text for line in repeats.tick(10.0)] == ["x"], "once: no number"
    assert repeats.tick(100.0) == []
    assert repeats.next_due() is None
    assert feed(repeats, 3, "x", 100.0) == [(3, "x")]


def test_a_worker_that_repeats_only_itself_is_shown() -> None:
    repeats = Repeats(5.0)
    assert [feed(repeats, 1, "x", 0.1 * n) for n in range(3)] == [[(1, "x")]] * 3
    assert repeats.flush() == []


def test_blank_lines_streams_and_names_are_apart() -> None:
    repeats = Repeats(5.0)
    assert [feed(repeats, pid, "  ", 0.0) for pid in (1, 2)] == [[(1, "  ")], [(2, "  ")]]
    assert repeats.feed(1, "f", 1, ["x"], 0.0)
    assert repeats.feed(2, "f", 2, ["x"], 0.0)
    assert repeats.feed(1, "g", 3, ["x"], 0.0)


def test_counting_can_be_off() -> None:
    repeats = Repeats(0.0)
    assert [feed(repeats, pid, "x", 0.0) for pid in (1, 2)] == [[(1, "x")], [(2, "x")]]
    assert repeats.next_due() is None


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from("abc"), st.floats(0, 3)), max_size=60
    )
)
def test_every_line_is_shown_or_counted(history: list[tuple[int, str, float]]) -> None:
    repeats, now = Repeats(2.0), 0.0
    shown: list[Line] = []
    for pid, text, pause in history:
        now += pause
        shown += repeats.feed(1, "f", pid, [text], now)
    shown += repeats.flush()
    counted: Counter[str] = Counter()
    for line in shown:
        counted[line.text] += int(line.note.split()[1][:-1]) if line.note else 1
    assert counted == Counter(text for _pid, text, _pause in history)


def test_many_different_lines_take_bounded_memory() -> None:
    repeats = Repeats(5.0)
    feed(repeats, 1, "first", 0.0)
    feed(repeats, 2, "first", 0.0)
    told = [line for n in range(3000) for line in repeats.feed(1, "f", 1, [f"line {n}"], 0.0)]
    assert len(told) == 3001, "those and the one that was counted"
    assert len(repeats._recent) <= 1_000
