#!/usr/bin/env bash
# Checks everything: style, types, architecture, tests. They start servers of their own on free ports.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: ./test.sh [all|lint|unit|contract|integration|faults] [arguments of pytest]
       ./test.sh chaos [--seed S] [--seconds N] [--kills K] [--help]
       ./test.sh mutations [words of their names]

  ./test.sh                     everything
  ./test.sh lint                ruff, mypy --strict and the rules on imports
  ./test.sh unit -k parsing     one part of the tests, or some of its tests
  ./test.sh chaos --seed 1 --seconds 120 --kills 30
                                the pipeline as real processes under random faults; ends with one line of JSON
  ./test.sh mutations           breaks each safety line in turn and names the test that notices
TEXT
}

FAILED=""
# Most tests wait for servers most of the time. In the order of their paths: the quick ones, of tests/unit, come last.
PARALLEL=(-n 3 --dist loadfile --no-loadscope-reorder)

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")"
  . ./functions.sh
  local part=all
  case ${1:-} in
    all | lint | unit | contract | integration | faults | chaos | mutations) part=$1 && shift ;;
    --help | -h) usage && exit 0 ;;
  esac
  prepare_venv requirements-dev.txt
  case $part in
    all)
      lint
      check "tests" pytest "${PARALLEL[@]}" "$@"
      ;;
    lint) lint ;;
    chaos) exec .venv/bin/python -m tests.faults.chaos "$@" ;;
    mutations) exec .venv/bin/python -m tests.faults.mutations "$@" ;;
    *) check "tests/$part" pytest "${PARALLEL[@]}" "tests/$part" "$@" ;;
  esac
  summary
}

lint() {
  check "ruff check" ruff check .
  check "ruff format" ruff format --check .
  check "mypy" mypy
  check "imports" lint-imports
}

# check NAME TOOL ARGUMENTS: runs a tool of .venv; a failure is kept for the summary, and the next check still runs.
check() {
  local name=$1
  shift
  echo "=== $name"
  ".venv/bin/$1" "${@:2}" || FAILED="$FAILED $name,"
}

summary() {
  if [ -n "$FAILED" ]; then
    echo "=== FAILED:${FAILED%,} (after $SECONDS s)"
    exit 1
  fi
  echo "=== all passed (after $SECONDS s)"
}

main "$@"
