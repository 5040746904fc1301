#!/usr/bin/env bash
# Makes a virtual environment with everything that the tests need, and runs them. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
venv="${EDGEFACE_VENV:-.venv-dev}"
python="${PYTHON:-python3}"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# What is imported is compiled once, whatever the shell says of that, and kept apart from the sources. Without it, torch
# takes every process 3.6 s in place of 1.7, and a source of frames takes its own .36 s in place of .15.
unset PYTHONDONTWRITEBYTECODE
PYTHONPYCACHEPREFIX="$("$venv/bin/python" -c "import sys; print(sys.prefix)")/pycache"
export PYTHONPYCACHEPREFIX
# Again only where something that pip would see is newer: the folder may have moved as well.
installed="$venv/installed-from"
if [ "$(cat "$installed" 2>/dev/null)" != "$PWD" ] || [ -n "$(find test.sh pyproject.toml CMakeLists.txt \
    edgeface/runtime/kernels/*.[ch] -newer "$installed" -print -quit)" ]; then
  # Not compiled, which is a minute for packages of which the tests import a part.
  # torch is asked for first and exactly: it exists as a wheel without CUDA, and pnnx would pull in the newest with it.
  "$venv/bin/python" -m pip install --quiet --no-compile "torch==2.13.0"
  "$venv/bin/python" -m pip install --quiet --no-compile -e ".[dev]"
  echo "$PWD" > "$installed"
fi
# Small nets gain nothing from threads, and threads that wait for a busy core cost minutes.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# A board has one pytest, which keeps its workers. Elsewhere each core has one, and there is one more for the time that
# others wait for a process or a deadline; files stay together for their fixtures.
workers="$("$venv/bin/python" -c "import os; print(min(8, len(os.sched_getaffinity(0)) + 1))")"
case " $* " in
  *" --device"*) parallel=() ;;
  # Not in the order of their numbers of tests: files of few and long ones would come last, on one core.
  *) parallel=(--numprocesses "$workers" --dist loadgroup --no-loadscope-reorder) ;;
esac
"$venv/bin/python" -m pytest ${parallel[@]+"${parallel[@]}"} "$@"
