"""Windows in event time: averages per sensor and minute of readings that arrive out of order.

A reading may be up to 20 s late. The window of a minute closes when the newest reading is 20 s past
its end; what comes even later is not dropped but goes to a stream of its own.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa

import streaming as st

READINGS = 200_000
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def readings() -> pa.Table:
    """A day of temperatures in the order of arrival; one in a thousand is an hour late."""
    rng = np.random.default_rng(7)
    taken = np.sort(rng.uniform(0, 86_400, READINGS))
    delay = rng.uniform(0, 10, READINGS) + np.where(rng.random(READINGS) < 0.001, 3600, 0)
    order = np.argsort(taken + delay, kind="stable")
    at = (START.timestamp() + taken) * 1e6
    table = {
        "sensor": np.array(["cellar", "attic", "garden"])[rng.integers(0, 3, READINGS)],
        "at": at.astype("datetime64[us]"),
        "celsius": 15 + 5 * np.sin(taken / 86_400 * 2 * np.pi) + rng.normal(0, 0.5, READINGS),
    }
    return pa.table(table).take(order)


def main() -> None:
    """Average per minute; print the coldest minutes and what was late."""
    job = st.Job("temperatures")
    source = st.from_arrow(readings(), batch_rows=1024)
    minutes = (
        job.source(source, event_time="at", out_of_orderness="20s")
        .key_by("sensor")
        .window(st.tumble("1m"))
        .agg(mean=st.mean("celsius"), readings=st.count())
    )
    minutes.sink(st.collect(), name="minutes")
    minutes.late.sink(st.collect(), name="late")
    result = job.run(parallelism=2)

    print(f"{result['minutes'].num_rows:,} windows, {result['late'].num_rows} late readings")
    for row in result["minutes"].sort_by("mean").slice(0, 5).to_pylist():
        print(f"  {row['window_start']:%H:%M}  {row['sensor']:7}  {row['mean']:.2f} C")


if __name__ == "__main__":
    main()
