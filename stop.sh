#!/usr/bin/env bash
# Stops the pipeline in order, each process once it has finished what it holds. Harmless when nothing runs.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: ./stop.sh [--docker] [--help]

Stops what ./start.sh has started: dashboard, ingesters, trade processor, writer, then the servers. Each process gets
the time to finish what it holds. Data stays where it is. A ./start.sh that is still running is ended first.

  --docker   stop the containers of ./start.sh --docker
  --help     this text

DATA_DIR, from the environment, says which copy to stop, as for start.sh.
TEXT
}

LIMIT_S=600 # eight programs of at most 60 s each; seconds as a rule

main() {
  local docker=no
  cd "$(dirname "${BASH_SOURCE[0]}")"
  . ./functions.sh
  while [ $# -gt 0 ]; do
    case $1 in
      --docker) docker=yes ;;
      --help | -h) usage && exit 0 ;;
      *) usage >&2 && fail "unknown option: $1" 2 ;;
    esac
    shift
  done
  if [ "$docker" = yes ]; then
    compose --profile demo down --remove-orphans # with the profile, a demo's simulator goes too
  else
    stop_here
  fi
}

stop_here() {
  local pid
  if [ ! -d "${DATA_DIR:=data}/run" ]; then
    echo "Nothing is running."
    return 0
  fi
  find_run_directory "$DATA_DIR"
  lock stop || fail "another ./start.sh or ./stop.sh is still running"
  if pid=$(supervisord_pid); then
    stop_supervisord "$pid"
  elif stop_leftovers; then
    echo "Stopped."
  else
    echo "Nothing is running."
  fi
  forget_supervisord
}

# supervisord itself stops the programs in the reverse order of their priorities and waits for each.
stop_supervisord() {
  { supervisorctl status || true; } | awk '$2 ~ /RUNNING|STARTING|BACKOFF/ { print "stopping " $1 }'
  supervisorctl shutdown >/dev/null || fail "supervisord (pid $1) refuses to shut down"
  wait_for_end "$1" "$LIMIT_S"
  echo "Stopped."
}

main "$@"
