"""Tests of `engine.topology` and of the credits below it."""
