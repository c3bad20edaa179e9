# What start.sh, stop.sh and test.sh share. Sourced by them, once they have changed into the project's directory.
# shellcheck shell=bash

fail() {
  echo "$(basename "$0"): $1" >&2
  exit "${2:-1}"
}

# prepare_venv REQUIREMENTS: after it, .venv holds what REQUIREMENTS lists. Does nothing while that file is unchanged.
# Of two at once, the second waits and finds the work done.
prepare_venv() {
  local requirements=$1 mark python
  mark=$(requirements_mark)
  venv_holds "$requirements" "$mark" && return 0
  python=$(any_python) || exit 1
  exec 8<functions.sh
  "$python" -m common.script_lock wait 8 "Another command is installing into .venv; waiting for it to end."
  venv_holds "$requirements" "$mark" || install "$requirements" "$mark"
  exec 8<&-
}

# venv_holds REQUIREMENTS MARK: whether they were installed, as MARK describes them.
venv_holds() {
  .venv/bin/python -c '' 2>/dev/null || return 1
  # requirements-dev.txt includes all the others.
  [ "$(cat ".venv/$1.mark" 2>/dev/null)" = "$2" ] || [ "$(cat .venv/requirements-dev.txt.mark 2>/dev/null)" = "$2" ]
}

install() {
  local requirements=$1 mark=$2
  .venv/bin/python -c '' 2>/dev/null || make_venv
  echo "Installing $requirements into .venv; this happens once, and when it has changed ..."
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" || fail \
    "could not install $requirements; pip says why above. Without network: connect once, or set PIP_NO_INDEX=1 and
PIP_FIND_LINKS to a folder of wheels."
  echo "$mark" >".venv/$requirements.mark"
}

# A change of any of these files makes .venv outdated, and so does a moved directory: its scripts name their interpreter.
requirements_mark() {
  { pwd -P && cat pyproject.toml requirements.txt requirements-embedded.txt requirements-dev.txt; } | cksum
}

make_venv() {
  local python
  python=$(find_python) || exit 1
  echo "Making .venv with $("$python" --version) ..."
  "$python" -m venv --clear .venv || fail "could not make .venv. On Debian and Ubuntu: apt-get install python3-venv"
}

# Prints the first Python that is new enough. PYTHON chooses another one.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return 0
    fi
  done
  fail "Python 3.11 or newer is needed, see https://www.python.org/downloads/. Tried: ${PYTHON:-python3.13 python3.12 \
python3.11 python3}"
}

# Prints a Python interpreter for code that needs no packages.
any_python() {
  find_python 2>/dev/null && return 0
  .venv/bin/python -c '' 2>/dev/null && echo .venv/bin/python && return 0
  find_python
}

# find_run_directory DATA_DIR: sets RUN, where supervisord's socket lies.
find_run_directory() {
  RUN=$(cd "$1/run" && pwd -P)
}

supervisorctl() {
  .venv/bin/python -m supervisor.supervisorctl -c supervisord.conf -s "unix://$RUN/supervisor.sock" "$@"
}

# Prints the process id of the supervisord that answers at the socket. The pid file alone could name somebody else's.
supervisord_pid() {
  [ -S "$RUN/supervisor.sock" ] && supervisorctl pid 2>/dev/null
}

# lock start or lock stop: one of these scripts at a time, for each DATA_DIR; see common/script_lock.py. File descriptor
# 9 holds the lock, so what outlives the script has to be started with 9>&-.
lock() {
  local python
  python=$(any_python) || exit 1
  exec 9<>"$RUN/scripts.lock"
  "$python" -m common.script_lock "$1" 9
}

# Stops what a supervisord that was killed has left running. Fails if it has left nothing.
stop_leftovers() {
  [ -n "$(leftovers)" ] || return 1
  echo "supervisord is gone without its processes; stopping them."
  end_all "$(leftovers | awk '$1 !~ /^embedded_/ { print $2 }')"
  end_all "$(leftovers | awk '{ print $2 }')"
}

forget_supervisord() {
  rm -f "$RUN/mode" "$RUN/supervisord.pid" "$RUN/supervisor.sock"
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
  local pid limit_s=60
  for pid in $1; do kill "$pid" 2>/dev/null || true; done
  for pid in $1; do wait_for_end "$pid" "$limit_s"; done
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

compose() {
  if docker compose version >/dev/null 2>&1; then
    docker compose "$@"
  elif command -v docker-compose >/dev/null; then
    docker-compose "$@"
  else
    fail "neither 'docker compose' nor docker-compose is installed, see https://docs.docker.com/engine/install/"
  fi
}
