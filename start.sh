#!/usr/bin/env bash
# Starts the pipeline on this machine and waits until it is healthy.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: ./start.sh [--demo] [--docker] [--help]

Starts what is not running yet: a Redis-protocol server and ClickHouse where nothing answers at their addresses, then
the ingesters, the trade processor, the ClickHouse writer and the dashboard, all under supervisord. Running it again
is harmless. ./stop.sh stops it.

  --demo     read simulated sources instead of Polymarket, Goldsky and Polygon; needs no network
  --docker   run everything in containers, with docker compose
  --help     this text

Settings: .env or the environment; see env.example. From the environment alone:
  DATA_DIR           where data and sockets lie (data); live and demo data have directories of their own in it
  SIMULATOR_PORT     port of the simulated sources (8900)
  SIMULATOR_OPTIONS  further options of the simulator, e.g. "--history-hours 1"
  PYTHON             the interpreter to make .venv with
TEXT
}

STAGES="clickhouse_writer trade_processor polymarket_ingester goldsky_ingester polygon_ingester dashboard"
SERVER_LIMIT_S=60
LOADING_LIMIT_S=600 # an embedded ClickHouse with much data answers only once it has loaded it
HEALTH_LIMIT_S=90 # longer than supervisord tries to start a process

main() {
  local docker=no demo=no
  cd "$(dirname "${BASH_SOURCE[0]}")"
  . ./functions.sh
  while [ $# -gt 0 ]; do
    case $1 in
      --demo) demo=yes ;;
      --docker) docker=yes ;;
      --help | -h) usage && exit 0 ;;
      *) usage >&2 && fail "unknown option: $1" 2 ;;
    esac
    shift
  done
  export PIPELINE_MODE=live SIMULATOR_PORT="${SIMULATOR_PORT:-8900}" SIMULATOR_OPTIONS="${SIMULATOR_OPTIONS:-}"
  if [ "$docker" = yes ]; then
    [ "$demo" = no ] || choose_demo "http://simulator:8900"
    start_in_docker
  else
    [ "$demo" = no ] || choose_demo "http://127.0.0.1:$SIMULATOR_PORT"
    start_here
  fi
}

choose_demo() {
  export PIPELINE_MODE=demo POLYMARKET_API_URL="$1/gamma" GOLDSKY_URL="$1/goldsky" POLYGON_RPC_URL="$1/polygon"
  # The exchange's move from V1 to V2 lies in the history: older fills come from the subgraph, later ones from the chain.
  SIMULATOR_OPTIONS="--cutover=-1200s $SIMULATOR_OPTIONS"
  # All of the simulator's history, and looks at the sources as often as its limits allow: a demo is short.
  export ORDER_EVENTS_START="${ORDER_EVENTS_START:-7d}"
  export POLYMARKET_POLL_INTERVAL="${POLYMARKET_POLL_INTERVAL:-5}" GOLDSKY_POLL_INTERVAL="${GOLDSKY_POLL_INTERVAL:-1}"
  export POLYGON_POLL_INTERVAL="${POLYGON_POLL_INTERVAL:-1}"
  echo "Demo: the sources are simulated. Nothing that you will see comes from Polymarket."
}

# --- on this machine -------------------------------------------------------------------------------------------------

# The work goes on in a process group of its own, which ./stop.sh and Ctrl-C end as a whole, whatever it waits for.
start_here() {
  local code=0
  prepare_data_directory
  set -m
  (set +m && start_everything) </dev/null &
  WORK=$!
  set +m
  trap 'end_work 130' INT
  trap 'end_work 143' TERM HUP
  wait "$WORK" || code=$?
  [ $code -ne 143 ] || fail "ended by ./stop.sh" 1
  exit $code
}

end_work() {
  trap '' INT TERM HUP
  while kill -TERM -- "-$WORK" 2>/dev/null; do sleep 0.2; done
  fail "interrupted. ./stop.sh stops what has been started" "$1"
}

