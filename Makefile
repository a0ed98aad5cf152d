# Each of these does all the set-up that it needs; `make test` and `make demo` want root for what changes namespaces.
.PHONY: demo test bench

demo: .venv/demo
	@tests/with-wireguard demo/demo

test: .venv/tests
	@tests/all

bench: .venv/tests
	@bench/all

.venv/demo .venv/tests: setup.cfg pyproject.toml
	@tests/setup $(@F)
