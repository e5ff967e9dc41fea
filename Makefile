# What a change must pass (`make check`), and the slower things.

.PHONY: check shared docs deny bench

check:
	.ci/run

# The tests that need real photos and weights in ../shared; they fail where it is absent.
shared:
	cargo test --workspace -- --ignored

docs:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items

# Licences and sources of all dependencies; needs `cargo install cargo-deny`.
deny:
	cargo deny check licenses bans sources

# Side by side with PyTorch; PYTHON is an environment with ../shared/reference/requirements.txt. About 35 minutes.
PYTHON ?= python3
bench:
	cargo build --release
	$(PYTHON) benchmarks/compare.py
