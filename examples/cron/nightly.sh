#!/usr/bin/env bash
# One nightly run: new and changed shards, then what failed before, then a summary. Cron mails what it prints.
#
#   nightly.sh [CONFIG.toml]        recaption must be on PATH, credentials in the environment or in CREDENTIALS
set -uo pipefail

config=${1:-/etc/recaption/nightly.toml}
credentials=${CREDENTIALS:-/etc/recaption/credentials.env}
output=${OUTPUT:-$(sed -n 's/^url *= *"\(.*\)"/\1/p' "$config" | head -1)}

if [ -r "$credentials" ]; then
    set -a
    # shellcheck disable=SC1090
    . "$credentials"
    set +a
fi

# JSON lines go to a log file; the report, on standard output, to whoever reads cron's mail.
log=${LOG:-/var/log/recaption/$(date +%Y%m%d).jsonl}
mkdir -p "$(dirname "$log")"

recaption --log-format text run "$config" --lock 2>>"$log"
code=$?

# 3: something failed in this run. Bad minutes of a store are over by now, often.
if [ "$code" -eq 3 ]; then
    recaption --log-format text retry "$output" --lock 2>>"$log"
    code=$?
fi

# 4: only shards that failed the same way before are left. They are no news, so they wake nobody.
case $code in
    0 | 4) exit 0 ;;
    *)
        recaption --log-format text status "$output"
        echo "recaption ended with $code; the log is $log" >&2
        exit "$code"
        ;;
esac
