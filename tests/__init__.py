"""The tests; tests/kernel needs root, some of it a kernel with WireGuard (make test sees to both)."""
