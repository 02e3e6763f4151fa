"""Repositories that abuse their build: each with what must become of it, and what is found where nothing stops it.

Numbers are those of the list this corpus was made from; the cases behind it are our own.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, field
from typing import Any

from attack_build_world import link, regular

from millrace.limits import MIB
from stages.compile.docker import FailureReason

MANIFEST = '[package]\nname = "tool"\nversion = "0.1.0"\nedition = "2021"\n'
MAIN = {"Cargo.toml": MANIFEST, "src/main.rs": 'fn main() { print!("harmless"); }'}

FOREVER = "31415926"
"""Seconds: by them a process of these builds is known."""

BAD = FailureReason
Entry = tuple[tarfile.TarInfo, bytes]


@dataclass(frozen=True)
class Build:
    """A repository. `becomes` are the reasons for which its build may fail; empty if it must succeed.

    `output` is what the module then writes, `says` and `hides` are what is in its log and what is not.
    """

    name: str
    files: dict[str, str]
    becomes: frozenset[FailureReason] = frozenset()
    others: tuple[Entry, ...] = ()
    limits: dict[str, Any] = field(default_factory=dict)
    says: str = ""
    hides: str = ""
    output: bytes = b"harmless"
    gvisor: bool = False


def script(body: str) -> dict[str, str]:
    """A repository whose build script has that body; `sleeper()` is a process that holds none of its streams."""
    return {
        **MAIN,
        "build.rs": "#![allow(unused)]\nuse std::{fs, io::{self, Write}, process::{Child, Command, Stdio}};\n"
        "fn sleeper() -> io::Result<Child> {\n"
        f'    let mut sleeper = Command::new("setsid"); sleeper.args(["sleep", "{FOREVER}"]);\n'
        "    sleeper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()\n}\n"
        f"fn main() {{\n{body}\n}}\n",
    }


def reasons(*of: FailureReason) -> frozenset[FailureReason]:
    return frozenset(of)


_EVIL = "#!/bin/sh\necho EVIL >&2\nexit 1\n"

CORPUS = (
    Build(
        "01_include_secrets",
        {**MAIN, "src/main.rs": 'const S: &str = include_str!("/etc/shadow"); fn main() { print!("{S}") }'},
        reasons(BAD.compile_error),
        says="ermission denied",
        gvisor=True,
    ),
    Build(
        "02_source_is_a_link_to_secrets",
        {"Cargo.toml": MANIFEST + '[[bin]]\nname = "tool"\npath = "src/main.rs"\n', "src/x": ""},
        reasons(BAD.compile_error),
        others=(link("src/main.rs", "/etc/shadow"),),
        says="ermission denied",
        hides="root:",
    ),
    Build(
        "03_rustc_wrapper",
        {
            **MAIN,
            ".cargo/config.toml": '[build]\nrustc-wrapper = "/tmp/source/evil"\n'
            '[target.wasm32-wasip1]\nlinker = "/tmp/source/evil"\n',
            "evil": _EVIL,
        },
        hides="EVIL",
    ),
    Build(
        "04_dependency_of_a_registry",
        {**MAIN, "Cargo.toml": MANIFEST + '[dependencies]\nserde = "1"\n'},
        reasons(BAD.missing_dependency),
    ),
    Build(
        "04_dependency_of_git",
        {**MAIN, "Cargo.toml": MANIFEST + '[dependencies]\nx = { git = "https://github.com/mallory/x" }\n'},
        reasons(BAD.missing_dependency),
    ),
    Build(
        "05_const_eval_loop",
        {
            **MAIN,
            "src/main.rs": "#![allow(long_running_const_eval)]\n"
            'const X: u32 = { loop {} };\nfn main() { print!("{X}") }',
        },
        reasons(BAD.timeout),
        limits={"wall_seconds": 4},
        gvisor=True,
    ),
    Build(
        "06_macro_bomb",
        {
            **MAIN,
            "src/main.rs": '#![recursion_limit = "100000"]\n'
            "macro_rules! bomb { ($($x:tt)*) => { bomb!($($x)* $($x)* 1) } }\nfn main() { bomb!(1) }",
        },
        reasons(BAD.out_of_memory),
        limits={"memory_bytes": 512 * MIB},
    ),
    Build(
        "07_static_of_2_gib",
        {**MAIN, "src/main.rs": 'static X: [u8; 2 << 30] = [1; 2 << 30];\nfn main() { print!("{}", X[3]) }'},
        reasons(BAD.out_of_memory, BAD.compile_error, BAD.disk_full, BAD.artifact_too_large),
        limits={"memory_bytes": 512 * MIB},
    ),
    Build(
        "08_disk_fill",
        script('let mut f = fs::File::create("/tmp/fill").unwrap(); loop { f.write_all(&[0; 1 << 20]).unwrap() }'),
        reasons(BAD.disk_full),
        limits={"scratch_bytes": 64 * MIB},
        says="No space left on device",
        gvisor=True,
    ),
    Build(
        "09_fork_bomb",
        script(
            "let mut n = 0; while sleeper().is_ok() { n += 1; }\n"
            'eprintln!("started {n}"); std::process::exit(if n < 100 { 1 } else { 2 });'
        ),
        reasons(BAD.compile_error),
        limits={"processes": 64},
        says="exit status: 1",
    ),
    Build(
        "10_link_planted_as_the_artifact",
        {"Makefile": "all:\n\tln -s /etc/shadow a.wasm\n\tln -s /proc/self/environ /tmp/target/b.wasm\n"},
        reasons(BAD.no_artifact),
    ),
    Build(
        "12_archive_that_leads_out",
        MAIN,
        reasons(BAD.no_project),
        others=(
            regular("../../../../../../tmp/millrace-slipped", "x"),
            regular("/tmp/millrace-slipped", "x"),
        ),
    ),
    Build(
        "12_links_that_lead_out",
        MAIN,
        others=(link("out", "/tmp"), link("shadow", "/etc/shadow"), link("up", "../../../../..")),
    ),
    Build(
        "12_archive_with_a_hard_link_to_secrets",
        MAIN,
        reasons(BAD.no_project),
        others=(link("stolen", "/etc/shadow", tarfile.LNKTYPE),),
        hides="root:",
    ),
    Build(
        "12_archive_with_a_device",
        MAIN,
        reasons(BAD.no_project),
        others=(link("disk", "", tarfile.BLKTYPE),),
    ),
    Build(
        "13_gitmodules",
        {
            **MAIN,
            ".gitmodules": '[submodule "a"]\n\tpath = a\n\turl = ext::sh -c "touch /tmp/slipped"\n'
            '[submodule "b"]\n\tpath = b\n\turl = file:///etc\n',
        },
    ),
    Build(
        "14_artifact_over_8_mib",
        {
            **MAIN,
            "src/main.rs": "static X: [u8; 9 << 20] = [7; 9 << 20];\n"
            'fn main() { print!("{}", std::hint::black_box(&X)[3]) }',
        },
        reasons(BAD.artifact_too_large),
    ),
    # What follows is not in that list.
    Build(
        "kills_everything_it_can",
        script('Command::new("sh").args(["-c", "kill -9 -1"]).status();'),
        reasons(BAD.killed),
    ),
    Build(
        "leaves_a_process_behind",
        script("sleeper().unwrap();"),
    ),
    Build(
        "leaves_a_process_behind_that_cargo_waits_for",
        script(f'Command::new("sleep").arg("{FOREVER}").spawn().unwrap();'),
        reasons(BAD.timeout),
        limits={"wall_seconds": 4},
    ),
    Build(
        "holds_the_streams_open",
        script(
            f'let holding = "for fd in 1 2 3; do (setsid sleep {FOREVER} >/proc/1/fd/$fd 2>&1 &); done";'
            'Command::new("sh").args(["-c", holding]).status();'
        ),
    ),
    Build(
        "writes_into_the_artifact",
        script(
            'println!("\\0asm"); Command::new("sh").args(["-c", "echo forged >&3"]).status();\n'
            'fs::write("/proc/self/fd/3", "forged").ok();'
        ),
    ),
    Build(
        "replaces_the_compiler_for_later",
        script(
            'fs::write("/usr/bin/rustc", "x").expect_err("written");'
            'fs::write("/usr/local/bin/rustc", "x").expect_err("written");'
        ),
    ),
    Build(
        "log_flood",
        script('loop { eprintln!("cargo:warning={}", "x".repeat(1000)) }'),
        reasons(BAD.log_too_long, BAD.out_of_memory, BAD.timeout),
        limits={"wall_seconds": 20, "log_bytes": 1 * MIB, "memory_bytes": 512 * MIB},
    ),
    Build(
        "many_small_files",
        script('for n in 0.. { fs::write(format!("/tmp/{n}"), "").unwrap() }'),
        reasons(BAD.out_of_memory, BAD.disk_full, BAD.timeout),
        limits={"wall_seconds": 30, "memory_bytes": 256 * MIB},
    ),
    Build(
        "sleeps",
        {"Makefile": f"all:\n\tsleep {FOREVER}\n"},
        reasons(BAD.timeout),
        limits={"wall_seconds": 2},
        gvisor=True,
    ),
    Build(
        "make_runs_whatever_it_likes",
        {"Makefile": "X := $(shell id >&2)\nall:\n\tcat /etc/shadow\n"},
        reasons(BAD.compile_error),
        says="ermission denied",
        hides="root:",
        gvisor=True,
    ),
    Build(
        "names_of_files_are_no_options_and_no_commands",
        {
            "-o.c": "int a;\n",
            "$(touch x).c": "int b;\n",
            "-fplugin=x.c": "int c;\n",
            "main.c": '#include <stdio.h>\nint main(void) { fputs("harmless", stdout); return 0; }\n',
        },
    ),
)
