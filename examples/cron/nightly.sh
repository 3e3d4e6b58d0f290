#!/usr/bin/env bash
# One nightly run: new and changed shards, then one retry of what failed. Prints nothing when all went well, so that cron
# mails nothing; else what needs a look, and the status of the output.
#
#   nightly.sh [CONFIG.toml]
#
# Environment: RECAPTION_BIN (folder of the program), CREDENTIALS (file of KEY=value lines), OUTPUT (else output.url of the
# configuration), LOG (JSON lines: logs and reports).
#
# Exit codes: 0 nothing to do for a person, 1 failed, 2 configuration, 3 shards failed or were found damaged tonight.
set -uo pipefail

fail() {
    echo "nightly.sh: $1" >&2
    exit "$2"
}

export PATH="${RECAPTION_BIN:-/opt/recaption/bin}:$PATH"
config=${1:-/etc/recaption/nightly.toml}
credentials=${CREDENTIALS:-/etc/recaption/credentials.env}
log=${LOG:-/var/log/recaption/$(date +%Y%m%d).jsonl}

[ -r "$config" ] || fail "cannot read the configuration $config; give its path as the first argument" 2
command -v recaption >/dev/null || fail "recaption is not in ${RECAPTION_BIN:-/opt/recaption/bin} nor on PATH; set RECAPTION_BIN" 2
output=${OUTPUT:-$(sed -n '/^\[output\]/,/^\[/s/^url *= *["'\'']\([^"'\'']*\)["'\''].*/\1/p' "$config" | head -n 1)}
[ -n "$output" ] || fail "$config has no url below [output]; set OUTPUT" 2
mkdir -p "$(dirname "$log")" && touch "$log" || fail "cannot write the log $log; set LOG" 1

if [ -r "$credentials" ]; then
    set -a
    # shellcheck disable=SC1090
    . "$credentials"
    set +a
fi

# Sets `code` and `report`; the report is one line of JSON.
attempt() {
    report=$(recaption --log-format json "$@" --lock 2>>"$log")
    code=$?
    [ -z "$report" ] || printf '%s\n' "$report" >>"$log"
    case $report in
        '' | *'"shards_damaged":[]'*) ;;
        *) damaged=yes ;;
    esac
}

damaged=no
attempt run "$config"
# 4: only shards are left that failed the same way on an earlier night. They were reported then.
[ "$code" -ne 4 ] || exit 0
news=$code
if [ "$code" -eq 3 ]; then
    # A store's bad minutes are often over by now. What fails again is permanent and reported tonight, once.
    attempt retry "$output"
    case $code in
        0) [ "$damaged" = yes ] || news=0 ;;
        4) ;;
        *) news=$code ;;
    esac
fi
[ "$news" -ne 0 ] || exit 0

case $news in
    3) echo "Shards failed or were found damaged tonight." ;;
    2) echo "The configuration was refused; the last lines of the log say why." ;;
    *) echo "The run failed with exit code $news; the last lines of the log say why." ;;
esac
echo "Log: $log"
if [ "$news" -eq 3 ]; then
    recaption --log-format text --log-level error status "$output"
else
    tail -n 3 "$log"
fi
exit "$news"
