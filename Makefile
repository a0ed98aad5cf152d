# Each of these does all the set-up that it needs; `make test` and `make demo` want root for what changes namespaces.
.PHONY: demo test bench install uninstall deb

demo: .venv/demo
	@tests/with-wireguard demo/demo

test: .venv/tests
	@tests/all

bench: .venv/tests
	@bench/all

# PREFIX=/usr/local, DESTDIR= and others are in packaging/install.
install:
	@packaging/install

uninstall:
	@packaging/install --uninstall

deb:
	@packaging/deb

.venv/demo .venv/tests: setup.cfg pyproject.toml
	@tests/setup $(@F)
