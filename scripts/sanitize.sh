#!/bin/sh
# Build the C extension with address and undefined-behaviour sanitizers, apart from any other
# build, and run the codec's tests with it: scripts/sanitize.sh [arguments of pytest]
#
# The first finding ends the run. CC, PYTHON and SANITIZE_TESTS may be set; the compiler's own
# runtime is loaded first, because Python was not built with it.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
python=${PYTHON:-python3}
cc=${CC:-gcc}
tests=${SANITIZE_TESTS:-tests/unit/test_huffman_codec.py tests/unit/test_huffman_v2.py tests/unit/test_huffman_copies.py tests/property/test_codec_v2.py}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

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
cd "$work/src"
"$cc" -shared -fPIC -O1 -g -fno-omit-frame-pointer -Wall -Wextra -Wno-missing-field-initializers \
    -fsanitize=address,undefined -fno-sanitize-recover=all \
    -I"$include" lix_cache/huffman_codec/_speedups.c -o "lix_cache/huffman_codec/_speedups$suffix"

asan=$("$cc" -print-file-name=libasan.so)
ubsan=$("$cc" -print-file-name=libubsan.so)
# Python leaves memory to the system when it ends, and caches small objects in arenas of its
# own, in which an error would not be seen.
# shellcheck disable=SC2086 # several tests
LD_PRELOAD="$asan $ubsan" \
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1 \
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    PYTHONMALLOC=malloc LIX_CACHE_REQUIRE_C=1 PYTHONPATH="$work/src" PYTHONDONTWRITEBYTECODE=1 \
    "$python" -m pytest -p no:cacheprovider --timeout 1200 $tests "$@"
