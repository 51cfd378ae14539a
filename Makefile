# `make demo` shows kflash at work, `make test` proves it, `make images` builds the container images. Each installs what it needs on
# Debian 12 and 13; all they ask for is Rust.

KFLASH := $(or $(CARGO_TARGET_DIR),target)/release/kflash
STATIC := x86_64-unknown-linux-musl
STATIC_ARM := aarch64-unknown-linux-musl

.PHONY: demo test lint test-binaries images

demo:
	tools/debian-packages demo
	cargo build --release --locked --package kflash-cli
	@echo; echo "An Octopus with Katapult, flashed over USB:"
	$(KFLASH) flash --board btt-octopus-v1.1-f446 --simulate
	@echo; echo "The same board without a bootloader, flashed through the DFU in its ROM:"
	$(KFLASH) flash --board btt-octopus-v1.1-f446 --simulate=none
	@echo; echo "With real hardware:"
	@echo "  $(KFLASH) detect"
	@echo "  $(KFLASH) boards"
	@echo "  $(KFLASH) plan  --board BOARD --firmware klipper.bin"
	@echo "  $(KFLASH) flash --board BOARD --firmware klipper.bin"

test:
	tools/debian-packages test
	$(MAKE) lint test-binaries
	tools/run-tests

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features kflash-cli/swd,kflash-sim/swd,tests/swd --locked -- -D warnings
	cargo clippy --package kflash-cli --no-default-features --locked -- -D warnings

# The static programs that the tests run: those of the VM and of containers, and what ships for other machines. Two at a time:
# each is optimised as a whole, by one thread.
test-binaries:
	cargo build --release --locked --target $(STATIC) --target $(STATIC_ARM) --package kflash-cli
	cargo build --release --locked --target $(STATIC) --package kflash-kube --package kflash-sim

# The container images, for amd64 and arm64: archives in target/images, or with REGISTRY=NAME pushed there.
images:
	if command -v apt-get >/dev/null; then tools/debian-packages images; fi
	tools/images $(if $(REGISTRY),--registry $(REGISTRY))