start_everything() {
  lock start || fail "ended by ./stop.sh"
  prepare_venv requirements-embedded.txt
  load_settings
  prepare_log_directory
  [ "$PIPELINE_MODE" = live ] || settle_demo
  start_supervisord
  need_server redis embedded_redis "$REDIS_HOST"
  need_server clickhouse embedded_clickhouse "$CLICKHOUSE_HOST"
  .venv/bin/python setup_schema.py || give_up "the tables could not be made; see above" $?
  [ "$PIPELINE_MODE" = live ] || start_simulator
  start_stages
  wait_until_healthy
  report
}

# After something has been started already. What runs is left running, to be looked at.
give_up() {
  fail "$1. ./stop.sh stops what has been started; the logs are in $LOG_DIR" "${2:-1}"
}

# The settings as the processes will see them. What supervisord.conf needs is exported and stays the same until
# ./stop.sh; so are passwords, because the embedded servers ask for the ones that the clients will use.
load_settings() {
  local assignments
  assignments=$(.venv/bin/python -m common.probe settings) || fail "the settings are wrong; see above" 2
  eval "$assignments"
  export REDIS_HOST REDIS_PORT LOG_DIR
  export CLICKHOUSE_HOST CLICKHOUSE_PORT CLICKHOUSE_ALLOWED_HOSTS CLICKHOUSE_UNRESTRICTED
  [ -z "$REDIS_PASSWORD" ] || export REDIS_PASSWORD
  [ -z "$CLICKHOUSE_PASSWORD" ] || export CLICKHOUSE_USER CLICKHOUSE_PASSWORD
}

# Only their owner has access to data and sockets, including those that an older version made.
prepare_data_directory() {
  need_usable_path "the path of this directory" "$(pwd -P)"
  need_usable_path DATA_DIR "${DATA_DIR:=data}"
  [ ! -k "$DATA_DIR" ] || fail "DATA_DIR: $DATA_DIR is shared by all users; name a directory inside it" 2
  mkdir -p "$DATA_DIR/run" "$DATA_DIR/$PIPELINE_MODE" || fail "DATA_DIR: can't create $DATA_DIR" 2
  chmod 700 "$DATA_DIR" "$DATA_DIR/run" "$DATA_DIR/$PIPELINE_MODE" || fail "DATA_DIR: $DATA_DIR is another user's" 2
  find_run_directory "$DATA_DIR"
  DATA_DIR=$(dirname "$RUN")
  export DATA_DIR
  # macOS limits the path of a socket to 103 bytes; supervisord first makes it with its process id at the end.
  [ ${#RUN} -le 78 ] || fail "$RUN is too long a path for a socket; set DATA_DIR to a shorter one" 2
}

prepare_log_directory() {
  need_usable_path LOG_DIR "$LOG_DIR"
  mkdir -p "$LOG_DIR" || fail "LOG_DIR: can't create $LOG_DIR" 2
  LOG_DIR=$(cd "$LOG_DIR" && pwd -P)
  export LOG_DIR
}

# need_usable_path NAME PATH: supervisord replaces %(...)s in paths, and reads its commands with their quotes.
need_usable_path() {
  case $2 in *[%\"\\]*) fail "$1: supervisord can't use a path with %, \" or \\ in it: $2" 2 ;; esac
}

# Settles the simulated data, once for all starts, and exports the cut-over of the pipeline that reads them.
settle_demo() {
  local cutover
  # shellcheck disable=SC2086 # several words
  cutover=$(.venv/bin/python -m simulator --settle --state-file "$DATA_DIR/demo/simulator.json" $SIMULATOR_OPTIONS) ||
    fail "the simulated data could not be settled; see above"
  eval "export $(echo "$cutover" | tr '\n' ' ')"
}

start_supervisord() {
  local mode
  if supervisord_pid >/dev/null; then
    mode=$(cat "$RUN/mode" 2>/dev/null || echo unknown)
    [ "$mode" = "$PIPELINE_MODE" ] || fail "the pipeline is running in $mode mode; run ./stop.sh first"
    echo "The pipeline is running already; starting what is missing."
    return 0
  fi
  stop_leftovers || true
  forget_supervisord
  need_free_port "$DASHBOARD_HOST" "$DASHBOARD_PORT" DASHBOARD_PORT
  [ "$PIPELINE_MODE" = live ] || need_free_port 127.0.0.1 "$SIMULATOR_PORT" SIMULATOR_PORT
  echo "$PIPELINE_MODE" >"$RUN/mode"
  trap '' TERM # ./stop.sh sends it again; until supervisord can be reached, nothing could stop it
  .venv/bin/python -m supervisor.supervisord -c supervisord.conf 9>&- || fail "supervisord did not start; see above"
  wait_for_supervisord
  trap - TERM
}

wait_for_supervisord() {
  local attempt=0
  until supervisord_pid >/dev/null; do
    attempt=$((attempt + 1))
    [ $attempt -le 50 ] || fail "supervisord does not answer; see $RUN/supervisord.log"
    sleep 0.2
  done
}

need_free_port() {
  .venv/bin/python -m common.probe free "$1" "$2" >/dev/null ||
    fail "free that port (another copy of the pipeline?) or set $3 to another one"
}

# need_server PROBE PROGRAM HOST: after it a server is ready; an embedded one, unless somebody else's is there already.
need_server() {
  local name status=0 answer
  name=$(echo "$1" | tr '[:lower:]' '[:upper:]')
  answer=$(.venv/bin/python -m common.probe "$1" 2>&1) || status=$?
  case $status in
    0) echo "$answer" && return 0 ;;
    1) start_server "$2" "$3" "$answer" ;;
    5) ;; # it is loading its data
    6) echo "$answer" >&2 && give_up "the server at ${name}_HOST:${name}_PORT does not work; see above" ;;
    *) give_up "$answer; free that port or set ${name}_PORT to another one" ;;
  esac
  status=0
  wait_for_server "$1" "$2" || status=$?
  [ $status -ne 0 ] || return 0
  if is_local "$3"; then show_log "$2"; fi
  [ $status -ne 6 ] || give_up "the server at ${name}_HOST:${name}_PORT does not work; see above"
  give_up "no server at ${name}_HOST:${name}_PORT"
}

