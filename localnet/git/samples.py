"""A small repository to compile, with a dependency among `localnet.crates`: for the demo, and for a first try."""

from __future__ import annotations

from localnet.git import GitLocalnet

NAME = "millrace/sample"

_CARGO = b"""[package]
name = "sample"
version = "0.1.0"
edition = "2021"

[dependencies]
doubler = "0.3"

[profile.release]
opt-level = "s"
strip = true
panic = "abort"
"""

_MAIN = b"""use std::io::Read;

fn main() {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).expect("UTF-8");
    let request = std::env::var("NEAR_REQUEST_ID").unwrap_or_else(|_| "none".into());
    let words = text.split_whitespace().count();
    let twice = doubler::double(words as u32);
    print!("{} words, twice {}, in request {}: {}", words, twice, request, text.to_uppercase());
}
"""
"""Counts the words of its input and gives them back in capitals."""


def add_sample(host: GitLocalnet) -> tuple[str, str]:
    """Put the sample on the host; its URL and its commit."""
    repository = host.repository(NAME)
    commit = repository.commit({"Cargo.toml": _CARGO, "src/main.rs": _MAIN}, message="A sample to compile")
    return host.url_of(repository), commit
