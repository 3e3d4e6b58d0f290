#!/bin/bash
# Exit code 0 if the run in this container answers at /healthz. Bash opens the connection itself, so the image needs no curl.
# Commands without metrics (export, finalize) count as healthy for as long as they run.
set -eu
mapfile -d '' -t words </proc/1/cmdline
case " ${words[*]} " in
    *" run "* | *" retry "* | *" worker "*) ;;
    *) exit 0 ;;
esac
address=${RECAPTION_RUN__METRICS_ADDR:-}
[ -n "$address" ] || exit 0
exec 3<>"/dev/tcp/127.0.0.1/${address##*:}"
printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
read -r -t 4 _ status _ <&3
[ "$status" = 200 ]
