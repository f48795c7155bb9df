"""Processors that one machine can stand in for, as environment variables.

    python -m tests.processors                      the names, and what each sets
    python -m tests.processors avx2 -- pytest -q    run a command as on that processor

oneDNN and ATen, the two libraries that compute for torch, can be limited to fewer instructions than the processor has. What `torch.cpu.get_capabilities`
says does not follow them, so `UNETKIT_BFLOAT16` tells unetkit whether "auto" may choose bfloat16. A machine that lacks an instruction set ignores the limit."""

import os
import subprocess
import sys

PROCESSORS = {
    'native': {},
    'sse41': {'ONEDNN_MAX_CPU_ISA': 'SSE41', 'ATEN_CPU_CAPABILITY': 'default', 'UNETKIT_BFLOAT16': '0'},
    'avx2': {'ONEDNN_MAX_CPU_ISA': 'AVX2', 'ATEN_CPU_CAPABILITY': 'avx2', 'UNETKIT_BFLOAT16': '0'},
    'avx512': {'ONEDNN_MAX_CPU_ISA': 'AVX512_CORE', 'UNETKIT_BFLOAT16': '0'},
    'bfloat16': {'UNETKIT_BFLOAT16': '1'},  # "auto" is bfloat16, also where that is slower than float32
    'one_thread': {'OMP_NUM_THREADS': '1'},
    'four_threads': {
        'OMP_NUM_THREADS': '4',
        'OMP_WAIT_POLICY': 'passive',
    },  # threads that wait take no core from others
}
LIMITS = {name for variables in PROCESSORS.values() for name in variables}


def environment(name):
    "The environment of this process, with the limits of one processor and of no other."
    if name not in PROCESSORS:
        raise SystemExit(f"there is no processor {name!r}: choose from {', '.join(PROCESSORS)}")
    others = LIMITS - {'OMP_NUM_THREADS'}  # how many threads there are is a choice of its own
    kept = {key: value for key, value in os.environ.items() if key not in others}
    return kept | PROCESSORS[name]


def main(words):
    if not words:
        for name, variables in PROCESSORS.items():
            print(f'{name:13}', *(f'{key}={value}' for key, value in variables.items()))
        return 0
    name, *command = words
    command = command[1:] if command[:1] == ['--'] else command
    return subprocess.run(command or ['pytest'], env=environment(name)).returncode


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
