"""Promises put to the test by real processes: kill loops, damage, full disks, overload, fuzz.

`trial.py` says what a trial is; the other modules hold trials, by what they break. Each has a short
form, which `test_short.py` runs with all tests, and a long one (`make chaos`), whose results are
kept and shown in RELIABILITY.md (`promises.py`, `report.py`).
"""
