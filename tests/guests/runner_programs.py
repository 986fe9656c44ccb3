"""Small guest programs for the runner's tests, written into a directory."""

from pathlib import Path

_HEAD = '.include "lib/kernel.inc"\n.text\nmain:\n'
PROGRAMS = {
    "good/pass.asm": "; cowbird: description = passes\n"
    + _HEAD
    + '    ktap_plan 1\n    ktap_result 0, "fine"\n    ret\n',
    "good/two.asm": "; cowbird: domains = 2\n; cowbird: cmdline.2 = bad\n"
    + "; cowbird: expected = FAIL\n"
    + _HEAD
    + """\
    ktap_plan 1
    xor  ebx, ebx
    param_is "bad"
    setz bl
    ktap_result rbx, "not called bad"
    ret
""",
    "good/crash.asm": "; cowbird: expected = CRASH\n; cowbird: description = no stack\n"
    + _HEAD
    + "    xor esp, esp\n    push rax\n",
    "bad/fault.asm": "; cowbird: description = reads what is not mapped\n"
    + _HEAD
    + "    ktap_plan 1\n    mov rax, [0x1234]\n    ret\n",
    "bad/fail.asm": "; cowbird: description = fails\n"
    + _HEAD
    + '    ktap_plan 1\n    mov ebx, 7\n    ktap_result rbx, "seven"\n    ret\n',
    "bad/silent.asm": "; cowbird: description = says nothing\n" + _HEAD + "    ret\n",
    "bad/loop.asm": "; cowbird: limit = 1M\n" + _HEAD + "1:  jmp 1b\n",
    "bad/flood.asm": "; cowbird: limit = 3M\n"
    + _HEAD
    + '    ktap_plan 1\n1:  print_line "ooooooooooooooooooooooooooooooooooooooo"\n    jmp 1b\n',
    "bad/twice.asm": "; cowbird: seed = 3\n"
    + _HEAD
    + '    print_line "Test result: SUCCESS"\n    print_line "Test result: FAILURE"\n    ret\n',
    "bad/syntax.asm": "; cowbird: seed = 3\n" + _HEAD + "    move rax, rbx\n",
    "bad/manifest.asm": "; cowbird: color = red\n" + _HEAD + "    ret\n",
    "bad/module.asm": "; cowbird: module = missing.bin\n" + _HEAD + "    ret\n",
    "bad/words.c": "// cowbird: description = does not compile\nint main(void) { return x; }\n",
}
VERDICTS = {
    "good/pass": "PASS",
    "good/two": "FAIL",
    "good/crash": "CRASH",
    "bad/fault": "CRASH",
    "bad/fail": "FAIL",
    "bad/silent": "CRASH",
    "bad/loop": "TIMEOUT",
    "bad/flood": "TIMEOUT",
    "bad/twice": "ERROR",
    "bad/syntax": "ERROR",
    "bad/manifest": "ERROR",
    "bad/module": "ERROR",
    "bad/words": "ERROR",
}
"""What each must come to on this hypervisor."""


def write(directory: Path, *names: str) -> Path:
    """Write some programs, or all; returns ``directory``."""
    for name in names or PROGRAMS:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PROGRAMS[name])
    return directory
