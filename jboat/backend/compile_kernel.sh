#!/bin/sh
# Compile a kernel as Jittor's asm_tuner.py does that finds nothing to rewrite, without a start of Python.
# Usage: compile_kernel.sh --python=PYTHON --libraries=few|all SCRIPT --cc_path=COMPILER SOURCE FLAG... -o LIBRARY
#
# The library appears under its name when it is complete, in the place of another user's too. With few libraries, those
# that Jittor's process has loaded for all are not linked, which takes a quarter of a kernel's time. Jittor's other
# scripts are handed to Python.

python=${1#--python=}
libraries=${2#--libraries=}
shift 2
case $1 in
*/asm_tuner.py) ;;
*) exec "$python" "$@" ;;
esac

compiler=${2#--cc_path=}
shift 2
left=$#
while [ "$left" -gt 1 ]; do
  case $libraries$1 in
  few-lstdc++ | few-ldl | few-l:jit_utils_core.* | few-l:jittor_core.*) ;;
  *) set -- "$@" "$1" ;;
  esac
  shift
  left=$((left - 1))
done
library=$1
shift

trap 'rm -f "$library.$$"' EXIT
trap 'exit 1' HUP INT QUIT TERM
case $libraries in
few) "$compiler" -g -nodefaultlibs "$@" "$library.$$" -lm -lgcc -lc ;;
*) "$compiler" -g "$@" "$library.$$" ;;
esac && mv -f "$library.$$" "$library"
