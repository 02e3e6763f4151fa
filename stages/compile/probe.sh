# Run once in a container before any repository is: what the image can build, by building it, and what the container
# lets through. Writes lines `name=value`, a name perhaps several times.
set -u
cd /tmp || exit 1
tell() {
    echo "$1=$2"
}

tell uid "$(id -u)"
tell gid "$(id -G)"
sed -n 's/^\(Cap[A-Z][a-z]*\|NoNewPrivs\|Seccomp\):[[:space:]]*/\1=/p' /proc/self/status
sed -n 's/^ *\([^ :]*\):.*/interface=\1/p' /proc/net/dev
for place in / /usr /etc /dev /run /var/tmp; do
    if (: >"$place/millrace-probe") 2>/dev/null; then tell writable "$place"; fi
done

tell rustc "$(rustc --version 2>/dev/null)"
tell cargo "$(cargo --version 2>/dev/null)"
tell clang "$(clang --version 2>/dev/null | head -n 1)"
sysroot="$(rustc --print sysroot 2>/dev/null)"
linker="-C linker=wasm-ld"
if ls "$sysroot"/lib/rustlib/*/bin/rust-lld >/dev/null 2>&1; then linker=; fi
echo 'fn main() {}' >main.rs
echo '#[no_mangle] pub extern "C" fn execute(_: i32, _: i32) -> i32 { 0 }' >library.rs
rust() {
    target="$1"
    shift
    if rustc --target "$target" "$@" -o probe.wasm; then tell rust "$target"; fi
}
# shellcheck disable=SC2086
rust wasm32-unknown-unknown --crate-type cdylib $linker library.rs
# shellcheck disable=SC2086
rust wasm32-wasip1 $linker main.rs
rust wasm32-wasip2 main.rs
# What build scripts and macros are made with.
if rustc -o native main.rs && ./native; then tell native yes; fi

echo 'int main(void) { return 0; }' >main.c
echo 'int execute(int at, int length) { return at + length; }' >library.c
if clang --target=wasm32-wasi -o probe.wasm main.c; then tell c wasm32-wasip1; fi
if clang --target=wasm32-unknown-unknown -nostdlib -Wl,--no-entry -Wl,--export=execute -o probe.wasm library.c; then
    tell c wasm32-unknown-unknown
fi
exit 0