# start_server PROGRAM HOST ANSWER: where one can be started.
start_server() {
  if is_local "$2"; then
    supervisorctl start "$1" >/dev/null || true # whether it answers is what counts
  else
    echo "$3. Waiting up to $SERVER_LIMIT_S s for it; a server can be started only on this machine."
  fi
}

# wait_for_server PROBE PROGRAM: with the exit code of the last probe. An embedded ClickHouse that is loading its tables
# does not listen yet: it is waited for while it runs.
wait_for_server() {
  local pid status deadline=$((SECONDS + LOADING_LIMIT_S)) reported=no
  while :; do
    pid=$(supervisorctl pid "$2" || true) status=0
    .venv/bin/python -m common.probe "$1" --wait "$SERVER_LIMIT_S" || status=$?
    [ $status -eq 1 ] && [ "${pid:-0}" != 0 ] && [ "$pid" = "$(supervisorctl pid "$2" || true)" ] || return $status
    [ $SECONDS -le $deadline ] || return $status
    [ $reported = yes ] || echo "$2 (pid $pid) is loading its data; waiting up to $LOADING_LIMIT_S s for it."
    reported=yes
  done
}

is_local() {
  case $1 in localhost | 127.* | ::1) return 0 ;; *) return 1 ;; esac
}

start_simulator() {
  supervisorctl start simulator >/dev/null || true
  .venv/bin/python -m common.probe http "http://127.0.0.1:$SIMULATOR_PORT/health" --wait 30 >/dev/null && return 0
  show_log simulator
  give_up "the simulator did not start"
}

# All at once: each start waits until the process has proved itself for a second.
start_stages() {
  local stage
  for stage in $STAGES; do
    supervisorctl start "$stage:*" >/dev/null &
  done
  wait
}

wait_until_healthy() {
  local deadline=$((SECONDS + HEALTH_LIMIT_S)) why stage
  until is_healthy; do
    why="not healthy within $HEALTH_LIMIT_S s"
    if [ -n "$(stages_down 'EXITED|FATAL')" ]; then
      why="a process has ended that supervisord does not start again"
    elif [ $SECONDS -le $deadline ]; then
      continue
    fi
    echo "Health: $HEALTH" >&2
    for stage in $(stages_down .); do show_log "$stage"; done
    { echo && supervisorctl status; } >&2 || true
    give_up "$why"
  done
}

