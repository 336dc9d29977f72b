#!/bin/sh
# Build the C extension with address and undefined-behaviour sanitizers, apart from any other
# build, and run the codec's tests with it: scripts/sanitize.sh [arguments of pytest]
#
# The first finding ends the run. CC, PYTHON and SANITIZE_TESTS may be set; the compiler's own
# runtime is loaded first, because Python was not built with it. Where there is no compiler with
# sanitizers, nothing is tested, and a line says so.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
python=${PYTHON:-python3}
cc=${CC:-gcc}
unit=tests/unit/test_huffman
tests=${SANITIZE_TESTS:-${unit}_codec.py ${unit}_v2.py ${unit}_copies.py ${unit}_threads.py tests/property/test_codec_v2.py}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
case $python in
    */*) python=$(CDPATH='' cd -- "$(dirname -- "$python")" && pwd)/$(basename -- "$python") ;;
esac

sanitizers="-fsanitize=address,undefined -fno-sanitize-recover=all"
echo 'int main(void) { return 0; }' >"$work/probe.c"
# shellcheck disable=SC2086 # several options
if ! "$cc" $sanitizers "$work/probe.c" -o "$work/probe" 2>/dev/null || ! "$work/probe"; then
    echo "sanitize: skipped, $cc does not build programs with address and undefined-behaviour sanitizers"
    exit 0
fi
asan=$("$cc" -print-file-name=libasan.so)
ubsan=$("$cc" -print-file-name=libubsan.so)
if [ ! -e "$asan" ] || [ ! -e "$ubsan" ]; then
    echo "sanitize: skipped, $cc has no shared libasan and libubsan to load before Python"
    exit 0
fi

# The golden files, where they are.
if [ -z "${LIX_CACHE_SHARED:-}" ] && [ -d "$root/../shared" ]; then
    LIX_CACHE_SHARED=$root/../shared
    export LIX_CACHE_SHARED
fi

# A copy of what is needed: an extension that was built in place would be found before this one.
mkdir "$work/src"
cp -R "$root/lix_cache" "$root/tests" "$root/pyproject.toml" "$work/src"
find "$work/src" \( -name '*.so' -o -name '*.pyd' -o -name __pycache__ \) -prune -exec rm -rf {} +

suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
if [ ! -e "$include/Python.h" ]; then
    echo "sanitize: skipped, $python came without Python.h"
    exit 0
fi
cd "$work/src"
# shellcheck disable=SC2086 # several options
"$cc" -shared -fPIC -O1 -g -fno-omit-frame-pointer -Wall -Wextra -Wno-missing-field-initializers \
    $sanitizers \
    -I"$include" lix_cache/huffman_codec/_speedups.c -o "lix_cache/huffman_codec/_speedups$suffix"

# Hypothesis compares with the Python kernel, which sanitizers make slow: fewer examples here.
export LIX_CACHE_FUZZ_EXAMPLES="${LIX_CACHE_FUZZ_EXAMPLES:-40}"
# Python leaves memory to the system when it ends, and caches small objects in arenas of its
# own, in which an error would not be seen. The tests of the Python kernel have nothing to find.
# shellcheck disable=SC2086 # several tests
LD_PRELOAD="$asan $ubsan" \
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1 \
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    PYTHONMALLOC=malloc LIX_CACHE_REQUIRE_C=1 PYTHONPATH="$work/src" PYTHONDONTWRITEBYTECODE=1 \
    "$python" -m pytest -p no:cacheprovider --timeout 1200 -k "not python" $tests "$@"
