"""Tests of the engine: pure machines first, then real processes."""
