# What happens in the container that fetches crates: standard input is the outline of a repository, as a tar; standard
# output is a tar of Cargo.lock and the folder `vendor`, standard error the log. Nothing of the repository's is run.
# The arguments are cargo's.
#
# DOOR, PORT    the proxy's socket, and where cargo is told to find the proxy
# AUTHORITIES   certificates to believe in place of those of the image; empty: those
set -eu
mkdir work
cd work
tar -x --no-same-owner

socat "TCP-LISTEN:$PORT,bind=127.0.0.1,fork,reuseaddr,backlog=64" "UNIX-CONNECT:$DOOR" >/dev/null 2>&1 &
listening="$(printf ' 0100007F:%04X ' "$PORT")"
tries=200
until grep -q "$listening" /proc/net/tcp; do
    tries=$((tries - 1))
    [ "$tries" != 0 ] || { echo "millrace: the way to the proxy does not open" >&2 && exit 70; }
    sleep 0.05
done

if [ -n "$AUTHORITIES" ]; then
    printf '%s\n' "$AUTHORITIES" >/tmp/authorities.pem
    export CARGO_HTTP_CAINFO=/tmp/authorities.pem
fi
# It prints how to configure what it fetched, which we know.
cargo vendor --versioned-dirs "$@" vendor >/dev/null
mkdir -p vendor
# The same crates make the same bytes.
exec tar -c --format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner Cargo.lock vendor
