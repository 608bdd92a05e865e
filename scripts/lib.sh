# Shell functions that scripts/test and scripts/demo share. Sourced by them, never run.
# bash; the caller has `set -euo pipefail` and stands in the root of the project.

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

heading() { printf '\n== %s\n' "$*"; }

is_root() { [ "$(id -u)" = 0 ]; }

# Whether as_root will work: we are root, sudo asks nothing, or there is a terminal to ask on.
may_become_root() {
    is_root && return
    command -v sudo >/dev/null || return
    sudo -n true 2>/dev/null || { [ -t 0 ] && [ -t 2 ] && sudo -v; }
}

# as_root COMMAND…: runs it as root, or prints the line for somebody who may.
as_root() {
    if is_root; then
        "$@"
    elif may_become_root; then
        sudo "$@"
    else
        die "this needs root once; have an administrator type: sudo $*"
    fi
}

# has PACKAGE: whether the one thing that we use of it is here, however it came here; for those of which
# we use more, whether it is installed.
has() {
    case $1 in
    gcc) command -v cc ;;
    libc6-dev) [ -e "$(cc -print-file-name=libc.a)" ] ;;
    libseccomp-dev) [ -e "$(cc -print-file-name=libseccomp.a)" ] ;;
    uidmap) command -v newuidmap && command -v newgidmap ;;
    busybox-static) is_static "$(command -v busybox)" ;;
    attr) command -v setfattr && command -v getfattr ;;
    acl) command -v setfacl ;;
    mmdebstrap | fuse-overlayfs) command -v "$1" ;;
    procps) command -v ps ;;
    *) dpkg-query --show --showformat '${Status}' "$1" | grep -q ' installed$' ;;
    esac >/dev/null 2>&1
}

# A dynamic program names its loader in the first bytes.
is_static() { [ -x "$1" ] && ! head -c 4096 "$1" | grep -qa 'ld-linux\|ld-musl'; }

# need PACKAGE…: installs those that are missing, and only then asks to be root.
need() {
    local package missing=()
    for package in "$@"; do
        has "$package" || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || die "missing, by their Debian names: ${missing[*]}"
    may_become_root || die "packages are missing; have an administrator type:" \
        "sudo apt-get install ${missing[*]}"
    heading "installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        "${missing[@]}" >/dev/null
}

# need_rust [COMPONENT…]: cargo, new enough for this project, with `cargo COMPONENT`s.
need_rust() {
    local wanted found component
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo >/dev/null ||
        die "Rust $wanted or newer is missing. Install rustup as https://rustup.rs says, then type: rustup toolchain install stable"
    found=$(cargo --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n1)" = "$wanted" ] ||
        die "cargo $found is too old, $wanted is needed. Type: rustup update stable"
    for component in "$@"; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        case $component in
        nextest)
            heading "installing cargo-nextest"
            cargo install --locked cargo-nextest
            ;;
        *) rustup component add "${component/fmt/rustfmt}" ;;
        esac
    done
}

# need_crates NAME…: programs that are released crates.
need_crates() {
    local crate
    for crate in "$@"; do
        command -v "$crate" >/dev/null && continue
        need_rust
        command -v "$crate" >/dev/null && continue # where cargo puts them
        heading "installing $crate"
        cargo install --locked --quiet "$crate"
    done
}

# need_fuse: /dev/fuse, open to everybody, as udev makes it where it runs.
need_fuse() {
    [ -e /dev/fuse ] || as_root modprobe fuse
    [ -r /dev/fuse ] && [ -w /dev/fuse ] && ! is_root && return
    [ "$(stat -c %a /dev/fuse)" = 666 ] || as_root chmod 0666 /dev/fuse
}

# need_subids USER: subordinate user and group ids, by which it may map more than itself.
need_subids() {
    local kind first
    for kind in uid gid; do
        grep -qs "^\($1\|$(id -u "$1")\):" /etc/sub$kind && continue
        first=$(awk -F: '$2 + $3 > end { end = $2 + $3 } END { print end > 100000 ? end : 100000 }' \
            /etc/sub$kind 2>/dev/null || echo 100000)
        as_root usermod --add-sub${kind}s "$first-$((first + 65535))" "$1"
    done
}

# own_ids COMMAND…: runs it where our container ids are: uid 0 is the caller and 1… are its
# subordinate ids. Root needs nothing of the kind.
own_ids() {
    if is_root; then
        "$@"
    else
        unshare --user --map-root-user --map-auto "$@"
    fi
}

# built PROFILE: where cargo puts the command.
built() { printf '%s/%s/%s/rrun\n' "${CARGO_TARGET_DIR:-target}" "$(rustc -vV | sed -n 's/^host: //p')" "$1"; }
