"""Tests of engine.util with real processes."""
