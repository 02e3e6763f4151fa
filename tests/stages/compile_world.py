"""A real builder for the tests of compiling, and repositories made of a few files."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from millrace.errors import Declined
from millrace.settings import CompileSettings, SandboxSettings, Settings
from stages.compile.builder import Builder, open_builder
from stages.execute.sandbox.containers.daemon import find_daemon
from stages.fetch.git import FetchedSource
from stages.fetch.repository.archive import write_tar
from stages.fetch.repository.objects import DIRECTORY, FILE, LINK, Entry

IMAGE = os.environ.get("TEST_BUILDER_IMAGE", "")
HOW = (
    "as root: export DOCKER_HOST=$(.ci/docker start) TEST_BUILDER_IMAGE=$(deployments/images/wasm-builder/from-debian)"
)


def unavailable(runtime: str = "runc") -> str:
    """Why nothing can be compiled here, and what would help; empty if it can."""
    try:
        find_daemon(SandboxSettings(backend="docker", runtime=runtime))
    except Declined as error:
        return f"{error.message}: {HOW}"
    return "" if IMAGE else f"no builder image is named: {HOW}"


def settings(runtime: str = "runc", **fields: Any) -> Settings:
    # User ids of its own: on a developer's machine the tests of other sandboxes may be using theirs.
    sandbox = SandboxSettings(first_uid=62_000)
    wanted = CompileSettings(**{"image": IMAGE, "runtime": runtime, **fields})
    return Settings(_env_file=None, sandbox=sandbox, compile=wanted)


@cache
def builder(runtime: str = "runc") -> Builder:
    """The builder, tried out once: under gVisor that takes as long as a test."""
    return asyncio.run(open_builder(settings(runtime)))


def source(
    files: Mapping[str, bytes | str], commit: str = "c" * 40, links: Mapping[str, str] | None = None
) -> FetchedSource:
    """A repository as it comes out of the fetch stage, whatever is in it."""
    entries = [Entry(name, FILE, text.encode() if isinstance(text, str) else text) for name, text in files.items()]
    entries += [Entry(name, LINK, target.encode()) for name, target in (links or {}).items()]
    above = {str(folder) for entry in entries for folder in PurePosixPath(entry.path).parents} - {"."}
    archive = write_tar([*entries, *(Entry(folder, DIRECTORY) for folder in above)])
    return FetchedSource(
        repo="https://github.com/alice/tool",
        asked=commit,
        commit=commit,
        sha256=hashlib.sha256(archive).hexdigest(),
        files=len(entries),
        tree_bytes=sum(len(entry.content) for entry in entries),
        received_bytes=0,
        archive_bytes=len(archive),
        archive=archive,
    )


def manifest(more: str = "", name: str = "tool") -> str:
    return f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n{more}'


LIBRARY = manifest('[lib]\ncrate-type = ["cdylib"]\n')

COMMAND: dict[str, bytes | str] = {
    "Cargo.toml": manifest(),
    "src/main.rs": """
use std::io::Read;
fn main() {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    print!("{}", text.to_uppercase());
}
""",
}
"""A command that writes its input in capitals."""

EXECUTE: dict[str, bytes | str] = {
    "Cargo.toml": LIBRARY + '[profile.release]\npanic = "abort"\n',
    "src/lib.rs": """
static mut ANSWER: [u8; 8] = [4, 0, 0, 0, 0, 0, 0, 0];
#[no_mangle]
pub extern "C" fn execute(_at: i32, length: i32) -> i32 {
    unsafe {
        let answer = &raw mut ANSWER as *mut u8;
        for (i, byte) in length.to_le_bytes().iter().enumerate() { answer.add(4 + i).write_volatile(*byte); }
        answer as i32
    }
}
""",
}
"""A library whose `execute` answers with the length of its input."""

C_COMMAND: dict[str, bytes | str] = {
    "shout.h": "int shout(int letter);\n",
    "shout.c": '#include <ctype.h>\n#include "shout.h"\nint shout(int letter) { return toupper(letter); }\n',
    "src/main.c": '#include <stdio.h>\n#include "../shout.h"\n'
    "int main(void) { int letter; while ((letter = getchar()) != EOF) putchar(shout(letter)); return 0; }\n",
}

C_EXECUTE: dict[str, bytes | str] = {
    "execute.c": "static int answer[2] = {4, 0};\n"
    "int execute(int at, int length) { answer[1] = length; return (int)answer; }\n",
}
