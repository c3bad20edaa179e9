#!/usr/bin/env bash
# Stops the pipeline in order, each process once it has finished what it holds. Harmless when nothing runs.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: ./stop.sh [--docker] [--help]

Stops what ./start.sh has started: dashboard, ingesters, trade processor, writer, then the servers. Each process gets
the time to finish what it holds. Data stays where it is.

  --docker   stop the containers of ./start.sh --docker
  --help     this text

DATA_DIR, from the environment, says which copy to stop, as for start.sh.
TEXT
}

LIMIT_S=600 # eight programs of at most 60 s each; seconds as a rule
LEFTOVER_LIMIT_S=60

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
  if pid=$(supervisord_pid); then
    stop_supervisord "$pid"
  elif [ -n "$(leftovers)" ]; then
    echo "supervisord is gone without its processes; stopping them."
    end_all "$(leftovers | awk '$1 !~ /^embedded_/ { print $2 }')"
    end_all "$(leftovers | awk '{ print $2 }')"
    echo "Stopped."
  else
    echo "Nothing is running."
  fi
  rm -f "$RUN/mode" "$RUN/supervisord.pid" "$RUN/supervisor.sock"
}

# supervisord itself stops the programs in the reverse order of their priorities and waits for each.
stop_supervisord() {
  { supervisorctl status || true; } | awk '$2 ~ /RUNNING|STARTING|BACKOFF/ { print "stopping " $1 }'
  supervisorctl shutdown >/dev/null || fail "supervisord (pid $1) refuses to shut down"
  wait_for_end "$1" "$LIMIT_S"
  echo "Stopped."
}

# Program and process id of what a supervisord that was killed has left running: the last that it spawned of each name,
# if that is still a process of this directory's .venv, for the number may have passed on to somebody else's.
leftovers() {
  local program pid
  [ -f "$RUN/supervisord.log" ] || return 0
  awk '$4 == "spawned:" { gsub("\047", "", $5); last[$5] = $8 } END { for (name in last) print name, last[name] }' \
    "$RUN/supervisord.log" |
    while read -r program pid; do
      case $(command_of "$pid") in *"$(pwd -P)/.venv/"*) echo "$program $pid" ;; esac
    done
}

# Small containers have no ps, but they have /proc.
command_of() {
  ps -ww -o command= -p "$1" 2>/dev/null || tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" || true
}

end_all() {
  local pid
  for pid in $1; do kill "$pid" 2>/dev/null || true; done
  for pid in $1; do wait_for_end "$pid" "$LEFTOVER_LIMIT_S"; done
}

wait_for_end() {
  local deadline=$((SECONDS + $2))
  while is_running "$1"; do
    [ $SECONDS -le $deadline ] || fail "process $1 is still running after $2 s"
    sleep 0.2
  done
}

# A zombie has ended; that its parent has not noticed is not ours to wait for.
is_running() {
  kill -0 "$1" 2>/dev/null || return 1
  case $(ps -o stat= -p "$1" 2>/dev/null) in Z*) return 1 ;; esac
}

main "$@"
