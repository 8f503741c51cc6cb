#!/usr/bin/env bash
# Runs a command for as long as its starter lives: supervise.sh COMMAND [ARGUMENT]...
#
# The starter holds the other end of stdin and makes this a process group of its own. When the command ends, so does
# this, with its status; a SIGTERM to this one goes on to the command alone. When stdin ends (the starter is gone, however it went, kill -9 included), the group is killed.
# A crashed test run therefore leaves neither anvil nor Traefik behind.
set -euo pipefail

exec 3<&0 </dev/null
"$@" 3<&- &
command=$!
# The watcher holds neither stdout nor stderr open: whoever reads them to the end must see the end.
(read -r -u 3 _ || true; kill -KILL -- -$$) >/dev/null 2>&1 &
watcher=$!
exec 3<&-
# A signal interrupts `wait`: then the status is not the command's, and the next round asks again.
passed_on=no
trap 'passed_on=yes; kill -TERM "$command" 2>/dev/null || true' TERM
while :; do
  status=0 passed_on=no
  wait "$command" || status=$?
  if [[ $passed_on == no ]]; then break; fi
done
kill "$watcher" 2>/dev/null || true
exit "$status"
