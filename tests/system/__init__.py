"""Tests of the units on a booted systemd: in the test machine only, since they take it over."""
