# What start.sh, stop.sh and test.sh share. Sourced by them, once they have changed into the project's directory.
# shellcheck shell=bash

fail() {
  echo "$(basename "$0"): $1" >&2
  exit "${2:-1}"
}

# prepare_venv REQUIREMENTS: after it, .venv holds what REQUIREMENTS lists. Does nothing while that file is unchanged.
prepare_venv() {
  local requirements=$1 mark
  mark=$(requirements_mark)
  if .venv/bin/python -c '' 2>/dev/null; then
    # requirements-dev.txt includes all the others.
    [ "$(cat ".venv/$requirements.mark" 2>/dev/null)" = "$mark" ] && return 0
    [ "$(cat .venv/requirements-dev.txt.mark 2>/dev/null)" = "$mark" ] && return 0
  else
    make_venv
  fi
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

compose() {
  if docker compose version >/dev/null 2>&1; then
    docker compose "$@"
  elif command -v docker-compose >/dev/null; then
    docker-compose "$@"
  else
    fail "neither 'docker compose' nor docker-compose is installed, see https://docs.docker.com/engine/install/"
  fi
}
