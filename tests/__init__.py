"""Tests of penstock; a package so that workers can import what a test module defines."""
