#!/bin/sh
# Compile a kernel as Jittor's asm_tuner.py does that finds nothing to rewrite, without a start of Python.
# Usage: compile_kernel.sh --python=PYTHON SCRIPT --cc_path=COMPILER SOURCE FLAG... -o LIBRARY
#
# The library appears under its name when it is complete, in the place of another user's too. Jittor's other scripts are
# handed to Python.

python=${1#--python=}
shift
case $1 in
*/asm_tuner.py) ;;
*) exec "$python" "$@" ;;
esac

compiler=${2#--cc_path=}
shift 2
left=$#
while [ "$left" -gt 1 ]; do
  set -- "$@" "$1"
  shift
  left=$((left - 1))
done
library=$1
shift

trap 'rm -f "$library.$$"' EXIT
trap 'exit 1' HUP INT QUIT TERM
"$compiler" -g "$@" "$library.$$" && mv -f "$library.$$" "$library"
