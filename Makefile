# `make demo` shows kflash at work, `make test` proves it. Both install what they need on Debian 12 and 13; all they ask for is Rust.

STATIC := x86_64-unknown-linux-musl

.PHONY: demo test lint test-binaries

demo:
	tools/debian-packages demo
	cargo run --release --locked --package kflash-cli -- --version

test:
	tools/debian-packages test
	$(MAKE) lint test-binaries
	tools/run-tests

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# The static programs that the tests run in the VM.
test-binaries:
	cargo build --release --locked --target $(STATIC) --package kflash-cli --package kflash-sim
