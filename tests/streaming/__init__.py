"""Tests of the streaming package."""
