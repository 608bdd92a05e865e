#!/bin/bash
# What can be checked about the source alone: format, lints, documents, their examples, scripts.
# Every check runs, whatever the one before it found. scripts/test calls this, and so does CI.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_rust fmt clippy

passed=0
failed=0
check() {
    local what=$1
    shift
    heading "$what"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED: %s\n' "$what"
    fi
}

# Only a module called sys may open the lint that forbids unsafe code; tests have files of their own for it.
unsafe_only_in_sys() {
    ! grep -rnE --include='*.rs' '(allow|expect)\(unsafe_code' spec fusefs runtime tests fuzz |
        grep -vE '^[^:]*/sys(/[a-z_]+)?\.rs:|^[^:]*/sys/|^fusefs/tests/common/|/target/'
}

check "unsafe code lies in sys alone" unsafe_only_in_sys
check "format" cargo fmt --all --check
check "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
check "documents" env RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --quiet
check "examples in documents" cargo test --workspace --doc --locked --quiet
check "shell scripts" bash -n scripts/lib.sh scripts/install scripts/test scripts/demo scripts/suites scripts/check.sh

printf '%d passed, %d failed\n' "$passed" "$failed" | tee "${RRUN_COUNT_TO:-/dev/null}"
[ "$failed" = 0 ]