# Sets HEALTH to what the dashboard says.
is_healthy() {
  local code=0
  HEALTH=$(.venv/bin/python -m common.probe health --wait 5 2>&1) || code=$?
  works $code && [ -z "$(stages_down .)" ]
}

# works CODE: whether the probe of health found all that runs here well. Sets NOTE: no start here mends a source.
works() {
  NOTE=""
  case $1 in
    0) ;;
    4) NOTE="
            What runs here works; fills arrive as soon as a source brings them." ;;
    *) return 1 ;;
  esac
}

# stages_down STATES: stages of which a process is not running and in one of these states, by name.
stages_down() {
  { supervisorctl status || true; } | awk -v stages="$STAGES" -v states="$1" '
    BEGIN { count = split(stages, names, " "); for (i = 1; i <= count; i++) is_stage[names[i]] = 1 }
    { split($1, name, ":") }
    $2 != "RUNNING" && $2 ~ states && (name[1] in is_stage) { print name[1] }'
}

show_log() {
  echo "--- the last lines of $LOG_DIR/$1.log" >&2
  tail -n 15 "$LOG_DIR/$1.log" >&2 || true
}

report() {
  local of_this_copy="" socket=""
  if [ "$DATA_DIR" != "$(pwd -P)/data" ]; then
    of_this_copy="DATA_DIR=$(printf %q "$DATA_DIR") "
    socket=" -s $(printf %q "unix://$RUN/supervisor.sock")"
  fi
  echo
  supervisorctl status || true # not zero where a server that is not needed is stopped
  cat <<TEXT

Health      $HEALTH$NOTE

Dashboard   http://$DASHBOARD_HOST:$DASHBOARD_PORT
ClickHouse  curl 'http://$CLICKHOUSE_HOST:$CLICKHOUSE_PORT/?query=SELECT+count()+FROM+$CLICKHOUSE_DATABASE.trades'
Redis       $REDIS_HOST:$REDIS_PORT
Processes   .venv/bin/supervisorctl$socket status
Logs        $LOG_DIR
Stop        $of_this_copy./stop.sh
TEXT
  [ "$PIPELINE_MODE" = live ] || echo "Simulator   http://127.0.0.1:$SIMULATOR_PORT (the data is simulated)"
}

# --- in containers ---------------------------------------------------------------------------------------------------

start_in_docker() {
  local profile="" code=0
  [ "$PIPELINE_MODE" = live ] || profile="--profile demo"
  [ "$PIPELINE_MODE" = live ] || settle_demo_in_docker
  # shellcheck disable=SC2086 # two words, or none
  compose $profile up -d --build --remove-orphans || fail "docker compose failed; see above"
  HEALTH=$(compose exec -T dashboard python -m common.probe health --wait "$HEALTH_LIMIT_S") || code=$?
  if ! works $code; then
    compose ps >&2
    compose logs --tail 15 >&2
    fail "not healthy within $HEALTH_LIMIT_S s. ./stop.sh --docker stops what has been started"
  fi
  compose ps
  cat <<TEXT

Health      $HEALTH$NOTE

Dashboard   http://$(compose port dashboard 8000)
ClickHouse  curl 'http://$(compose port clickhouse 8123)/?query=SELECT+count()+FROM+polymarket.trades'
Stop        ./stop.sh --docker
TEXT
  [ "$PIPELINE_MODE" = live ] || echo "Simulator   http://$(compose port simulator 8900) (the data is simulated)"
}

settle_demo_in_docker() {
  local cutover
  compose --profile demo build simulator || fail "docker compose failed; see above"
  # shellcheck disable=SC2086 # several words
  cutover=$(compose --profile demo run --rm --no-deps -T simulator \
    python -m simulator --settle --state-file /state/simulator.json $SIMULATOR_OPTIONS) ||
    fail "the simulated data could not be settled; see above"
  eval "export $(echo "$cutover" | tr '\r\n' '  ')"
}

main "$@"
