#!/usr/bin/env bash
# Makes a virtual environment with everything that the tests need, and runs them. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
venv="${EDGEFACE_VENV:-.venv-dev}"
python="${PYTHON:-python3}"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
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
# A board has one pytest, which keeps its workers. Elsewhere each core has one; files stay together for their fixtures.
case " $* " in
  *" --device"*) parallel=() ;;
  # Not in the order of their numbers of tests: files of few and long ones would come last, on one core.
  *) parallel=(--numprocesses auto --maxprocesses 8 --dist loadgroup --no-loadscope-reorder) ;;
esac
"$venv/bin/python" -m pytest ${parallel[@]+"${parallel[@]}"} "$@"
