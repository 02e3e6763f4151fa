# What happens in a container: standard input is the repository's tar, its links (see links.py), and a tar with its
# dependencies if it has any; standard output is the module, standard error the log. Everything from the repository runs as the same user
# as this, so its exit codes tell what went wrong and prove nothing.
#
# SOURCE_BYTES, LINKS_BYTES, VENDORED_BYTES   lengths of the three
# LANGUAGE, TARGET, SELECTION                 see project.py and target.py
# ARTIFACT_BYTES                              the largest module that is taken
set -u
exec 3>&1 1>&2

fail() {
    echo "millrace: $2"
    exit "$1"
}

source=/tmp/source
mkdir "$source" /tmp/target
head -c "$SOURCE_BYTES" | tar -x --no-same-owner -C "$source" -f - || fail 70 "the sources could not be unpacked"
head -c "$LINKS_BYTES" >/tmp/links
(cd "$source" && xargs -0 -r -n 2 ln -sT --) </tmp/links || fail 70 "the links could not be made"
if [ "$VENDORED_BYTES" != 0 ]; then
    head -c "$VENDORED_BYTES" | tar -x --no-same-owner -C /tmp -f - || fail 70 "the dependencies could not be unpacked"
    if [ -e /tmp/Cargo.lock ] && [ ! -e "$source/Cargo.lock" ]; then mv /tmp/Cargo.lock "$source/"; fi
fi
exec </dev/null
cd "$source" || exit 70
# Sources are of the beginning of 1970. Not of now: a quick build writes within the same tick of the clock.
touch -d @1 /tmp/began
export SOURCE_DATE_EPOCH=0 TZ=UTC LC_ALL=C

# Paths are the same in every container, and so need not be taken out of what is built. A variable, or an argument,
# outweighs what a repository's .cargo/config.toml says; what that says about the code itself is the repository's affair.
build_rust() {
    sysroot="$(rustc --print sysroot)" || fail 74 "the image has no rustc"
    export CARGO_HOME=/tmp/cargo CARGO_TARGET_DIR=/tmp/target CARGO_BUILD_BUILD_DIR=/tmp/target CARGO_NET_OFFLINE=true
    export CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never RUSTC="$(command -v rustc)" RUSTC_WRAPPER= RUSTC_WORKSPACE_WRAPPER=
    # Debian has LLVM's linker in place of Rust's own build of it. By their paths: a configuration may set PATH.
    linker="$(command -v wasm-ld)"
    if ls "$sysroot"/lib/rustlib/*/bin/rust-lld >/dev/null 2>&1; then linker=rust-lld; fi
    export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$linker CARGO_TARGET_WASM32_WASIP1_LINKER=$linker
    CARGO_TARGET_WASM32_WASIP2_LINKER="$(command -v wasm-component-ld || echo wasm-component-ld)"
    export CARGO_TARGET_WASM32_WASIP2_LINKER
    set -- cargo build --release --offline --target "$TARGET" --manifest-path "$source/Cargo.toml"
    [ ! -e Cargo.lock ] || set -- "$@" --locked
    if [ -d /tmp/vendor ]; then
        set -- "$@" --config 'source.crates-io.replace-with="millrace"' --config 'source.millrace.directory="/tmp/vendor"'
    fi
    # shellcheck disable=SC2086  # words of ours
    "$@" $SELECTION 3>&- || exit 71
    folder="/tmp/target/$TARGET/release" depth="-maxdepth 1"
}

build_c() {
    case "$TARGET" in
    wasm32-wasip1)
        flags="--target=wasm32-wasi"
        # Without a `main` it is a library, which begins when it is called.
        grep -rqE --include='*.c' '(^|[^A-Za-z0-9_])main[[:space:]]*\(' . ||
            flags="$flags -mexec-model=reactor -Wl,--export-if-defined=execute"
        ;;
    wasm32-unknown-unknown)
        flags="--target=wasm32-unknown-unknown -nostdlib -ffreestanding -Wl,--no-entry -Wl,--export-if-defined=execute"
        ;;
    *) fail 74 "C is not compiled for $TARGET" ;;
    esac
    if [ -e Makefile ]; then
        export TARGET MAKEFLAGS=
        make "CC=clang $flags" 3>&- || exit 71
    else
        # One call of the compiler, its files in the same order everywhere; -x refuses more of them than one call takes.
        find . -xtype f \( -path './*' ! -path './*/*' -o -path './src/*' ! -path './src/*/*' \) -name '*.c' -print0 |
            sort -z | xargs -0 -x -n 10000 clang $flags -O2 -Wall -o /tmp/target/module.wasm 3>&- || exit 71
    fi
    folder="/tmp/target $source" depth=
}

case "$LANGUAGE" in
rust) build_rust ;;
c) build_c ;;
esac

# Only what the build itself wrote, and no links: what they lead to is not the build's.
modules() {
    # shellcheck disable=SC2086
    find $folder $depth -type f -name '*.wasm' -newer /tmp/began "$@"
}
case "$(modules -printf x | wc -c)" in
0) fail 72 "no module came of it" ;;
1) ;;
*) fail 73 "more than one module came of it: $(modules -printf '%f ')" ;;
esac
large="$(modules -size "+${ARTIFACT_BYTES}c" -printf %s)"
[ -z "$large" ] || fail 75 "the module has $large bytes, and $ARTIFACT_BYTES are taken"
modules -exec cat {} + >&3
