"""A few crates to depend on."""

from __future__ import annotations

from localnet.crates.crate import Crate

_BUILD = b"""\
// Run, as a build must and fetching must not, it leaves a mark in its output and on the screen.
fn main() {
    println!("cargo:warning=the build script of stamped ran");
    println!("cargo:rustc-env=STAMP=stamped");
}
"""
_MACRO = b"""\
use proc_macro::TokenStream;

/// Stands for the number 42.
#[proc_macro]
pub fn answer(_input: TokenStream) -> TokenStream {
    "42u32".parse().unwrap()
}
"""

ADDER = Crate("adder", "1.2.0", {"src/lib.rs": b"pub fn add(a: u32, b: u32) -> u32 { a.wrapping_add(b) }\n"})
NEWER_ADDER = Crate("adder", "1.3.0", ADDER.files, yanked=True)
DOUBLER = Crate(
    "doubler", "0.3.1", {"src/lib.rs": b"pub fn double(a: u32) -> u32 { adder::add(a, a) }\n"}, {"adder": "1.0"}
)
STAMPED = Crate("stamped", "2.0.0", {"src/lib.rs": b'pub const STAMP: &str = env!("STAMP");\n', "build.rs": _BUILD})
ANSWER = Crate("answer-macro", "0.1.0", {"src/lib.rs": _MACRO}, proc_macro=True)
WRONG = Crate("wrong-checksum", "1.0.0", checksum="00" * 32)

SAMPLES = (ADDER, NEWER_ADDER, DOUBLER, STAMPED, ANSWER, WRONG)
"""`adder`, whose newest version is yanked; `doubler`, which depends on it; `stamped`, whose build script tells when it
runs; `answer-macro`, a procedural macro; `wrong-checksum`, whose archive is not what the index says."""
