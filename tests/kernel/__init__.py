"""Tests that change network namespaces, mounts and /etc; they run in tests/sandbox."""
