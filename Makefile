# Each of these does all the set-up that it needs; `make test` and `make demo` want root for what changes namespaces.
.PHONY: demo test bench

demo: .venv/ready
	@tests/with-wireguard demo/demo

test: .venv/ready
	@tests/all

bench: .venv/ready
	@bench/all

.venv/ready: setup.cfg pyproject.toml
	@tests/setup
